"""CxGrad against a slow reference and finite differences; what the scaling of convolutions does and does not change."""

from itertools import pairwise
from typing import Any

import episodic
import pytest
import torch
import torch.nn.functional as F
from episodic import TRAINING, gradient, maps, own, predict, reference_gradient
from reference import Random, Task, Weights, learner, relative_error
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.method import Method, build_method
from raymeta.norm import Pass

IMAGES = Random((1, 16, 16))
ALPHA, BETA, SIZE, EPS = 0.125, 2.0, 6, 0.05  # an eps at which the context has a gradient worth the name


def cxgrad(*, model: dict[str, Any] | None = None, **settings: Any) -> Method:
    network = {"name": "conv4", "width": 4, "norm_eps": EPS, **(model or {})}
    own_settings = {"inner_lr": ALPHA, "context_lr": BETA, "context_size": SIZE, "inner_steps": 2, **settings}
    return learner(IMAGES, method="cxgrad", model=network, cxgrad=own_settings)


def network(x: Tensor, weights: Weights) -> Tensor:
    features = maps(x, weights, slope=0.01, eps=EPS, prefix="").flatten(1)
    return features @ weights["head.weight"].T + weights["head.bias"]


def scaled(weights: Weights, nu: Tensor, generator: Weights) -> Weights:
    hidden = F.relu(generator["generator.0.weight"] @ nu + generator["generator.0.bias"])
    gamma = F.softplus(generator["generator.2.weight"] @ hidden + generator["generator.2.bias"])
    result = dict(weights)
    for i, g in enumerate(gamma):
        convolution = weights[f"block{i + 1}.weight"]
        result[f"block{i + 1}.weight"] = g * convolution / torch.sqrt((convolution**2).sum())
    return result


def unrolled(
    weights: Weights, task: Task, *, second_order: bool, steps: int = 2, adapt_norm: bool = False, constant: bool = True
) -> Tensor:
    support_x, support_y, query_x, query_y = task
    fast = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    names = [name for name in fast if adapt_norm or ".norm." not in name]
    nu = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    support_loss = F.cross_entropy(network(support_x, scaled(fast, nu, weights)), support_y)
    (first,) = torch.autograd.grad(support_loss, nu, create_graph=True)
    nu = nu - BETA * (first.detach() if constant else first)
    for _ in range(steps):
        fast = {name: weight.clone() for name, weight in scaled(fast, nu, weights).items()}
        support_loss = F.cross_entropy(network(support_x, fast), support_y)
        found = torch.autograd.grad(support_loss, [*(fast[name] for name in names), nu], create_graph=True)
        found = found if second_order else [tensor.detach() for tensor in found]
        fast = {**fast, **{name: fast[name] - ALPHA * g for name, g in zip(names, found[:-1], strict=True)}}
        nu = nu - BETA * found[-1]
    return F.cross_entropy(network(query_x, fast), query_y)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("steps", "adapt_norm"), [(1, False), (3, False), (2, True)])
def test_outer_gradient_is_the_references(order: str, steps: int, adapt_norm: bool) -> None:
    method = cxgrad(order=order, inner_steps=steps, adapt_norm=adapt_norm)

    def loss(weights: Weights, task: Task) -> Tensor:
        return unrolled(weights, task, second_order=order == "second", steps=steps, adapt_norm=adapt_norm)

    episodic.assert_gradient(method, IMAGES.tasks(2), loss)


def test_the_first_step_of_the_context_is_a_constant_to_the_outer_gradient() -> None:
    method, tasks = cxgrad(), IMAGES.tasks(1)
    _, found = gradient(method, tasks)
    _, through = reference_gradient(method, tasks, lambda w, t: unrolled(w, t, second_order=True, constant=False))
    assert relative_error(own(found), own(through)) > 1e-5


def test_orders_differ() -> None:
    first, second = (cxgrad(order=order) for order in ("first", "second"))
    episodic.assert_orders_differ_in_the_gradient_only(first, second, IMAGES.tasks(1))


def test_gradient_for_the_generator_is_the_finite_difference() -> None:
    """Where the context stays at zero, so that no part of the loss is taken as a constant."""
    method = cxgrad(model={"width": 2}, context_size=3, context_lr=0.0)
    names = [name for name, _ in method.named_parameters() if name.startswith("generator")]
    assert len(names) == 4
    episodic.assert_finite_differences(method, IMAGES.tasks(1), names)


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
        end = method.adapt(*task[:2], TRAINING).weights
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
        logits = method.model(method.model.prepare(task[0]), weights, Pass())
        return float(torch.autograd.grad(F.cross_entropy(logits, task[1]), nu)[0].norm())

    sizes = [size(eps) for eps in (1e-5, 1e-7, 1e-9)]
    assert sizes[0] > 1e-6
    for larger, smaller in pairwise(sizes):
        assert smaller == pytest.approx(larger / 100, rel=0.05)


def test_the_generator_learns_where_the_context_hardly_moves() -> None:
    _, found = gradient(cxgrad(model={"norm_eps": 1e-9}), IMAGES.tasks(2))
    assert float(found["generator.2.bias"].norm()) > 1e-3
    assert float(found["generator.0.bias"].norm()) > 1e-4


def test_convolutions_have_no_bias() -> None:
    assert parse_trial({"method": "cxgrad"}).model.conv_bias is False
    assert parse_trial({"method": "maml", "model": {"name": "conv4"}}).model.conv_bias is True
    with pytest.raises(UserError) as caught:
        build_method(parse_trial({"method": "cxgrad", "model": {"name": "conv4", "conv_bias": True}}), IMAGES)
    assert str(caught.value) == (
        "model.conv_bias: found true, but cxgrad scales convolutions whose norm undoes it; use false"
    )


def test_evaluation_is_clean() -> None:
    episodic.assert_evaluation_is_clean(cxgrad(), IMAGES.tasks(3))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_batched_tasks_are_looped_tasks(order: str, adapt_norm: bool) -> None:
    episodic.assert_batched_is_looped(cxgrad(order=order, adapt_norm=adapt_norm), IMAGES.tasks(3))
