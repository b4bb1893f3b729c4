"""L2F against an unrolled loop and finite differences; MAML where nothing is attenuated; what its graph reaches."""

from typing import Any

import pytest
import torch
from reference import dense
from torch import Tensor
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
    beside_theta,
    finite_difference_error,
    no_norm,
    outer_gradient,
    relative_error,
    support_gradient,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner

GRAPHS = pytest.mark.parametrize("embed_graph", [False, True])


def learner(case: Case, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    return case.learner("l2f", model, **{"first_order_share": 0.0, **settings})


def gamma(case: Case, theta: Any, own: Any, task: Any, *, graph: bool) -> dict[str, Tensor]:
    """Of every adapted tensor, from its mean gradient."""
    names = list(filter(no_norm, theta))
    found = support_gradient(case.network, theta, task, names, step=0)
    means = torch.stack([found[name].mean() if graph else found[name].mean().detach() for name in names])
    return dict(zip(names, torch.sigmoid(dense(own, "attenuator.", means)), strict=True))


@ORDERS
@GRAPHS
@pytest.mark.parametrize(
    ("case", "norm", "factor"), [(IMAGES, "batch", 1), (IMAGES, "per_step", 1), (VECTORS, "batch", 3)]
)
def test_outer_gradient_is_the_unrolled_loops(
    case: Case, norm: str, factor: int, embed_graph: bool, order: str
) -> None:
    model = {"norm": norm} if case.images else None
    method, tasks = learner(case, model, order=order, embed_graph=embed_graph, hidden_factor=factor), case.tasks(2)

    def loss(theta: Any, own: Any, task: Any) -> Any:
        scales = gamma(case, theta, own, task, graph=embed_graph)
        start = {name: weight * scales.get(name, 1.0) for name, weight in theta.items()}
        return unrolled_loss(case.network, start, task, order=order)

    assert_gradient(method, tasks, loss)


def test_outer_gradient_is_the_finite_difference() -> None:
    """Of the attenuator in both cases; of theta only where the gradients that the attenuator sees have a graph."""
    tasks = VECTORS.tasks(2)
    assert finite_difference_error(learner(VECTORS, embed_graph=True), tasks) < 1e-7
    constant = learner(VECTORS, embed_graph=False)
    assert finite_difference_error(constant, tasks, beside_theta) < 1e-7
    assert finite_difference_error(constant, tasks, lambda name: name == "model.layer1.weight") > 1e-3


@BOTH
def test_the_graph_changes_gradients_of_theta_only(case: Case) -> None:
    tasks = case.tasks(2)
    (loss, without), (same_loss, graph) = (
        outer_gradient(learner(case, embed_graph=embed_graph), tasks) for embed_graph in (False, True)
    )
    assert loss == same_loss
    for name in graph:
        change = float((without[name] - graph[name]).norm()) / max(float(graph[name].norm()), 1e-9)
        if name.startswith("attenuator."):
            assert change < 1e-12, name
        elif not (case.images and name.endswith("bias") and no_norm(name) and "block" in name):
            assert change > 1e-6, name


@BOTH
def test_every_tensor_is_scaled_by_a_tasks_own_number_between_0_and_1(case: Case) -> None:
    method, seen = learner(case, inner_steps=0), []
    theta = method.model.weights()
    for task in case.tasks(2):
        adapted = method.adapt(task.support, TRAINING).weights
        assert all(torch.equal(adapted[name], theta[name]) for name in method.model.norm_names())
        shares = {name: (adapted[name] / theta[name]).detach() for name in filter(no_norm, theta)}
        for share in shares.values():
            torch.testing.assert_close(share, share.flatten()[0].expand_as(share))
        seen.append(torch.stack([share.flatten()[0] for share in shares.values()]))
        assert 0 < float(seen[-1].min()) <= float(seen[-1].max()) < 1
    assert float((seen[0] - seen[1]).abs().min()) > 1e-7


def test_training_starts_with_about_half_of_all_weights() -> None:
    method = build_learner(parse_trial({"method": "l2f", "l2f": {"inner_steps": 0}}), IMAGES.problem).double()
    adapted = method.adapt(IMAGES.tasks(1)[0].support, TRAINING).weights
    for name, weight in method.model.weights().items():
        if no_norm(name) and name.endswith("weight"):
            assert 0.35 < float((adapted[name] / weight).detach().mean()) < 0.65


@ORDERS
@GRAPHS
@BOTH
def test_nothing_attenuated_is_maml(case: Case, embed_graph: bool, order: str) -> None:
    tasks = case.tasks(2)
    for steps in (0, 1, 2, 3):
        method = learner(case, order=order, embed_graph=embed_graph, inner_steps=steps)
        last = [module for module in method.attenuator.modules() if isinstance(module, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 50.0)  # whose sigmoid rounds to 1
        maml = case.maml(method, {"conv_bias": False} if case.images else None, order=order, inner_steps=steps)
        one, two = (m.adapt(tasks[0].support, TRAINING).weights for m in (method, maml))
        assert all(torch.equal(one[name], two[name]) for name in two)
    (loss, found), expected = outer_gradient(method, tasks), outer_gradient(maml, tasks)
    assert_same((loss, {name: found[name] for name in expected[1]}), expected, error=1e-12, loss=1e-12)


def test_first_order_share_is_trained_in_first_order() -> None:
    """By default the authors' first 11 epochs of 60, which are 5,500 of their 30,000 outer steps."""
    tasks = IMAGES.tasks(1)
    default = IMAGES.learner("l2f")
    first, second = (learner(IMAGES, order=order) for order in ("first", "second"))
    last, next_ = (step / 29_999 for step in (5_499, 5_500))
    for progress, order, other in ((0.0, first, second), (last, first, second), (next_, second, first)):
        found = outer_gradient(default, tasks, Context(training=True, progress=progress))[1]
        assert relative_error(found, outer_gradient(order, tasks)[1]) == 0
        assert relative_error(found, outer_gradient(other, tasks)[1], floor=1) > 1e-3


def test_the_authors_convolutions_have_no_bias_so_six_tensors_are_attenuated() -> None:
    made = IMAGES.learner("l2f")
    assert made.adapted == [*(f"block{i}.weight" for i in (1, 2, 3, 4)), "head.weight", "head.bias"]
    assert sum(p.numel() for p in made.attenuator.parameters()) == 84  # type: ignore[union-attr]
    assert len(IMAGES.learner("l2f", {"conv_bias": True}).adapted) == 10
    assert parse_trial({"method": "l2f", "model": {"name": "mlp"}}).model.name == "mlp", "which has no such key"


def test_the_authors_sum_task_losses() -> None:
    assert parse_trial({"method": "l2f"}).outer.reduction == "sum"
    assert parse_trial({"method": "l2f", "outer": {"reduction": "mean"}}).outer.reduction == "mean"


@ORDERS
@GRAPHS
@BOTH
def test_tasks_batched_are_tasks_looped_over(case: Case, embed_graph: bool, order: str) -> None:
    assert_batched_is_looped(learner(case, embed_graph=embed_graph, order=order), case.tasks(3))


@GRAPHS
def test_evaluation_only_predicts(embed_graph: bool) -> None:
    assert_evaluation_only_predicts(learner(IMAGES, embed_graph=embed_graph), IMAGES.tasks(3))
