"""CxGrad against a slow reference and finite differences; what the scaling of convolutions does and does not change."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, conv4, dense, learner
from torch import Tensor
from unrolled import (
    ORDERS,
    TRAINING,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_orders_differ_in_the_gradient_only,
    beside_theta,
    everything,
    expected_gradient,
    finite_difference_error,
    no_norm,
    outer_gradient,
    predict,
    query_loss,
    relative_error,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.models.passes import Pass
from raymeta.problem import Task

IMAGES = Random((1, 16, 16))
ALPHA, BETA, SIZE, EPS = 0.125, 2.0, 6, 0.05  # an eps at which the context has a gradient worth the name


def cxgrad(*, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    network = {"name": "conv4", "width": 4, "norm_eps": EPS, **(model or {})}
    own_settings = {"inner_lr": ALPHA, "context_lr": BETA, "context_size": SIZE, "inner_steps": 2, **settings}
    return learner(IMAGES, method="cxgrad", model=network, cxgrad=own_settings)


def scaled(weights: Weights, nu: Tensor, own: Weights) -> Weights:
    result = dict(weights)
    for i, g in enumerate(F.softplus(dense(own, "generator.", nu))):
        convolution = weights[f"block{i + 1}.weight"]
        result[f"block{i + 1}.weight"] = g * convolution / torch.sqrt((convolution**2).sum())
    return result


def unrolled(
    theta: Weights,
    own: Weights,
    task: Task,
    *,
    order: str,
    steps: int = 2,
    adapted: Any = no_norm,
    constant: bool = True,
) -> Tensor:
    names, network = list(filter(adapted, theta)), conv4(slope=0.01, eps=EPS)
    nu = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    support_loss = F.cross_entropy(network(task.support.x, scaled(theta, nu, own), 0, None), task.support.y)
    (first,) = torch.autograd.grad(support_loss, nu, create_graph=True)
    nu = nu - BETA * (first.detach() if constant else first)
    fast = theta
    for _ in range(steps):
        fast = {name: weight.clone() for name, weight in scaled(fast, nu, own).items()}
        support_loss = F.cross_entropy(network(task.support.x, fast, 0, None), task.support.y)
        found = torch.autograd.grad(support_loss, [*(fast[name] for name in names), nu], create_graph=True)
        found = found if order == "second" else [tensor.detach() for tensor in found]
        fast = {**fast, **{name: fast[name] - ALPHA * g for name, g in zip(names, found[:-1], strict=True)}}
        nu = nu - BETA * found[-1]
    return query_loss(network, fast, task)


@ORDERS
@pytest.mark.parametrize(("steps", "adapt_norm"), [(1, False), (3, False), (2, True)])
def test_outer_gradient_is_the_references(order: str, steps: int, adapt_norm: bool) -> None:
    method = cxgrad(order=order, inner_steps=steps, adapt_norm=adapt_norm)
    loss = partial(unrolled, order=order, steps=steps, adapted=everything if adapt_norm else no_norm)
    assert_gradient(method, IMAGES.tasks(2), loss)


def test_the_first_step_of_the_context_is_a_constant_to_the_outer_gradient() -> None:
    method, tasks = cxgrad(), IMAGES.tasks(1)
    _, found = outer_gradient(method, tasks)
    _, through = expected_gradient(method, tasks, partial(unrolled, order="second", constant=False))
    ours, others = ({name: g[name] for name in filter(beside_theta, g)} for g in (found, through))
    assert relative_error(ours, others, floor=1) > 1e-5


def test_orders_differ() -> None:
    assert_orders_differ_in_the_gradient_only(cxgrad, IMAGES.tasks(1))


def test_gradient_for_the_generator_is_the_finite_difference() -> None:
    """Where the context stays at zero, so that no part of the loss is taken as a constant."""
    method = cxgrad(model={"width": 2}, context_size=3, context_lr=0.0)
    assert finite_difference_error(method, IMAGES.tasks(1), beside_theta) < 1e-7


def test_scaling_leaves_the_logits_alone_but_for_eps() -> None:
    (task,) = IMAGES.tasks(1)

    def apart(eps: float) -> float:
        plain, steps = (
            predict(cxgrad(model={"norm_eps": eps}, inner_lr=0.0, inner_steps=steps), task, TRAINING)
            for steps in (0, 3)
        )
        return float((plain - steps).detach().norm() / plain.detach().norm())

    assert apart(1e-13) < 1e-9
    assert apart(1e-2) > 1e-5


def convolution_gradients(gamma: float) -> tuple[Weights, Weights]:
    """A step from convolutions of norm gamma: where it starts and the gradient that it follows."""
    method, (task,) = cxgrad(model={"norm_eps": 1e-13}, inner_steps=1, context_lr=0.0), IMAGES.tasks(1)
    with torch.no_grad():
        method.generator[2].weight.zero_()
        method.generator[2].bias.fill_(torch.tensor(gamma).double().expm1().log())  # softplus of it is gamma
        names = [f"block{i}.weight" for i in (1, 2, 3, 4)]
        start = {name: gamma * w / w.norm() for name, w in method.model.weights().items() if name in names}
        end = method.adapt(task.support, TRAINING).weights
    return start, {name: (start[name] - end[name]) / ALPHA for name in names}


def test_gradients_of_convolutions_grow_as_gamma_shrinks() -> None:
    (_, one), (_, half) = convolution_gradients(1.0), convolution_gradients(0.5)
    assert min(float(g.norm()) for g in one.values()) > 1e-4
    assert relative_error(half, {name: 2 * g for name, g in one.items()}) < 1e-6


def test_the_context_has_a_gradient_through_eps_only() -> None:
    (task,) = IMAGES.tasks(1)

    def size(eps: float) -> float:
        method = cxgrad(model={"norm_eps": eps})
        nu = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        weights = method.scale(method.model.weights(), nu)
        logits = method.model(method.model.prepare(task.support.x), weights, Pass())
        return float(torch.autograd.grad(F.cross_entropy(logits, task.support.y), nu)[0].norm())

    sizes = [size(eps) for eps in (1e-5, 1e-7, 1e-9)]
    assert sizes[0] > 1e-6
    for larger, smaller in pairwise(sizes):
        assert smaller == pytest.approx(larger / 100, rel=0.05)


def test_the_generator_learns_where_the_context_hardly_moves() -> None:
    _, found = outer_gradient(cxgrad(model={"norm_eps": 1e-9}), IMAGES.tasks(2))
    assert float(found["generator.2.bias"].norm()) > 1e-3
    assert float(found["generator.0.bias"].norm()) > 1e-4


def test_convolutions_have_no_bias() -> None:
    assert parse_trial({"method": "cxgrad"}).model.conv_bias is False
    assert parse_trial({"method": "maml", "model": {"name": "conv4"}}).model.conv_bias is True
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "cxgrad", "model": {"name": "conv4", "conv_bias": True}}), IMAGES)
    assert str(caught.value) == (
        "model.conv_bias: found true, but cxgrad scales convolutions whose norm undoes it; use false"
    )


def test_evaluation_only_predicts() -> None:
    assert_evaluation_only_predicts(cxgrad(), IMAGES.tasks(3))


@ORDERS
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_tasks_batched_are_tasks_looped_over(order: str, adapt_norm: bool) -> None:
    assert_batched_is_looped(cxgrad(order=order, adapt_norm=adapt_norm), IMAGES.tasks(3))
