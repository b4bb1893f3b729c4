"""ModGrad against a slow reference and finite differences; MAML where the modulation is 1."""

import sys
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
    unroll,
    unrolled_loss,
)

from raymeta.learner import Learner
from raymeta.problem import Task

IMAGES, CURVES = Random((1, 16, 16)), Random((4,), "values")
ALPHA, BETA, SIZE = 0.125, 2.0, 6


def modgrad(problem: Random = IMAGES, *, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    """With factors several times their initial size, or they would hardly matter."""
    network = {"name": "conv4", "width": 4} if problem is IMAGES else {"name": "mlp", "hidden": [7, 5]}
    own = {"inner_lr": ALPHA, "context_lr": BETA, "context_size": SIZE, "inner_steps": 2, **settings}
    method = learner(problem, method="modgrad", model={**network, **(model or {})}, modgrad=own)
    with torch.no_grad():
        method.factors.weight *= 30
    return method


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


def test_orders_differ() -> None:
    assert_orders_differ_in_the_gradient_only(modgrad, IMAGES.tasks(1))


def test_gradient_for_the_generator_is_the_finite_difference() -> None:
    method = modgrad(CURVES, model={"hidden": [5]}, context_size=3)
    assert finite_difference_error(method, CURVES.tasks(2), beside_theta, step=1e-4) < 1e-7


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
        weights = modgrad(**settings).adapt(task.support, EVALUATION).weights
        return {name: weight.detach() for name, weight in weights.items()}

    assert relative_error(adapted(context_lr=0.0), adapted(context_lr=BETA), floor=1) > 1e-4
    steps = [adapted(context_lr=lr, inner_steps=0) for lr in (0.0, BETA)]
    assert relative_error(*steps) == 0, "a context changes a step, not the start"


def test_it_says_that_it_is_approximate() -> None:
    assert "APPROXIMATE" in (sys.modules[type(modgrad()).__module__].__doc__ or "")


@pytest.mark.parametrize("problem", [IMAGES, CURVES])
def test_evaluation_only_predicts(problem: Random) -> None:
    assert_evaluation_only_predicts(modgrad(problem), problem.tasks(3))


@ORDERS
@pytest.mark.parametrize(("problem", "adapt_norm"), [(IMAGES, False), (IMAGES, True), (CURVES, False)])
def test_tasks_batched_are_tasks_looped_over(order: str, problem: Random, adapt_norm: bool) -> None:
    assert_batched_is_looped(modgrad(problem, order=order, adapt_norm=adapt_norm), problem.tasks(3))
