"""MAML++ against an unrolled loop and finite differences; its weights of steps; MAML where its switches are off."""

from typing import Any

import pytest
import torch
from unrolled import (
    ALPHA,
    BOTH,
    EVALUATION,
    IMAGES,
    ORDERS,
    VECTORS,
    Case,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    assert_same,
    descent,
    everything,
    finite_difference_error,
    no_norm,
    outer_gradient,
    query_loss,
    relative_error,
    unroll,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner

OFF = {"multi_step_loss": False, "learned_rates": False}


def at(epoch: float, epochs: int = 100) -> Context:
    return Context(training=True, progress=epoch / epochs)


def step_weights(epoch: float, steps: int, until: int = 15) -> list[float]:
    """v_j(e) as the authors' code has it."""
    if epoch >= until:
        return [0.0] * (steps - 1) + [1.0]
    decay, least = 1 / (steps * until), 0.03 / steps
    early = max(1 / steps - epoch * decay, least)
    return [early] * (steps - 1) + [min(1 / steps + epoch * (steps - 1) * decay, 1 - (steps - 1) * least)]


@ORDERS
@pytest.mark.parametrize(
    ("case", "norm", "settings", "epoch"),
    [
        (IMAGES, "per_step", {}, 6),
        (IMAGES, "per_step", {}, 14.9),
        (IMAGES, "per_step", {}, 15),
        (IMAGES, "batch", {"adapt_norm": True}, 0),
        (IMAGES, "support", {}, 6),
        (IMAGES, "per_step", {"multi_step_loss": False}, 0),
        (IMAGES, "per_step", {"learned_rates": False}, 6),
        (VECTORS, "batch", {}, 6),
    ],
)
def test_outer_gradient_is_the_unrolled_loops(
    case: Case, norm: str, settings: dict[str, bool], epoch: float, order: str
) -> None:
    method = case.learner("mamlpp", {"norm": norm} if case.images else None, order=order, **settings)
    tasks, adapted = case.tasks(2), everything if settings.get("adapt_norm") else no_norm
    weights = step_weights(epoch if settings.get("multi_step_loss", True) else 15, steps=3)

    def loss(theta: Any, own: Any, task: Any) -> Any:
        names = list(filter(adapted, theta))
        rates = own.get("rates", torch.full((len(names), 3), ALPHA, dtype=torch.float64))
        assert rates.shape == (len(names), 3)
        rule = descent(lambda step, name: rates[names.index(name), step])
        path = unroll(case.network, theta, task, rule, steps=3, order=order, adapted=adapted)
        return sum(v * query_loss(case.network, path[j + 1], task, step=j, norm=norm) for j, v in enumerate(weights))

    assert_gradient(method, tasks, loss, at(epoch))


@pytest.mark.parametrize("epoch", [6, 15])
def test_outer_gradient_is_the_finite_difference(epoch: float) -> None:
    assert finite_difference_error(VECTORS.learner("mamlpp"), VECTORS.tasks(2), context=at(epoch)) < 1e-7


# The loss after every step


def losses_after_every_step(like: Learner, task: Any, steps: int) -> list[float]:
    """Query losses of MAML with 1 .. S steps."""
    learners = (VECTORS.maml(like, inner_steps=step + 1) for step in range(steps))
    return [outer_gradient(maml, [task])[0] for maml in learners]


@pytest.mark.parametrize(
    ("epoch", "weights"),
    [
        (0, [0.2] * 5),
        (10, [1 / 15] * 4 + [11 / 15]),
        (14, [1 / 75] * 4 + [71 / 75]),
        (14.9, [0.006] * 4 + [0.976]),  # the floor
        (15, [0, 0, 0, 0, 1]),
        (100, [0, 0, 0, 0, 1]),
    ],
)
def test_steps_weigh_as_in_the_authors_code(epoch: float, weights: list[float]) -> None:
    method, (task,) = VECTORS.learner("mamlpp", inner_steps=5, learned_rates=False), VECTORS.tasks(1)
    losses = losses_after_every_step(method, task, steps=5)
    assert len({round(loss, 4) for loss in losses}) == 5
    expected = sum(v * loss for v, loss in zip(weights, losses, strict=True))
    assert outer_gradient(method, [task], at(epoch))[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_of_steps_sum_to_one(steps: int) -> None:
    """Without a step size all steps have one loss."""
    method = VECTORS.learner("mamlpp", inner_steps=steps, inner_lr=0.0, learned_rates=False)
    (task,) = VECTORS.tasks(1)
    expected, _ = outer_gradient(VECTORS.maml(method, inner_steps=0), [task])
    for epoch in torch.linspace(0, 16, 33):
        assert outer_gradient(method, [task], at(float(epoch)))[0] == pytest.approx(expected, rel=1e-12)


def test_msl_share_is_the_share_of_the_budget() -> None:
    method, (task,) = VECTORS.learner("mamlpp", learned_rates=False, msl_share=0.4), VECTORS.tasks(1)
    losses = losses_after_every_step(method, task, steps=3)
    for epoch, weights in ((0, [1 / 3] * 3), (20, [1 / 6, 1 / 6, 2 / 3]), (40, [0, 0, 1])):
        expected = sum(v * loss for v, loss in zip(weights, losses, strict=True))
        assert outer_gradient(method, [task], at(epoch))[0] == pytest.approx(expected, rel=1e-10)


def test_evaluation_counts_the_last_step_only() -> None:
    method, (task,) = VECTORS.learner("mamlpp"), VECTORS.tasks(1)
    with torch.no_grad():
        loss = float(method.query_loss(method.adapt(task.support, EVALUATION), task.query))
    last = outer_gradient(VECTORS.learner("mamlpp", multi_step_loss=False), [task])[0]
    assert loss == pytest.approx(last, rel=1e-12)
    assert loss != pytest.approx(outer_gradient(method, [task])[0], rel=1e-3)


# MAML, switch by switch


@ORDERS
@BOTH
def test_without_its_switches_it_is_maml(case: Case, order: str) -> None:
    method, tasks = case.learner("mamlpp", order=order, **OFF), case.tasks(2)
    (loss, found), (expected_loss, expected) = (
        outer_gradient(m, tasks) for m in (method, case.maml(method, order=order))
    )
    assert loss == expected_loss
    assert relative_error(found, expected) == 0


@ORDERS
@BOTH
def test_rates_that_are_all_alpha_are_maml(case: Case, order: str) -> None:
    method, tasks = case.learner("mamlpp", order=order, multi_step_loss=False), case.tasks(2)
    torch.nn.init.constant_(method.rates, ALPHA)
    maml = case.maml(method, order=order)
    found = outer_gradient(method, tasks)
    rates = found[1].pop("rates")
    assert rates.shape == (len(maml.adapted), 3)
    assert_same(found, outer_gradient(maml, tasks), error=1e-12, loss=1e-12)
    weights = [i for i, name in enumerate(maml.adapted) if name.endswith("weight")]  # type: ignore[arg-type]
    assert float(rates[weights].abs().min()) > 1e-6


def test_norms_with_equal_rows_are_mamls() -> None:
    tasks, norm = IMAGES.tasks(2), IMAGES.learner("maml").model.norm_names()
    maml, method = IMAGES.learner("maml"), IMAGES.learner("mamlpp", {"norm": "per_step"}, **OFF)
    state = maml.model.state_dict()
    method.model.load_state_dict({n: t.expand(3, -1) if n in norm else t for n, t in state.items()})
    loss, found = outer_gradient(method, tasks)
    together = {n: g.sum(0) if n.removeprefix("model.") in norm else g for n, g in found.items()}
    assert_same((loss, together), outer_gradient(maml, tasks), error=1e-10, loss=1e-12)


def test_first_order_share_is_trained_in_first_order() -> None:
    tasks = IMAGES.tasks(1)
    first, second, share = (IMAGES.learner("mamlpp", **s) for s in ({"order": "first"}, {}, {"first_order_share": 0.3}))
    for epoch, order, other in ((29, first, second), (30, second, first)):
        found = outer_gradient(share, tasks, at(epoch))[1]
        assert relative_error(found, outer_gradient(order, tasks, at(epoch))[1]) == 0
        assert relative_error(found, outer_gradient(other, tasks, at(epoch))[1], floor=1) > 1e-3


# The rest


def test_a_task_of_default_settings() -> None:
    """Per-step norm, rates of 0.01 for 10 tensors and 5 steps, the multi-step loss."""
    method = build_learner(parse_trial({"method": "mamlpp", "model": {"name": "conv4"}}), IMAGES.problem).double()
    assert torch.equal(method.rates, torch.full((10, 5), 0.01).double())
    assert method.model.weights()["block3.norm.bias"].shape == (5, 64)
    _, found = outer_gradient(method, IMAGES.tasks(1), at(15))
    for name in method.model.norm_names():  # every row is learned
        assert float(found[f"model.{name}"].abs().sum(1).min()) > 0


@ORDERS
@pytest.mark.parametrize(("case", "norm"), [(IMAGES, "per_step"), (IMAGES, "support"), (VECTORS, "batch")])
@pytest.mark.parametrize("epoch", [6, 15])
def test_tasks_batched_are_tasks_looped_over(case: Case, norm: str, order: str, epoch: float) -> None:
    method = case.learner("mamlpp", {"norm": norm} if case.images else None, order=order)
    assert_batched_is_looped(method, case.tasks(3), at(epoch))


@pytest.mark.parametrize("norm", ["batch", "per_step", "support"])
def test_evaluation_only_predicts(norm: str) -> None:
    assert_evaluation_only_predicts(IMAGES.learner("mamlpp", {"norm": norm}), IMAGES.tasks(3))


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        (
            {"name": "conv4", "norm": "batch"},
            {"inner_steps": 2, "eval_steps": 3},
            "mamlpp.eval_steps: found 3, but mamlpp learns something for each of its inner_steps (2) and has nothing "
            "for more",
        ),
        (
            {"name": "conv4"},
            {"inner_steps": 2, "eval_steps": 3, "learned_rates": False},
            "mamlpp.eval_steps: found 3, but model.norm per_step has only inner_steps (2) rows",
        ),
        (
            {"name": "conv4"},
            {"adapt_norm": True},
            "mamlpp adapts the norm's scales and shifts here, but with model.norm per_step they are learned per step",
        ),
    ],
)
def test_settings_that_have_nothing_to_use_are_refused(model: Any, settings: Any, sentence: str) -> None:
    config = parse_trial({"method": "mamlpp", "model": model, "mamlpp": settings})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES.problem)
    assert str(caught.value) == sentence
