"""BOIL against an unrolled loop and finite differences, and against MAML whose body alone adapts."""

from typing import Any

import pytest
import torch
from unrolled import (
    BOTH,
    IMAGES,
    ORDERS,
    TRAINING,
    VECTORS,
    Case,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_same,
    descent,
    finite_difference_error,
    no_norm,
    outer_gradient,
    unroll,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner


def body(name: str) -> bool:
    return not name.startswith("head.")


@ORDERS
@pytest.mark.parametrize(
    ("case", "norm", "adapt_norm"),
    [
        (IMAGES, "batch", True),
        (IMAGES, "batch", False),
        (IMAGES, "support", True),
        (IMAGES, "per_step", False),
        (VECTORS, "batch", True),
    ],
)
def test_outer_gradient_is_the_unrolled_loops(case: Case, norm: str, adapt_norm: bool, order: str) -> None:
    model = {"norm": norm} if case.images else None
    method, tasks = case.learner("boil", model, order=order, adapt_norm=adapt_norm), case.tasks(2)

    def adapted(name: str) -> bool:
        return body(name) and (adapt_norm or no_norm(name))

    def loss(theta: Any, own: Any, task: Any) -> Any:
        return unrolled_loss(case.network, theta, task, adapted=adapted, order=order, norm=norm)

    assert_gradient(method, tasks, loss)


def test_outer_gradient_is_the_finite_difference() -> None:
    assert finite_difference_error(VECTORS.learner("boil"), VECTORS.tasks(2)) < 1e-7


@ORDERS
@BOTH
def test_it_is_maml_whose_body_alone_adapts(case: Case, order: str) -> None:
    method, tasks = case.learner("boil", order=order), case.tasks(2)
    maml = case.maml(method, order=order, adapt_norm=True)
    maml.adapted = [name for name in maml.adapted if body(name)]  # type: ignore[assignment, union-attr]
    assert_same(outer_gradient(method, tasks), outer_gradient(maml, tasks), error=1e-12, loss=1e-12)


@pytest.mark.parametrize("adapt_norm", [False, True])
def test_the_head_stays_and_the_body_moves(adapt_norm: bool) -> None:
    method, (task,) = IMAGES.learner("boil", adapt_norm=adapt_norm), IMAGES.tasks(1)
    before = {name: weight.clone() for name, weight in method.model.weights().items()}
    adapted = method.adapt(task.support, TRAINING).weights
    # A convolution's bias has no gradient under batch norm, but for rounding.
    moved = {name for name, weight in adapted.items() if float((weight - before[name]).detach().abs().max()) > 1e-9}
    expected = {name for name in before if body(name) and name[6:] != ".bias"}
    assert moved == {name for name in expected if adapt_norm or no_norm(name)}
    assert torch.equal(adapted["head.weight"], before["head.weight"])
    assert torch.equal(adapted["head.bias"], before["head.bias"])


def test_the_head_learns_in_the_outer_loop_and_second_order_terms_cross_it() -> None:
    tasks = IMAGES.tasks(2)
    first, second = (outer_gradient(IMAGES.learner("boil", order=order), tasks)[1] for order in ("first", "second"))
    for name in ("model.head.weight", "model.head.bias"):
        assert float(first[name].norm()) > 1e-3
    assert float((first["model.head.weight"] - second["model.head.weight"]).norm()) > 1e-3


def test_defaults_are_one_step_of_a_half_with_the_norm() -> None:
    method = build_learner(parse_trial({"method": "boil"}), IMAGES.problem).double()
    (task,) = IMAGES.tasks(1)
    theta = {name: weight.detach().clone().requires_grad_() for name, weight in method.model.weights().items()}
    path = unroll(IMAGES.network, theta, task, descent(lambda step, name: 0.5), steps=1, adapted=body)
    adapted = method.adapt(task.support, TRAINING).weights
    for name, weight in path[-1].items():
        torch.testing.assert_close(adapted[name], weight, rtol=1e-8, atol=1e-10)


@ORDERS
@BOTH
def test_tasks_batched_are_tasks_looped_over(case: Case, order: str) -> None:
    assert_batched_is_looped(case.learner("boil", order=order), case.tasks(3))


def test_evaluation_only_predicts() -> None:
    assert_evaluation_only_predicts(IMAGES.learner("boil"), IMAGES.tasks(3))


def test_per_step_norm_with_an_adapted_norm_is_refused() -> None:
    config = parse_trial({"method": "boil", "model": {"name": "conv4", "norm": "per_step"}})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES.problem)
    assert str(caught.value) == (
        "boil adapts the norm's scales and shifts here, but with model.norm per_step they are learned per step"
    )
