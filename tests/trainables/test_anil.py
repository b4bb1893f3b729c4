"""ANIL against an unrolled loop and finite differences, and against MAML whose head alone adapts."""

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
    finite_difference_error,
    outer_gradient,
    relative_error,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import build_learner


def head(name: str) -> bool:
    return name.startswith("head.")


@ORDERS
@pytest.mark.parametrize(("case", "norm"), [(IMAGES, "batch"), (IMAGES, "support"), (VECTORS, "batch")])
def test_outer_gradient_is_the_unrolled_loops(case: Case, norm: str, order: str) -> None:
    method = case.learner("anil", {"norm": norm} if case.images else None, order=order)
    tasks = case.tasks(2)

    def loss(theta: Any, own: Any, task: Any) -> Any:
        return unrolled_loss(case.network, theta, task, adapted=head, order=order, norm=norm)

    assert_gradient(method, tasks, loss)


def test_outer_gradient_is_the_finite_difference() -> None:
    assert finite_difference_error(VECTORS.learner("anil"), VECTORS.tasks(2)) < 1e-7


@ORDERS
@BOTH
def test_it_is_maml_whose_head_alone_adapts(case: Case, order: str) -> None:
    method, tasks = case.learner("anil", order=order), case.tasks(2)
    maml = case.maml(method, order=order)
    maml.adapted = ["head.weight", "head.bias"]  # type: ignore[assignment]
    assert_same(outer_gradient(method, tasks), outer_gradient(maml, tasks), error=1e-10, loss=1e-12)


@BOTH
def test_the_body_stays_and_the_head_moves(case: Case) -> None:
    method, (task,) = case.learner("anil"), case.tasks(1)
    before = {name: weight.clone() for name, weight in method.model.weights().items()}
    adapted = method.adapt(task.support, TRAINING).weights
    assert {name for name in before if not torch.equal(adapted[name], before[name])} == {"head.weight", "head.bias"}
    assert all(torch.equal(weight, before[name]) for name, weight in method.model.weights().items())


def test_the_body_learns_through_the_support_set_in_second_order_only() -> None:
    """The support set alone: the query's features are cut off from the body."""
    (task,), sizes = VECTORS.tasks(1), {}
    for order in ("first", "second"):
        method = VECTORS.learner("anil", order=order)
        adapted = method.adapt(task.support, TRAINING).weights["head.weight"].sum()
        body = [weight for name, weight in method.model.weights().items() if not head(name)]
        found = torch.autograd.grad(adapted, body, allow_unused=True)
        sizes[order] = [0.0 if gradient is None else float(gradient.norm()) for gradient in found]
    assert sizes["first"] == [0.0] * 4
    assert min(sizes["second"]) > 1e-4


@pytest.mark.parametrize("context", [TRAINING, Context(training=False)], ids=["training", "evaluation"])
def test_a_tasks_features_are_computed_once(context: Context) -> None:
    method, (task,) = IMAGES.learner("anil", inner_steps=5), IMAGES.tasks(1)
    passes = []
    method.model.block4.register_forward_hook(lambda *_: passes.append(1))
    with torch.set_grad_enabled(context.training):
        method.predict(method.adapt(task.support, context), task.query.x)
    assert len(passes) == 2  # support and query


@pytest.mark.parametrize("vectorized", [False, True])
def test_first_order_share_switches_orders_within_the_support_set_too(vectorized: bool) -> None:
    tasks = IMAGES.tasks(1)
    first, second, share = (IMAGES.learner("anil", **s) for s in ({"order": "first"}, {}, {"first_order_share": 0.5}))
    for progress, order, other in ((0.49, first, second), (0.5, second, first)):
        found = outer_gradient(share, tasks, Context(True, progress, vectorized))[1]
        assert relative_error(found, outer_gradient(order, tasks)[1]) < 1e-8
        assert relative_error(found, outer_gradient(other, tasks)[1], floor=1) > 1e-3


@ORDERS
@BOTH
def test_tasks_batched_are_tasks_looped_over(case: Case, order: str) -> None:
    assert_batched_is_looped(case.learner("anil", order=order), case.tasks(3))


def test_evaluation_only_predicts() -> None:
    assert_evaluation_only_predicts(IMAGES.learner("anil"), IMAGES.tasks(3))


def test_per_step_norm_is_refused() -> None:
    config = parse_trial({"method": "anil", "model": {"name": "conv4", "norm": "per_step"}})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES.problem)
    assert str(caught.value) == (
        "model.norm: found 'per_step', but anil computes a task's features once, for all steps"
    )
