"""The finalists: which they are, how they are compared over the same episodes, and what is said of them."""

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from study.driving import give_all, load, noted, tiny_plan, tiny_record

from raymeta.metric import Metric, half_width
from raymeta.report.export import against_start
from raymeta.storage.files import studies_folder
from raymeta.study.record.finalists import Finalist, Standings, chosen, paired, settled, standings
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.run.reevaluate import missing

ROUNDS = ["budget.validate_every=6", "study.first_rung=6"]  # at 6, 12 and 18 outer steps; rungs at 6 and 18
ACCURACY = Metric("accuracy", "max", "%", 100.0, 2)
ALONE = "trial 0 has no rival on fresh episodes: the other trials were cut earlier or have no score"


# A difference over the same episodes


def test_the_interval_of_a_difference() -> None:
    """Differences 1, -1, 3, 1: mean 1, standard deviation sqrt(8/3)."""
    gap = paired([2.0, 1.0, 5.0, 4.0], [1.0, 2.0, 2.0, 3.0])
    assert gap.mean == 1.0
    assert gap.ci95 == pytest.approx(1.96 * sqrt(8 / 3) / 2)
    assert not gap.significant
    wider = paired([3.0, 2.0, 6.0, 5.0], [1.0, 2.0, 2.0, 3.0])
    assert (wider.mean, wider.ci95, wider.significant) == (2.0, pytest.approx(gap.ci95), True)
    assert paired([1.0, 2.0, 2.0, 3.0], [3.0, 2.0, 6.0, 5.0]).significant
    same = paired([0.5, 0.7], [0.5, 0.7])
    assert (same.mean, same.ci95, same.significant) == (0, 0, False)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20), st.floats(-1, 1))
def test_what_all_scores_share_does_not_matter(pairs: list[tuple[float, float]], shift: float) -> None:
    mine, theirs = map(list, zip(*pairs, strict=True))
    gap, turned = paired(mine, theirs), paired(theirs, mine)
    assert (gap.mean, gap.ci95) == (pytest.approx(-turned.mean), pytest.approx(turned.ci95))
    moved = paired([one + shift for one in mine], [one + shift for one in theirs])
    assert (moved.mean, moved.ci95) == (pytest.approx(gap.mean, abs=1e-9), pytest.approx(gap.ci95, abs=1e-9))


def test_it_holds_the_truth_95_times_of_100_and_is_narrower_than_if_episodes_were_others() -> None:
    generator, truth, tasks, studies = np.random.default_rng(0), 0.01, 100, 1500
    hits, widths, unpaired = 0, [], []
    for _ in range(studies):
        difficulty = generator.normal(0.7, 0.1, tasks)  # of an episode, for both
        mine = (difficulty + truth + generator.normal(0, 0.03, tasks)).tolist()
        theirs = (difficulty + generator.normal(0, 0.03, tasks)).tolist()
        gap = paired(mine, theirs)
        hits += abs(gap.mean - truth) <= gap.ci95
        widths.append(gap.ci95)
        unpaired.append(sqrt(half_width(mine) ** 2 + half_width(theirs) ** 2))
    assert 0.93 < hits / studies < 0.965  # 0.95, less a little for the normal quantile; three standard errors are 0.017
    assert np.mean(widths) == pytest.approx(1.96 * 0.03 * sqrt(2 / tasks), rel=0.02)
    assert np.mean(unpaired) > 3 * np.mean(widths)


# What is said of them


def standing(metric: Metric, *values: list[float], equal: bool = True) -> Standings:
    rounds = [{"outer_steps": 18, f"val_{metric.name}": 0.5, "val_ci95": 0.1}]
    ones = [
        Finalist(TrialRecord(number, "completed", {}, rounds, "", ""), equal or not number, found, [], "", 0.0)
        for number, found in enumerate(values)
    ]
    return Standings(metric, 4, 2**32, ones)


@pytest.mark.parametrize(
    ("values", "rivals", "verdict"),
    [
        ([[0.9, 0.8]], [], ALONE),
        ([[0.9, 0.8], []], [], ALONE),
        ([[0.9, 0.8], [0.5, 0.4]], [], "trial 0 is significantly better than the other finalist"),
        ([[0.9, 0.8], [0.5, 0.4], [0.4, 0.3]], [], "trial 0 is significantly better than the other finalists"),
        ([[0.9, 0.8], [0.9, 0.7], [0.4, 0.3]], [1],
         "trial 0 is not significantly better than trial 1 (within its 95 % interval)"),
        ([[0.9, 0.8], [0.9, 0.7], [0.7, 0.9]], [1, 2],
         "trial 0 is not significantly better than trials 1, 2 (differences within their 95 % intervals)"),
        ([[]], [], "no finalist has a score on fresh episodes, so the best is the search's"),
    ],
)  # fmt: skip
def test_the_verdict(values: list[list[float]], rivals: list[int], verdict: str) -> None:
    final = standing(ACCURACY, *values)
    assert (final.rivals, final.verdict) == (rivals, verdict)
    assert final.as_dict()["not_significantly_better_than"] == rivals
    assert json.loads(json.dumps(final.as_dict()))["verdict"] == verdict


def test_a_shorter_training_is_no_rival() -> None:
    final = standing(ACCURACY, [0.9, 0.8], [0.9, 0.7], equal=False)
    assert final.rivals == []
    gap = final.to_best(final.finalists[1])
    assert gap is not None
    assert gap.mean == pytest.approx(-0.05)


# Which they are


def test_they_are_the_first_of_the_highest_rung_and_the_start(studies: Path) -> None:
    record = tiny_record("tiny", "study.finalists=2", *ROUNDS)
    noted(record, 5.0)
    noted(record, 1.0, steps=6)  # the un-regularized start, cut
    for value in (3.0, 4.0, 2.0):
        noted(record, value)
    noted(record, 0.5, steps=6)
    assert [trial.number for trial in record.ranking()] == [4, 2, 3, 0, 5, 1]
    assert [(trial.number, equal) for trial, equal in chosen(record)] == [(4, True), (2, True), (1, False)]


def test_if_configs_are_trained_again_they_may_be_of_lower_rungs(studies: Path) -> None:
    """They then all have the full budget, the start too."""
    record = tiny_record("tiny", "study.finalists=2", "study.finalist_seeds=1", *ROUNDS)
    for value in (0.5, 5.0, 0.1):
        noted(record, value, steps=6)
    noted(record, 3.0)
    assert [(trial.number, equal) for trial, equal in chosen(record)] == [(3, True), (2, True), (1, True)]


@pytest.mark.parametrize(("trials", "numbers"), [(1, [0]), (2, [1, 0]), (4, [1, 0])])
def test_there_may_be_fewer_trials(trials: int, numbers: list[int], studies: Path) -> None:
    record = tiny_record("tiny", *ROUNDS)
    for number in range(min(trials, 2)):
        noted(record, 3.0 - number)
    for _ in range(trials - 2):
        noted(record, 1.0, steps=6)
    assert [trial.number for trial, _ in chosen(record)] == numbers


def test_there_are_none_if_none_are_wanted_or_all_diverged(studies: Path) -> None:
    record = tiny_record("off", "study.finalists=0")
    noted(record, 3.0)
    noted(record, 2.0)
    lost = tiny_record("lost")
    lost.add_round(lost.ask().number, {"outer_steps": 2, "val_mse": 1.0, "val_ci95": 0.1, "at": 1.0})
    lost.finish(0, "diverged")
    for study, best in ((record, 1), (lost, None)):
        assert chosen(study) == missing(study) == []
        assert settled(study)
        assert standings(study) is None
        assert (found.number if (found := study.best()) else None) == best


def test_a_study_made_before_there_were_any(studies: Path) -> None:
    record = tiny_record("tiny", *ROUNDS)
    path = record.folder / "study.yaml"
    about = yaml.safe_load(path.read_text())
    for key in ("finalists", "finalist_tasks", "finalist_seeds"):
        del about["plan"]["study"][key]
    path.write_text(yaml.safe_dump(about))
    old = load("tiny")
    assert (old.plan.study.finalists, old.plan.finalist_tasks, old.plan.study.finalist_seeds) == (5, 40, 0)
    noted(old, 3.0)
    assert [one.trial for one in missing(old)] == [0]


# Which is best


def test_larger_is_better_for_accuracy(studies: Path) -> None:
    record = StudyRecord.create(studies_folder() / "a", tiny_plan(), ACCURACY, "f")
    for value in (0.9, 0.8):
        noted(record, value)
    give_all(record, t0=[0.5, 0.6], t1=[0.7, 0.8])
    best = record.best()
    assert best is not None
    assert best.number == 1
    assert against_start(record, record.trial(0)) == (
        "it is 20.00 % ± 0.00 below the un-regularized start (trial 1) on 40 fresh episodes"
    )


def test_of_equal_scores_the_better_in_the_search_wins(studies: Path) -> None:
    record = tiny_record()
    for value in (3.0, 2.0, 4.0):
        noted(record, value)
    give_all(record, t0=[1.0, 2.0], t1=[1.0, 2.0], t2=[2.0, 1.0])
    best, final = record.best(), standings(record)
    assert best is not None
    assert final is not None
    assert best.number == 1
    assert final.rivals == [0, 2]


def test_the_start_that_was_cut_is_compared_but_never_the_best(studies: Path) -> None:
    record = tiny_record("tiny", *ROUNDS)
    noted(record, 3.0, 2.0, 1.5)
    noted(record, 2.5, steps=6)
    give_all(record, t0=[2.0, 2.0], t1=[1.0, 1.5])
    best, final = record.best(), standings(record)
    assert best is not None
    assert final is not None
    assert (best.number, final.rivals) == (0, [])
    assert against_start(record, best).startswith(
        "it is 0.7500 ± 0.4900 above the un-regularized start (trial 1, 6 outer steps) on 40 fresh episodes"
    )


def test_until_all_are_scored_the_best_is_the_searchs(studies: Path) -> None:
    record = tiny_record()
    for value in (3.0, 2.0):
        noted(record, value)
    give_all(record, t0=[0.1, 0.1])
    best = record.best()
    assert best is not None
    assert (best.number, standings(record), settled(record)) == (1, None, False)
    assert [one.trial for one in missing(record)] == [1]
    give_all(record, t1=[5.0, 5.0])
    best = record.best()
    assert best is not None
    assert best.number == 0
    assert missing(record) == []
