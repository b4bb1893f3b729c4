"""Proposals and rungs as Tune asks for them: stock ASHA's decisions, and rungs that outlive the driver."""

from collections import Counter
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from study.driving import load, tiny_record

from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.driver import Leave
from raymeta.study.run.searcher import RecordASHA, RecordSearcher

STEPS = (2, 4, 6, 8, 10, 12, 14, 16, 18)  # of the rounds; rungs at 2, 6 and 18


@dataclass
class Trial:
    """Of Tune's trial what a scheduler looks at."""

    trial_id: str
    number: int = 0
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.config = {"study": {"trial": self.number}}


def result(steps: int, value: float) -> dict[str, Any]:
    return {"outer_steps": steps, "val_mse": value, "training_iteration": steps // 2}


def stock(mode: str = "min") -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="outer_steps", metric="val_mse", mode=mode, max_t=18, grace_period=2, reduction_factor=3
    )


def note(record: StudyRecord, number: int, steps: int, value: float) -> None:
    record.add_round(number, {**result(steps, value), "val_ci95": 0.0, "diverged": False, "seconds": 0.1, "at": 0.0})


def scores(scheduler: ASHAScheduler) -> dict[int, list[float]]:
    rungs = scheduler.rungs if isinstance(scheduler, RecordASHA) else dict(scheduler._brackets[0]._rungs)
    return {rung: sorted(found.values()) for rung, found in rungs.items()}


Feed = list[tuple[int, float]]  # whose round comes next, and what it scores


@st.composite
def feeds(draw: st.DrawFn) -> Feed:
    count = draw(st.integers(2, 7))
    values = st.floats(0, 10).map(lambda value: round(value, 3))
    return draw(st.lists(st.tuples(st.integers(0, count - 1), values), min_size=5, max_size=45))


def play(
    scheduler: ASHAScheduler, feed: Feed, state: dict[int, tuple[int, bool]], suffix: str = ""
) -> list[tuple[int, int, str]]:
    """Feed results; returns the decisions. `state`: of each trial the rounds done and whether it still runs."""
    decisions = []
    for number, value in feed:
        done, runs = state.get(number, (0, True))
        trial = Trial(f"{number}{suffix}", number)
        if number not in state:
            scheduler.on_trial_add(None, trial)
        if not runs or done == len(STEPS):
            continue
        decision = scheduler.on_trial_result(None, trial, result(STEPS[done], value))
        decisions.append((number, STEPS[done], decision))
        if decision == TrialScheduler.STOP:  # as Tune does; it notes the score of the last rung
            scheduler.on_trial_complete(None, trial, result(STEPS[done], value))
        state[number] = (done + 1, decision == TrialScheduler.CONTINUE)
    return decisions


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feed=feeds())
def test_decisions_are_stock_ashas(feed: Feed, once: StudyRecord) -> None:
    expected, ours = stock(), RecordASHA(once)
    assert play(ours, feed, {}) == play(expected, feed, {})
    assert scores(ours) == scores(expected)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feed=feeds(), deaths=st.sets(st.integers(0, 44)))
@example(feed=[(0, 2.0), (0, 2.0), (0, 1.0), (0, 1.0), (1, 1.9)], deaths={2})
def test_a_trial_whose_worker_died_keeps_its_place_in_the_rungs(
    feed: Feed, deaths: set[int], once: StudyRecord
) -> None:
    expected, ours = stock(), RecordASHA(once)
    states: tuple[dict[int, tuple[int, bool]], ...] = ({}, {})
    lives: Counter[int] = Counter()
    for place, (number, value) in enumerate(feed):
        done, runs = states[1].get(number, (0, False))
        if place in deaths and runs and done < len(STEPS):
            lives[number] += 1
            ours.on_trial_add(None, Trial(f"{number}-{lives[number]}", number))
        suffix = f"-{lives[number]}" if lives[number] else ""
        assert play(ours, [(number, value)], states[1], suffix) == play(expected, [(number, value)], states[0])
    assert scores(ours) == scores(expected)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """A record without trials; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("once")))
        return tiny_record()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feed=feeds(), share=st.floats(0, 1))
@example(feed=[(0, 1.0)] * 9, share=1.0)
def test_an_interrupted_scheduler_decides_as_an_uninterrupted_one(
    feed: Feed, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a restart, which gives the trials new names; the record is all that is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("cut")))
        record = tiny_record("tiny", "study.trials=7")
        for _ in range(7):
            record.ask()
        whole, at = stock(), int(share * len(feed))
        state: dict[int, tuple[int, bool]] = {}
        expected = play(whole, feed[:at], state)
        values = iter(feed[:at])
        for number, steps, decision in expected:
            value = next(v for n, v in values if n == number)
            note(record, number, steps, value)
            if decision == TrialScheduler.STOP:
                record.finish(number, "completed" if steps == 18 else "pruned")
        restored = RecordASHA(load("tiny"))
        left = {number: place for number, place in state.items() if place[1]}
        for number in left:
            restored.on_trial_add(None, Trial(f"{number} again", number))
        assert scores(restored) == scores(whole)
        later = dict(state)
        rest = [(number, value) for number, value in feed[at:] if number in state]
        assert play(restored, rest, state, " again") == play(whole, rest, later)
        assert scores(restored) == scores(whole)


def test_stock_rays_empty_rungs_would_decide_otherwise(studies: Path) -> None:
    """Six trials at the first rung; the driver dies; the best one goes on, a seventh comes."""
    record = tiny_record("tiny", "study.trials=7")
    for number, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 6.0)):
        record.ask()
        note(record, number, 2, value)
        if number > 0:
            record.finish(number, "pruned")
    record.ask()
    forgetful, ours = stock(), RecordASHA(record)
    assert scores(ours)[2] == [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0]
    for scheduler in (forgetful, ours):
        scheduler.on_trial_add(None, Trial("again", 0))
        scheduler.on_trial_add(None, Trial("new", 6))
    assert scores(ours)[2] == [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0]
    late, weak = result(4, 0.9), result(2, 5.5)
    # Round 4 of the trial that had passed rung 2 belongs to no rung; stock Ray takes it for rung 2's.
    assert [s.on_trial_result(None, Trial("again", 0), late) for s in (forgetful, ours)] == ["CONTINUE", "CONTINUE"]
    assert scores(forgetful)[2] == [-0.9]
    assert scores(ours)[2] == [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0]
    other = Trial("good", 5)
    fine = result(2, 1.5)  # second of eight: among the best third, but not better than the one that stock Ray knows
    for scheduler in (forgetful, ours):
        scheduler.on_trial_add(None, Trial("good", 99))
    assert [s.on_trial_result(None, other, fine) for s in (forgetful, ours)] == ["STOP", "CONTINUE"]
    assert ours.on_trial_result(None, Trial("new", 6), weak) == "STOP"


def test_a_rung_holds_a_trial_once(studies: Path) -> None:
    record = tiny_record()
    for number, value in enumerate((1.0, 2.0)):
        record.ask()
        note(record, number, 2, value)
    ours = RecordASHA(record)
    assert scores(ours)[2] == [-2.0, -1.0]  # both go on, under names that Tune has yet to give
    for number in (0, 1):
        trial = Trial(f"again {number}", number)
        ours.on_trial_add(None, trial)
        ours.on_trial_result(None, trial, result(2, [1.0, 2.0][number]))  # a round that a dead driver had not heard of
        ours.on_trial_result(None, trial, result(4, 0.5))
    assert scores(ours)[2] == [-2.0, -1.0]


def test_a_score_that_is_no_number_stops_the_trial_and_is_not_recorded(once: StudyRecord) -> None:
    ours, trial = RecordASHA(once), Trial("a")
    ours.on_trial_add(None, trial)
    for bad in (nan, float("inf"), -float("inf")):
        assert ours.on_trial_result(None, trial, result(2, bad)) == "STOP"
        ours.on_trial_complete(None, trial, result(2, bad))
    assert ours.on_trial_result(None, trial, {"outer_steps": 2}) == "STOP"
    ours.on_trial_complete(None, trial, {"outer_steps": 2})
    assert scores(ours) == {2: [], 6: [], 18: []}
    before = stock()
    before.on_trial_add(None, trial)
    assert before.on_trial_result(None, trial, result(2, nan)) == "CONTINUE"  # which is why


# The searcher


def test_trials_left_come_first_then_new_ones_until_there_are_enough(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=4")
    for number in range(3):
        record.ask()
        note(record, number, 2, 1.0)
    note(record, 1, 4, 0.5)
    record.finish(0, "completed")
    record = load("tiny")
    searcher = RecordSearcher(record, record.resume(), Session(slots=Slots(9, 1.0, 0.0)))
    proposals = [searcher.suggest(name) for name in "abcd"]
    assert proposals[3] is None  # not now: the worker of a running one may die
    for number in (1, 2, 3):
        record.finish(number, "completed" if number < 3 else "failed")
    assert searcher.suggest("e") == Searcher.FINISHED
    places = [proposal["study"] for proposal in proposals[:3]]  # type: ignore[index]
    assert [(place["trial"], place["known"]) for place in places] == [(1, 4), (2, 2), (3, 0)]
    assert [Path(place["folder"]) for place in places] == [record.trial_folder(number) for number in (1, 2, 3)]
    for proposal, place in zip(proposals, places, strict=False):
        config = record.config(record.trial(place["trial"])).as_dict()
        assert proposal == {**config, "study": place}


def test_one_trial_is_proposed_ahead_of_the_free_slots(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=9")
    searcher = RecordSearcher(record, [], Session(slots=Slots(2, 1.0, 0.0)))
    assert [isinstance(searcher.suggest(name), dict) for name in "abcd"] == [True, True, True, False]
    assert searcher.suggest("e") is None  # not now
    record.finish(0, "failed")
    assert isinstance(searcher.suggest("f"), dict)


def test_with_a_single_slot_a_trial_is_proposed_once_the_one_before_has_ended(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=9")
    searcher = RecordSearcher(record, [], Session(slots=Slots(1, 1.0, 0.0)))
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", error=True)
    searcher.left.append(record.trial(0))  # its worker died
    again = searcher.suggest("b")
    assert isinstance(again, dict)
    assert again["study"]["trial"] == 0
    assert searcher.suggest("c") is None
    record.finish(0, "completed")
    assert isinstance(searcher.suggest("c"), dict)


def test_a_slot_is_spare_when_fewer_trials_are_left_than_slots(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=3")
    searcher = RecordSearcher(record, [], Session(slots=Slots(2, 1.0, 0.0)))
    proposals = [searcher.suggest(name) for name in "abc"]
    assert all(isinstance(proposal, dict) for proposal in proposals)
    assert not searcher.spare
    record.finish(0, "completed")
    assert not searcher.spare  # the third has its slot
    record.finish(1, "completed")
    assert searcher.spare


def test_no_new_trials_once_stopped(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    searcher = RecordSearcher(record, record.resume(), Session(slots=Slots(2, 1.0, 0.0)))
    searcher.session.stopping = True
    assert searcher.suggest("a") == Searcher.FINISHED
    assert len(record.trials()) == 1


def test_a_trial_that_is_to_be_alone_waits_for_the_others_and_they_for_it(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=4")
    searcher = RecordSearcher(record, [], Session(slots=Slots(2, 1.0, 0.0)))
    first, second = (searcher.suggest(name) for name in ("a", "b"))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    searcher.alone.append(record.trial(0))
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("c") is None  # b runs
    searcher.on_trial_complete("b")
    again = searcher.suggest("d")
    assert isinstance(again, dict)
    assert again["study"]["trial"] == 0
    assert searcher.suggest("e") is None  # d wants to be alone
    searcher.on_trial_complete("d")
    assert isinstance(searcher.suggest("f"), dict)


def test_leaving_calls_no_trial_done(studies: Path) -> None:
    """Tune would note it as over, and ASHA would not be asked."""
    session = Session(slots=Slots(1, 1.0, 0.0))
    stopper = Leave(session)
    session.leave(100.0)
    assert (session.closing, stopper("a", {}), stopper.stop_all()) == (True, False, False)
    session.leave()
    assert (stopper("a", {}), stopper.stop_all()) == (False, True)
