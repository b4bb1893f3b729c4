"""CAVIA against a slow reference and finite differences; what adapts; what a task knows of others."""

from functools import partial
from typing import Any

import pytest
import torch
from reference import Network, Random, Weights, conv4, learner, mlp
from torch import Tensor
from unrolled import (
    EVALUATION,
    ORDERS,
    TRAINING,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_orders_differ_in_the_gradient_only,
    beside_theta,
    descent,
    finite_difference_error,
    learned,
    predict,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Task

IMAGES, CURVES = Random((1, 16, 16)), Random((4,), "values")
ALPHA, SIZE = 0.5, 6


def cavia(problem: Random, *, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    network = {"name": "conv4", "width": 4} if problem is IMAGES else {"name": "mlp", "hidden": [7, 5]}
    own = {"context_lr": ALPHA, "context_size": SIZE, **settings}
    return learner(problem, method="cavia", model={**network, **(model or {})}, cavia=own)


def network(own: Weights, block: int) -> Network:
    """On weights that have the context among them."""

    def film(x: Tensor, weights: Weights, step: int, normaliser: Tensor | None) -> Tensor:
        scale, shift = (own["film.weight"] @ weights["context"] + own["film.bias"]).chunk(2)
        return conv4(film=(block, scale, shift))(x, weights, step, normaliser)

    def appended(x: Tensor, weights: Weights, step: int, normaliser: Tensor | None) -> Tensor:
        rest = {name: weight for name, weight in weights.items() if name != "context"}
        return mlp(torch.stack([torch.cat([row, weights["context"]]) for row in x]), rest)

    return film if own else appended


@ORDERS
@pytest.mark.parametrize(("problem", "block"), [(IMAGES, 1), (IMAGES, 3), (CURVES, 3)])
def test_outer_gradient_is_the_references(order: str, problem: Random, block: int) -> None:
    method = cavia(problem, order=order, inner_steps=3, block=block)

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        start = {**theta, "context": torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)}
        rule = descent(lambda step, name: ALPHA)
        return unrolled_loss(network(own, block), start, task, rule, order=order, adapted=lambda n: n == "context")

    assert_gradient(method, problem.tasks(2), loss)


def test_orders_differ() -> None:
    assert_orders_differ_in_the_gradient_only(partial(cavia, IMAGES), IMAGES.tasks(1))


def test_gradient_for_film_is_the_finite_difference() -> None:
    method = cavia(IMAGES, model={"width": 2}, context_size=3)
    # A step of 1e-5 crosses a kink of a ReLU.
    assert finite_difference_error(method, IMAGES.tasks(1), beside_theta, step=1e-6) < 1e-7


def test_gradient_of_regression_is_the_finite_difference() -> None:
    method = cavia(CURVES, model={"hidden": [5]}, context_size=3)
    assert finite_difference_error(method, CURVES.tasks(2)) < 1e-7


@pytest.mark.parametrize("problem", [IMAGES, CURVES])
@pytest.mark.parametrize("context", [TRAINING, EVALUATION])
def test_only_the_context_changes_in_a_task(problem: Random, context: Any) -> None:
    method, (task,) = cavia(problem), problem.tasks(1)
    theta = method.model.weights()
    adapted = method.adapt(task.support, context).weights
    assert all(adapted[name] is theta[name] for name in theta)
    (phi,) = (tensor for name, tensor in adapted.items() if tensor.shape == (SIZE,) and name == "context")
    assert float(phi.detach().norm()) > 1e-3
    assert torch.equal(cavia(problem, inner_steps=0).adapt(task.support, context).weights["context"], torch.zeros(SIZE))


def test_the_context_starts_anew_in_every_task() -> None:
    method, (one, other) = cavia(IMAGES), IMAGES.tasks(2)
    results = [predict(method, task, TRAINING) for task in (one, one, other, one)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[3])
    assert not torch.equal(results[0], results[2])


def test_regression_appends_the_context_to_the_inputs() -> None:
    method, (task,) = cavia(CURVES), CURVES.tasks(1)
    adapted = method.adapt(task.support, TRAINING)
    expected = network({}, block=0)(task.query.x, adapted.weights, 0, None)
    torch.testing.assert_close(method.predict(adapted, task.query.x), expected, rtol=1e-12, atol=1e-12)
    assert not any(name.startswith("film") for name in learned(method))
    assert cavia(CURVES, context_size=None).model.input_shape == (4 + 5,)


@pytest.mark.parametrize("block", [5, 9])
def test_a_block_that_is_not_there_is_refused(block: int) -> None:
    config = parse_trial({"method": "cavia", "cavia": {"block": block}})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES)
    assert str(caught.value) == f"cavia.block: conv4 has no block {block} that can be modulated: allowed: 1, 2, 3, 4"


@pytest.mark.parametrize("problem", [IMAGES, CURVES])
def test_evaluation_only_predicts(problem: Random) -> None:
    assert_evaluation_only_predicts(cavia(problem), problem.tasks(3))


@ORDERS
@pytest.mark.parametrize("problem", [IMAGES, CURVES])
def test_tasks_batched_are_tasks_looped_over(order: str, problem: Random) -> None:
    assert_batched_is_looped(cavia(problem, order=order), problem.tasks(3))
