"""ModGrad's two forms against slow references and finite differences; MAML where the modulation is 1."""

import sys
from functools import partial
from typing import Any

import pytest
import torch
from reference import Random, Weights, conv4, dense, learner, mlp
from torch import Tensor
from unrolled import (
    EVALUATION,
    ORDERS,
    TRAINING,
    Rule,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_orders_differ_in_the_gradient_only,
    assert_same,
    beside_theta,
    everything,
    finite_difference_error,
    no_norm,
    outer_gradient,
    query_loss,
    relative_error,
    support_gradient,
    unroll,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Task

IMAGES, CURVES = Random((1, 16, 16)), Random((4,), "values")
ALPHA, BETA, SIZE = 0.125, 2.0, 6


def modgrad(
    problem: Random = IMAGES, *, model: dict[str, Any] | None = None, variant: str = "paper", **settings: Any
) -> Learner:
    """With factors several times their initial size, or they would hardly matter."""
    network = {"name": "conv4", "width": 4} if problem is IMAGES else {"name": "mlp", "hidden": [7, 5]}
    own = {
        "inner_lr": ALPHA,
        "context_lr": BETA,
        "context_size": SIZE,
        "inner_steps": 2,
        "variant": variant,
        **settings,
    }
    method = learner(problem, method="modgrad", model={**network, **(model or {})}, modgrad=own)
    with torch.no_grad():
        if variant == "paper":
            method.factors.weight *= 30
        for name, parameter in method.named_parameters():
            if name.startswith("modulation."):
                parameter *= 2
    return method


def code(problem: Random = IMAGES, **settings: Any) -> Learner:
    return modgrad(problem, variant="code", **{"factors": 3, **settings})


def modulated(own: Weights, nu: Tensor) -> Rule:
    """A step of the rule."""

    def update(step: int, moving: Weights, gradients: Weights) -> Weights:
        made, used, new = dense(own, "", nu), 0, {}
        for name, g in gradients.items():
            if g.ndim > 1:
                rows, columns = len(g), g[0].numel()
                u, v = made[used : used + rows], made[used + rows : used + rows + columns]
                used += rows + columns
                g = g * (1 + (u[:, None] * v[None, :]).reshape(g.shape))
            new[name] = moving[name] - ALPHA * g
        assert used == len(made)
        return new

    return update


@ORDERS
@pytest.mark.parametrize(("problem", "adapt_norm"), [(IMAGES, False), (IMAGES, True), (CURVES, False)])
def test_outer_gradient_is_the_references(order: str, problem: Random, adapt_norm: bool) -> None:
    method, network = modgrad(problem, order=order, adapt_norm=adapt_norm), conv4() if problem is IMAGES else mlp

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        settings: Any = {"order": order, "adapted": everything if adapt_norm else no_norm}
        nu = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        after = unroll(network, theta, task, modulated(own, nu), steps=1, **settings)[-1]
        support_loss = query_loss(network, after, Task(task.support, task.support))
        (found,) = torch.autograd.grad(support_loss, nu, create_graph=True)
        nu = nu - BETA * (found if order == "second" else found.detach())
        return unrolled_loss(network, theta, task, modulated(own, nu), steps=2, **settings)

    assert_gradient(method, problem.tasks(2), loss)


def mixed(own: Weights, maker: str, nu: Tensor, factors: int) -> Tensor:
    """The vector that an MLP of the authors' makes, number by number."""
    made = dense(own, f"modulation.{maker}.", nu)
    shares, size = torch.exp(made[:factors]) / torch.exp(made[:factors]).sum(), len(made) // factors - 1
    return sum(shares[m] * made[factors + m * size : factors + (m + 1) * size] for m in range(factors))  # type: ignore[return-value]


def by_code(theta: Weights, g: Weights, own: Weights, nu: Tensor, factors: int) -> Weights:
    """The weights after the modulation by nu; a kernel's numbers one after the other."""
    moved = dict(theta)
    for name, gradient in g.items():
        place = name.split(".")[0][-1]
        if gradient.ndim == 1:
            scales = mixed(own, f"bb_{place}", nu, factors)
        else:
            u, v = (mixed(own, f"{side}_{place}", nu, factors) for side in ("uu", "vv"))
            scales = torch.stack([u[f // len(v)] * v[f % len(v)] for f in range(gradient.numel())])
        moved[name] = theta[name] - ALPHA * gradient * scales.clamp(min=0).reshape(gradient.shape)
    return moved


LAST = {"conv4": ("block3", "block4"), "mlp": ("layer1", "layer2")}  # the last two blocks


@ORDERS
@pytest.mark.parametrize(("problem", "steps", "factors", "size"), [
    (IMAGES, 1, 5, 6), (IMAGES, 2, 1, 3), (IMAGES, 3, 2, 4), (CURVES, 1, 3, 6), (CURVES, 2, 5, 2), (IMAGES, 0, 2, 2),
])  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_outer_gradient_is_that_of_the_authors_code(
    problem: Random, steps: int, factors: int, size: int, order: str, bias: bool
) -> None:
    images = problem is IMAGES
    model = {"conv_bias": bias} if images else {}
    own_settings: dict[str, Any] = {"inner_steps": steps, "factors": factors, "context_size": size, "order": order}
    method, network = code(problem, model=model, context_lr=1.0, **own_settings), conv4() if images else mlp

    def graph(found: Tensor) -> Tensor:
        return found if order == "second" else found.detach()

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        names = [n for n in theta if n.split(".")[0] in LAST["conv4" if images else "mlp"] and ".norm." not in n]
        g = {name: graph(found) for name, found in support_gradient(network, theta, task, names).items()}
        nu, moved = torch.zeros(size, dtype=torch.float64, requires_grad=True), theta
        for modulation in range(2 * steps):
            moved = by_code(theta, g, own, nu, factors)
            support_loss = query_loss(network, moved, Task(task.support, task.support))
            if modulation < 2 * steps - 1:
                nu = graph(-torch.autograd.grad(support_loss, nu, create_graph=True)[0])
                nu = nu if order == "second" else nu.requires_grad_()
        return query_loss(network, moved, task)

    assert_gradient(method, problem.tasks(2), loss)


def test_the_authors_modulators_have_their_sizes_and_begin_nearly_off() -> None:
    """Figures of their network on images of 84 pixels, of which only the last two blocks' widths matter."""
    method = build_learner(parse_trial({"method": "modgrad", "model": {"width": 64}}), Random((3, 16, 16)))
    modulation = method.modulation
    assert sum(p.numel() for p in modulation.parameters()) == 1_056_926  # type: ignore[union-attr]
    found = {name: tensor.detach() for name, tensor in modulation(torch.zeros(300)).items()}  # type: ignore[operator]
    assert list(found) == ["block3.weight", "block3.bias", "block4.weight", "block4.bias"]
    kernel, bias = (torch.cat([found[f"block{b}.{kind}"].flatten() for b in (3, 4)]) for kind in ("weight", "bias"))
    assert 0.4 < float((kernel == 0).double().mean()) < 0.6
    assert 0.5e-4 < float(kernel.mean()) < 3e-4
    assert 0.005 < float(bias.mean()) < 0.03


@pytest.mark.parametrize(("model", "moving"), [
    ({"name": "resnet10", "channels": [4, 4, 5, 5]}, 6), ({"name": "resnet12", "channels": [3, 4, 5, 5]}, 8),
])  # fmt: skip
def test_kernels_of_any_shape_of_the_last_two_blocks_adapt(model: dict[str, Any], moving: int) -> None:
    made = learner(Random((1, 32, 32)), method="modgrad", model=model, modgrad={"context_size": 4})
    assert len(made.adapted) == moving
    (task,) = Random((1, 32, 32)).tasks(1)
    theta, weights = made.model.weights(), made.adapt(task.support, TRAINING).weights
    assert {name for name in theta if not torch.equal(theta[name], weights[name])} == set(made.adapted)
    assert {name.split(".")[0] for name in made.adapted} == {"block3", "block4"}


def test_with_a_modulation_of_one_it_is_a_step_of_maml_in_the_last_two_blocks() -> None:
    method, tasks = code(inner_steps=1, factors=1), IMAGES.tasks(1)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.startswith("modulation.") and ".2." in name:
                parameter.fill_(float(name.endswith("bias")))
    maml = learner(IMAGES, model={"name": "conv4", "width": 4}, maml={"inner_lr": ALPHA, "inner_steps": 1})
    maml.model.load_state_dict(method.model.state_dict())
    theta = method.model.weights()
    ours, theirs = (m.adapt(tasks[0].support, TRAINING).weights for m in (method, maml))
    for name, weight in theta.items():
        expected = theirs[name] if name in method.adapted else weight
        torch.testing.assert_close(ours[name], expected, rtol=1e-12, atol=1e-14)


def test_the_norm_is_left_alone() -> None:
    with pytest.raises(UserError, match=r"^modgrad.adapt_norm: found true, but variant code leaves the norm alone"):
        code(adapt_norm=True)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_orders_differ(variant: str) -> None:
    assert_orders_differ_in_the_gradient_only(partial(modgrad, variant=variant), IMAGES.tasks(1))


def test_gradient_for_the_generator_is_the_finite_difference() -> None:
    method = modgrad(CURVES, model={"hidden": [5]}, context_size=3)
    assert finite_difference_error(method, CURVES.tasks(2), beside_theta, step=1e-4) < 1e-7


def test_gradient_of_the_authors_code_is_the_finite_difference() -> None:
    method = code(CURVES, model={"hidden": [5]}, context_size=3, factors=2)
    assert finite_difference_error(method, CURVES.tasks(2), step=1e-6) < 1e-6


@ORDERS
def test_it_is_maml_where_the_modulation_is_one(order: str) -> None:
    method, tasks = modgrad(order=order), IMAGES.tasks(2)
    with torch.no_grad():
        method.factors.weight.zero_()
        method.factors.bias.zero_()
    maml = learner(
        IMAGES,
        model={"name": "conv4", "width": 4},
        maml={"inner_lr": ALPHA, "inner_steps": 2, "order": order},
    )
    maml.model.load_state_dict(method.model.state_dict())
    (loss, found), expected = outer_gradient(method, tasks), outer_gradient(maml, tasks)
    assert_same((loss, {name: found[name] for name in expected[1]}), expected)
    ours, theirs = (m.adapt(tasks[0].support, TRAINING).weights for m in (method, maml))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_context_has_an_effect() -> None:
    (task,) = IMAGES.tasks(1)

    def adapted(**settings: Any) -> Weights:
        weights = modgrad(model={"width": 6}, **settings).adapt(task.support, EVALUATION).weights
        return {name: weight.detach() for name, weight in weights.items()}

    assert relative_error(adapted(context_lr=0.0), adapted(context_lr=BETA), floor=1) > 1e-4
    steps = [adapted(context_lr=lr, inner_steps=0) for lr in (0.0, BETA)]
    assert relative_error(*steps) == 0, "a context changes a step, not the start"


def test_it_says_that_it_is_approximate() -> None:
    assert "APPROXIMATE" in (sys.modules[type(modgrad()).__module__].__doc__ or "")


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("problem", [IMAGES, CURVES])
def test_evaluation_only_predicts(problem: Random, variant: str) -> None:
    assert_evaluation_only_predicts(modgrad(problem, variant=variant), problem.tasks(3))


@ORDERS
@pytest.mark.parametrize("problem", [IMAGES, CURVES])
def test_tasks_of_the_authors_code_batched_are_tasks_looped_over(order: str, problem: Random) -> None:
    assert_batched_is_looped(code(problem, order=order), problem.tasks(3))


@ORDERS
@pytest.mark.parametrize(("problem", "adapt_norm"), [(IMAGES, False), (IMAGES, True), (CURVES, False)])
def test_tasks_batched_are_tasks_looped_over(order: str, problem: Random, adapt_norm: bool) -> None:
    assert_batched_is_looped(modgrad(problem, order=order, adapt_norm=adapt_norm), problem.tasks(3))
