"""Attacks on adapted learners: what stays as it is, what is inside the radius, and what is refused."""

from typing import Any

import pandas
import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.robustness import RADII, Robustness, RobustnessConfig, Target, label, radii_of
from raymeta.analysis import Subject
from raymeta.engine.attacks import NORMS, drawn, length, pgd
from raymeta.errors import UserError

MAML: dict[str, Any] = {"maml": {"inner_lr": 0.4}}


def measured(looked: Subject, **settings: Any) -> pandas.DataFrame:
    quick = {"tasks": 2, "linf": [0.05], "l2": [1], "l1": [10], "steps": 2, "checks": 0}
    return pandas.DataFrame(Robustness(RobustnessConfig(**{**quick, **settings})).measure(looked))


@pytest.mark.parametrize("method", ["maml", "protonet", "maml+metadropout"])
def test_radius_0_is_the_evaluation_to_the_bit(method: str) -> None:
    looked = subject(method, "images")
    clean = measured(looked).query("attack == 'none'")
    scores = looked.learner.problem.evaluate(
        looked.learner, looked.bank, 2, device=looked.device, vectorized=False
    ).values.tolist()
    for norm in NORMS:
        assert clean[clean["norm"] == norm]["score"].tolist() == scores


@pytest.mark.parametrize("method", ["maml", "protonet"])
def test_attacks_raise_the_loss_and_a_random_change_less(method: str) -> None:
    rows = measured(subject(method, "images", **(MAML if method == "maml" else {})), tasks=1, checks=1, steps=5)
    loss = rows.groupby(["norm", "attack"])["loss"].mean().unstack()
    assert (loss["none"] < loss["fgsm"]).all()
    assert (loss["fgsm"] < loss["pgd"] + 1e-3).all()
    assert (loss["noise"] < loss["fgsm"]).all()
    assert (loss["pgd"] <= loss["restarts"]).all()
    if method == "maml":
        assert (loss["unadapted"] < loss["pgd"]).all()
    assert ("unadapted" in loss) == (method == "maml")


@pytest.mark.parametrize("norm", NORMS)
def test_changes_are_in_ball_and_box_and_the_support_set_stays(norm: Any) -> None:
    looked = subject("maml", "images", **MAML)
    (case,) = looked.cases(1)
    before = case.task.support.x.clone()
    target, radius = Target(case), RADII[norm][2]
    change = pgd(target.loss, target.pixels, norm, radius, steps=4)
    assert (length(change, norm) <= radius * (1 + 1e-9)).all()
    changed = looked.learner.problem.pixels(looked.learner.problem.changed(case.task.query.x, change))
    torch.testing.assert_close(changed, target.pixels + change)
    assert torch.equal(case.task.support.x, before)


def test_pixels_of_standardised_images_change_by_what_is_asked_for() -> None:
    looked = subject("maml", "images")
    problem = looked.learner.problem
    type(problem).mean, type(problem).std = (0.3,), (0.2,)  # type: ignore[attr-defined]
    try:
        x = (torch.rand(2, 1, 4, 4, dtype=torch.float64) - 0.3) / 0.2
        change = drawn(problem.pixels(x), "linf", 0.1, torch.Generator().manual_seed(0))
        torch.testing.assert_close(problem.pixels(problem.changed(x, change)), problem.pixels(x) + change)
        assert torch.equal(problem.changed(x, torch.zeros_like(x)), x)
    finally:
        type(problem).mean = type(problem).std = None  # type: ignore[attr-defined]


def test_at_the_whole_box_nothing_is_left() -> None:
    rows = measured(subject("maml", "images", **MAML), linf=[1], l2=[], l1=[], steps=10, tasks=2)
    attacked = rows[rows["attack"] == "pgd"]
    assert attacked["score"].mean() <= 0.2


def test_another_run_is_attacked_on_the_same_images_and_attacks_are_tried_on_both() -> None:
    looked, other = subject("maml", "images", **MAML), subject("maml", "images", shake=0.3, **MAML)
    beside = Subject(looked.learner, looked.config, looked.bank, {"there": other.learner}.__getitem__)
    rows = measured(beside, against="there")
    own = rows[rows["made_on"] == rows["tried_on"]]
    for name, alone in (("this", looked), ("there", other)):
        expected = measured(Subject(alone.learner, looked.config, looked.bank))
        found = own[own["tried_on"] == name].reset_index(drop=True)
        pandas.testing.assert_frame_equal(found.drop(columns=["made_on", "tried_on"]),
                                          expected.drop(columns=["made_on", "tried_on"]))  # fmt: skip
    loss = rows[rows["attack"] == "pgd"].groupby(["tried_on", "made_on"])["loss"].mean()
    assert loss["this", "there"] < loss["this", "this"]
    assert loss["there", "this"] < loss["there", "there"]
    figure = Robustness(RobustnessConfig(against="there")).draw(rows, beside)
    assert len(figure.axes) == 2 * 3
    table = Robustness(RobustnessConfig()).table(rows, looked.learner.problem.metric)
    assert list(table.index) == ["l-infinity 0", "l-infinity 0.05", "l2 0", "l2 1", "l1 0", "l1 10"]
    assert "PGD of there on this" in table.columns


def test_radii_go_with_the_size_of_the_images() -> None:
    assert radii_of(RobustnessConfig(), (1, 28, 28)) == RADII
    found = radii_of(RobustnessConfig(linf=[]), (3, 84, 84))
    assert list(found) == ["l2", "l1"]
    assert found["l2"] == pytest.approx([27**0.5 * one for one in RADII["l2"]])
    assert found["l1"] == pytest.approx([27 * one for one in RADII["l1"]])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"linf": [1.5]},
            "robustness.linf: found 1.5, but within 1 there is every image of 784 pixels; allowed: above",
        ),
        ({"l2": [29]}, "robustness.l2: found 29, but within 28 there is every image"),
        ({"l1": [785]}, "robustness.l1: found 785, but within 784 there is"),
        ({"linf": [], "l2": [], "l1": []}, "robustness: no radius is left; give one of linf, l2, l1 some"),
    ],
)
def test_radii_without_a_meaning_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        radii_of(RobustnessConfig(**settings), (1, 28, 28))
    assert str(refused.value).startswith(sentence)


def test_labels_say_which_attack_and_on_what() -> None:
    assert label("pgd", "this", "this") == "PGD"
    assert label("fgsm", "mine", "mine") == "FGSM on mine"
    assert label("pgd", "this", "mine") == "PGD of this on mine"
    assert label("none", "this", "this") == "clean"


def test_runs_beside_each_other_are_compared_task_by_task() -> None:
    one, other = (
        measured(subject("maml", "images", shake=shake, **MAML), tasks=3, l2=[], l1=[]) for shake in (0.1, 0.3)
    )
    metric = subject("maml", "images").learner.problem.metric
    table = Robustness.across({"one": one, "other": other}, metric)
    assert list(table.columns) == ["one", "other", "other - one"]
    assert list(table.index) == ["l-infinity 0", "l-infinity 0.05"]
    scores = [rows.query("attack == 'pgd'").set_index("task")["score"] for rows in (one, other)]
    apart = scores[1] - scores[0]
    assert table.loc["l-infinity 0.05", "other - one"] == metric.text(apart.mean(), 1.96 * apart.std() / 3**0.5)
    assert table.loc["l-infinity 0.05", "one"] == metric.text(scores[0].mean(), 1.96 * scores[0].std() / 3**0.5)
