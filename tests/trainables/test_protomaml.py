"""Proto-MAML against a slow reference and finite differences; its head; ALFA's rule on it."""

from functools import partial
from typing import Any

import pytest
import torch
from reference import Random, Weights, conv4, learner, maps, means
from torch import Tensor
from unrolled import (
    ORDERS,
    TRAINING,
    alfas_rule,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_orders_differ_in_the_gradient_only,
    beside_theta,
    everything,
    expected_gradient,
    finite_difference_error,
    learned,
    no_norm,
    outer_gradient,
    predict,
    relative_error,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.learner import Learner
from raymeta.problem import Examples, Task

IMAGES, VECTORS = Random((1, 16, 16)), Random((4,))
ALPHA, STEPS = 0.125, 2


def protomaml(problem: Random = IMAGES, *, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    network = {"name": "conv4", "width": 4} if problem is IMAGES else {"name": "mlp", "hidden": [5]}
    own_settings = {"inner_lr": ALPHA, "inner_steps": STEPS, **settings}
    return learner(problem, method="protomaml", model={**network, **(model or {})}, protomaml=own_settings)


def unrolled(theta: Weights, own: Weights, task: Task, *, detached: bool = False, **settings: Any) -> Tensor:
    classes = means(maps(task.support.x, theta).flatten(1), task.support.y)
    classes = classes.detach().requires_grad_() if detached else classes
    start = {**theta, "head.weight": 2 * classes, "head.bias": -(classes**2).sum(1)}
    return unrolled_loss(conv4(), start, task, steps=STEPS, **{"norm": "support", **settings})


@ORDERS
@pytest.mark.parametrize(("norm", "adapt_norm"), [("support", False), ("batch", False), ("support", True)])
def test_outer_gradient_is_the_references(order: str, norm: str, adapt_norm: bool) -> None:
    method = protomaml(order=order, model={"norm": norm}, adapt_norm=adapt_norm)

    loss = partial(unrolled, order=order, norm=norm, adapted=everything if adapt_norm else no_norm)
    assert_gradient(method, IMAGES.tasks(2), loss)


def test_orders_differ() -> None:
    assert_orders_differ_in_the_gradient_only(protomaml, IMAGES.tasks(1))


@ORDERS
@pytest.mark.parametrize(("depth", "state"), [(3, "both"), (2, "both"), (3, "weights"), (3, "gradients")])
def test_outer_gradient_with_alfas_rule_is_the_references(order: str, depth: int, state: str) -> None:
    method = protomaml(order=order, rule="alfa", depth=depth, state=state)

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        return unrolled(theta, own, task, order=order, rule=alfas_rule(own, state))

    assert_gradient(method, IMAGES.tasks(1), loss)
    assert len(list(filter(beside_theta, learned(method)))) == 2 * depth + 2


def test_gradient_for_alfas_rule_is_the_finite_difference() -> None:
    """Where the rule sees weights only, as what it sees of gradients is a constant."""
    method = protomaml(VECTORS, order="second", rule="alfa", state="weights", depth=2)
    assert finite_difference_error(method, VECTORS.tasks(1), beside_theta) < 1e-7


def test_gradient_is_the_finite_difference() -> None:
    assert finite_difference_error(protomaml(VECTORS, order="second"), VECTORS.tasks(2)) < 1e-7


@ORDERS
def test_outer_gradient_reaches_the_body_through_the_prototypes(order: str) -> None:
    method, tasks = protomaml(order=order), IMAGES.tasks(2)
    _, apart = expected_gradient(method, tasks, partial(unrolled, order=order, detached=True))
    assert relative_error(outer_gradient(method, tasks)[1], apart, floor=1) > 1e-2


@pytest.mark.parametrize("rule", ["sgd", "alfa"])
def test_the_models_own_head_is_neither_used_nor_learned(rule: str) -> None:
    method, (task,) = protomaml(rule=rule), IMAGES.tasks(1)
    before = predict(method, task, TRAINING).detach()
    heads = {name: weight for name, weight in method.named_parameters() if ".head." in name}
    assert len(heads) == 2
    assert not any(weight.requires_grad for weight in heads.values())
    assert len(learned(method)) == len(dict(method.named_parameters())) - 2
    with torch.no_grad():
        for weight in heads.values():
            weight += 1
    assert torch.equal(predict(method, task, TRAINING), before)


def test_it_starts_from_the_prototypes_and_moves_body_and_head() -> None:
    (task,) = IMAGES.tasks(1)
    still, method = protomaml(inner_steps=0), protomaml()
    theta = method.model.weights()
    classes = means(maps(task.support.x, method.model.weights()).flatten(1), task.support.y)
    start = still.adapt(task.support, TRAINING).weights
    torch.testing.assert_close(start["head.weight"], 2 * classes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(start["head.bias"], -(classes**2).sum(1), rtol=1e-10, atol=1e-10)
    moved = method.adapt(task.support, TRAINING).weights
    still_there = {name for name in theta if torch.allclose(moved[name], start[name], rtol=0, atol=1e-9)}
    # A convolution's bias has no gradient under batch norm, but for rounding.
    assert still_there == {name for name in theta if ".norm." in name or name[6:] == ".bias"}


def test_the_querys_norm_is_the_supports() -> None:
    assert parse_trial({"method": "protomaml", "model": {"name": "conv4"}}).model.norm == "support"
    method, (task,) = protomaml(), IMAGES.tasks(1)
    alone = predict(method, task._replace(query=Examples(task.query.x[:1], task.query.y[:1])))
    torch.testing.assert_close(predict(method, task)[:1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["sgd", "alfa"])
def test_evaluation_only_predicts(rule: str) -> None:
    assert_evaluation_only_predicts(protomaml(rule=rule), IMAGES.tasks(3))


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "alfa"}, {"adapt_norm": True}, {"adapt_norm": True, "model": {"norm": "batch"}}]
)
@ORDERS
def test_tasks_batched_are_tasks_looped_over(order: str, settings: dict[str, Any]) -> None:
    assert_batched_is_looped(protomaml(order=order, **settings), IMAGES.tasks(3))
