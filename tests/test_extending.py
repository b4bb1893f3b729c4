"""The examples of docs/extending.md, taken from the page and run as they stand there."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import found, install
from reference import Random, learner

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.problem import Examples, Tasks
from raymeta.schema import merge
from raymeta.study.plan.plan import make_plan
from raymeta.testing import CHECKS, checks, outer_gradient, small_trial
from raymeta.training.trainer import Trainer

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
LEARNER, SPACE, TEST, REGULARIZER = (
    "trainables/shrinking.py", "search_spaces/shrinking.yaml", "tests/trainables/test_shrinking.py",
    "trainables/regularizers/centred.py",
)  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The page's files by their names, its learner and regularizer installed like those from outside."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    page = dict(blocks)
    points = {"methods": {"shrinking": "shrinking"}, "regularizers": {"centred": "centred"}}
    theirs = {Path(name).name: page[name] for name in (LEARNER, SPACE, REGULARIZER)}
    with found(install(tmp_path / "site", "theirs", points, theirs)):
        yield page


def test_the_examples_are_short(files: dict[str, str]) -> None:
    for name in (LEARNER, REGULARIZER):
        assert len([line for line in files[name].splitlines() if line]) <= 40


@pytest.mark.parametrize("check", CHECKS)
def test_the_learner_with_a_regularizer_conforms(check: Any, files: dict[str, str], glyphs: Any) -> None:
    from raymeta.trainable import register_all

    register_all()
    check(small_trial("shrinking+dropgrad", config={"shrinking": {"inner_lr": 0.1}}))


@pytest.mark.parametrize("check", [one for one in checks("maml") if one not in CHECKS])
def test_the_learner_keeps_its_promises_to_regularizers(check: Any, files: dict[str, str], glyphs: Any) -> None:
    check(small_trial("shrinking", config={"shrinking": {"inner_lr": 0.1}}))


@pytest.mark.parametrize("check", checks("maml+dropgrad"))
def test_the_regularizer_conforms(check: Any, files: dict[str, str], glyphs: Any) -> None:
    check(small_trial("maml+centred", config={"maml": {"inner_lr": 0.1}}))


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("added", ["mr", "taml", "dropgrad", "centred", "mr+taml+dropgrad+centred"])
def test_outer_steps_with_regularizers(added: str, order: str, tasks: str, files: dict[str, str], glyphs: Any) -> None:
    """Of a learner of which the page shows one method: every parameter learns, and otherwise than without them."""
    plain = {"shrinking": {"inner_lr": 0.1, "order": order}, "engine": {"tasks": tasks}}
    strong: dict[str, Any] = {"mr": {"blocks": 2, "beta": 0.1}, "taml": {"weight": 1.0}, "dropgrad": {"rate": 0.3}}
    own = {name: strong.get(name, {}) for name in added.split("+")}
    one = Trainer(small_trial(f"shrinking+{added}", config=merge(plain, {"regularizers": own})))
    other = Trainer(small_trial("shrinking", config=plain))
    before = {name: parameter.detach().clone() for name, parameter in one.learner.named_parameters()}
    for trainer in (one, other):
        assert [math.isfinite(trainer.outer_update()) for _ in range(2)] == [True, True]
    after, without = (dict(trainer.learner.named_parameters()) for trainer in (one, other))
    kernels = [name for name, tensor in before.items() if tensor.ndim > 1]  # a bias before a norm gets rounding alone
    assert len(kernels) >= 5
    assert all((after[name] != before[name]).any() for name in kernels)
    assert all((after[name] != without[name]).any() for name in kernels if name in without)


def test_the_rule_is_what_the_page_says(files: dict[str, str], glyphs: Any) -> None:
    """Two steps by hand; and with a factor of 1 it is MAML, whose outer gradient it then has to the bit."""
    problem = Random((4,), "regression")
    settings = {"inner_lr": 0.1, "shrink": 0.5, "inner_steps": 2}
    mine = learner(problem, method="shrinking", model={"name": "mlp", "hidden": [6]}, shrinking=settings)
    (task,) = problem.tasks(1)
    theta = {name: weight.detach() for name, weight in mine.model.weights().items()}
    for rate in (0.1, 0.05):
        leaves = {name: weight.clone().requires_grad_() for name, weight in theta.items()}
        hidden = torch.relu(task.support.x @ leaves["layer1.weight"].T + leaves["layer1.bias"])
        outputs = hidden @ leaves["head.weight"].T + leaves["head.bias"]
        gradients = torch.autograd.grad((outputs - task.support.y).square().mean(), list(leaves.values()))
        theta = {name: weight - rate * g for (name, weight), g in zip(theta.items(), gradients, strict=True)}
    adapted = mine.adapt(task.support, Context(training=True))
    for name, expected in theta.items():
        torch.testing.assert_close(adapted.weights[name].detach(), expected, rtol=1e-10, atol=1e-12)
    (loss, plain), (same, one), (_, half) = (
        outer_gradient(Trainer(small_trial(name, config={name: {"inner_lr": 0.1, **own}})))
        for name, own in (("maml", {}), ("shrinking", {"shrink": 1.0}), ("shrinking", {"shrink": 0.5}))
    )
    assert loss == same
    assert all(torch.equal(gradient, one[name]) for name, gradient in plain.items())
    assert not any(torch.equal(gradient, half[name]) for name, gradient in plain.items() if gradient.ndim > 1)


def test_the_regularizer_does_what_the_page_says(files: dict[str, str]) -> None:
    """One step moves a unit's weights by their gradient less a part of its mean, and biases by all of theirs."""
    problem, training = Random((4,), "regression"), Context(training=True)
    (task,) = problem.tasks(1)
    tasks, moved = Tasks(*(Examples(x[None], y[None]) for x, y in task)), {}
    for share in (0.0, 0.25):
        mine = learner(problem, model={"name": "mlp", "hidden": [6]}, regularizers={"centred": {"share": share}},
                       maml={"inner_lr": 0.125, "inner_steps": 1})  # fmt: skip
        context = replace(training, hooks=mine.hooks(tasks, training, torch.Generator()))
        adapted, start = mine.adapt(task.support, context), mine.model.weights()
        moved[share] = {name: (start[name] - weight).detach() / 0.125 for name, weight in adapted.weights.items()}
    for name, gradient in moved[0.0].items():
        expected = gradient - 0.25 * gradient.mean(1, keepdim=True) if gradient.ndim > 1 else gradient
        torch.testing.assert_close(moved[0.25][name], expected)


def test_its_search_space_makes_a_plan(files: dict[str, str], glyphs: Any) -> None:
    plan = make_plan("shrinking+dropgrad")
    assert {"shrinking.inner_lr", "shrinking.shrink", "outer.lr"} < set(plan.space.params)
    assert plan.base.settings.inner_steps == make_plan("maml").base.settings.inner_steps
    assert plan.base.settings.order == make_plan("maml").base.settings.order == "first"  # the preset's


def test_a_regularizer_without_a_space_is_searched_by_ranges(files: dict[str, str], glyphs: Any) -> None:
    plan = make_plan("shrinking+centred", words=["regularizers.centred.share=0..1"])
    assert str(plan.space.params["regularizers.centred.share"]) == "[0, 1]"
    assert plan.space.labels == ["authors' setting", "un-regularized"]
    with pytest.raises(UserError) as caught:
        make_plan("shrinking+centred")
    assert str(caught.value) == (
        "centred has no search space, which would be centred.yaml beside its module; give one with --space FILE, or "
        "ranges, as in regularizers.centred.KEY=0.01..0.5:log"
    )


def test_trials_that_differ_in_the_examples_own_settings_can_share_a_program(files: dict[str, str]) -> None:
    one, other = (
        parse_trial({"method": "shrinking", "shrinking": own, "regularizers": {"centred": added}})
        for own, added in (({}, {}), ({"shrink": 0.5}, {"share": 0.5}))
    )
    assert one.structure() == other.structure()
    assert one.numbers().keys() == other.numbers().keys()
    assert one.numbers() != other.numbers()


def test_its_test_is_the_conformance_suite(files: dict[str, str]) -> None:
    assert 'conformance("shrinking", "shrinking+dropgrad")' in files[TEST]
