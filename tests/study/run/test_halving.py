"""Successive halving as Tune asks for it: stock ASHA's decisions or the paper's, on rungs that outlive the driver."""

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
from study.driving import ONE, assert_mlflow_equals_record, kill, load, parse, raymeta, start, tiny_record, until

from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import baseline
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.halving import Promoting, Stopping, end_waiting, promoted, scheduler_of, to_promote
from raymeta.study.run.searcher import RecordSearcher

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


def note(record: StudyRecord, number: int, steps: int, value: float, **more: bool) -> None:
    entry = {**result(steps, value), "val_ci95": 0.0, "diverged": False, "seconds": 0.1, "at": 0.0}
    record.add_round(number, entry | more)


def scores(scheduler: ASHAScheduler) -> dict[int, list[float]]:
    rungs = scheduler.rungs if isinstance(scheduler, Stopping) else dict(scheduler._brackets[0]._rungs)
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
    expected, ours = stock(), Stopping(once)
    assert play(ours, feed, {}) == play(expected, feed, {})
    assert scores(ours) == scores(expected)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feed=feeds(), deaths=st.sets(st.integers(0, 44)))
@example(feed=[(0, 2.0), (0, 2.0), (0, 1.0), (0, 1.0), (1, 1.9)], deaths={2})
def test_a_trial_whose_worker_died_keeps_its_place_in_the_rungs(
    feed: Feed, deaths: set[int], once: StudyRecord
) -> None:
    expected, ours = stock(), Stopping(once)
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
        restored = Stopping(load("tiny"))
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
    forgetful, ours = stock(), Stopping(record)
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
    ours = Stopping(record)
    assert scores(ours)[2] == [-2.0, -1.0]  # both go on, under names that Tune has yet to give
    for number in (0, 1):
        trial = Trial(f"again {number}", number)
        ours.on_trial_add(None, trial)
        ours.on_trial_result(None, trial, result(2, [1.0, 2.0][number]))  # a round that a dead driver had not heard of
        ours.on_trial_result(None, trial, result(4, 0.5))
    assert scores(ours)[2] == [-2.0, -1.0]


def test_a_score_that_is_no_number_stops_the_trial_and_is_not_recorded(once: StudyRecord) -> None:
    ours, trial = Stopping(once), Trial("a")
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


# Promotions

Values = dict[tuple[int, int], float]  # of a trial, at outer steps


@settings(max_examples=100, deadline=None)
@given(scores=st.permutations(range(27)), reduction=st.integers(2, 4), data=st.data())
def test_who_is_promoted(scores: list[int], reduction: int, data: st.DataObject) -> None:
    """Against the paper's words, by counting; trials arrive and are promoted in any order."""
    there: dict[int, dict[int, float]] = {2: {}, 6: {}}
    waiting, left = dict[int, int](), list(range(9))
    running: list[tuple[int, int]] = []  # trials, and the rung that they are on their way to
    while True:
        may_pass = {rung: _may_pass(there[rung], waiting, rung, reduction) for rung in (6, 2)}
        rung, free = next(((rung, free) for rung, free in may_pass.items() if free), (0, set()))
        one = promoted(there, waiting, reduction)
        assert one == max(free, key=lambda trial: there[rung][trial], default=None)
        can = [name for name, may in (("promote", one is not None), ("arrive", running), ("begin", left)) if may]
        if not can:
            break
        match data.draw(st.sampled_from(can)):
            case "promote":
                assert one is not None
                running.append((one, 3 * waiting.pop(one)))
            case "arrive":
                trial, at = running.pop(data.draw(st.integers(0, len(running) - 1)))
                if at in there:
                    there[at][trial], waiting[trial] = scores[trial + 9 * (at == 6)], at
            case "begin":
                running.append((left.pop(), 2))


def _may_pass(there: dict[int, float], waiting: dict[int, int], rung: int, reduction: int) -> set[int]:
    """By counting who is better."""
    allowed = len(there) // reduction
    return {
        one
        for one, score in there.items()
        if waiting.get(one) == rung and sum(other > score for other in there.values()) < allowed
    }


def drive(record: StudyRecord, values: Values, rounds: int = 10**6) -> None:
    """One trial at a time, as Tune and the driver do it, for at most so many rounds; then nothing more is noted."""
    searcher, scheduler = (
        RecordSearcher(record, record.resume(), Session(slots=Slots(1, 1.0, 0.0))),
        scheduler_of(record),
    )
    budget = record.plan.base.budget.outer_steps
    for turn in range(10**6):
        proposal = searcher.suggest(str(turn))
        if proposal == Searcher.FINISHED:
            end_waiting(record)
            return
        assert isinstance(proposal, dict)
        number, steps = proposal["study"]["trial"], proposal["study"]["known"]
        decision = TrialScheduler.CONTINUE
        while decision == TrialScheduler.CONTINUE and steps < budget:
            if rounds == 0:
                return
            rounds, steps = rounds - 1, steps + 2
            decision = scheduler.on_trial_result(None, Trial(str(turn), number), result(steps, values[number, steps]))
            over = decision == TrialScheduler.STOP or steps == budget
            said = {"waits" if steps < budget else "last": True} if over else {}
            note(record, number, steps, values[number, steps], **said)
        searcher.on_trial_complete(str(turn))
        if record.trial(number).state != "waiting":
            record.finish(number)


@settings(max_examples=15, deadline=None)
@given(
    values=st.permutations([float(value) for value in range(63)]),
    deaths=st.lists(st.integers(0, 12), max_size=3),
)
def test_a_search_with_promotions_goes_on_as_an_uninterrupted_one(
    values: list[float], deaths: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = {(number, steps): values[9 * number + place] for number in range(7) for place, steps in enumerate(STEPS)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("promoting")))
        words = ("study.trials=7", "study.halving=promoting", "study.reduction=2")
        whole, cut = (tiny_record(name, *words) for name in ("whole", "cut"))
        drive(whole, found)
        for rounds in deaths:
            drive(cut, found, rounds)
            cut = load("cut")
        drive(cut, found)
        ends = [
            [(trial.state, trial.rounds, trial.point) for trial in record.trials()] for record in (whole, load("cut"))
        ]
        assert ends[0] == ends[1]
        assert whole.over
        assert {trial.state for trial in whole.trials()} <= {"completed", "pruned"}
        for rung in whole.plan.rungs[:-1]:
            there = {t.number: found[t.number, rung] for t in whole.trials() if t.outer_steps >= rung}
            gone = {trial.number for trial in whole.trials() if trial.outer_steps > rung}
            best = sorted(there, key=there.__getitem__)[: -(-len(there) // 2)]
            assert gone >= set(best)
            assert gone or not there
        start = baseline(whole)
        assert start is not None
        assert (start.state, start.number) == ("completed", 1)


def test_the_un_regularized_start_goes_to_the_end_once_all_have_begun(studies: Path) -> None:
    """However bad it is, after all that are promoted and before thirds are rounded up."""
    record = tiny_record("tiny", "study.trials=4", "study.halving=promoting")
    for number, value in enumerate((1.0, 9.0, 2.0)):
        record.ask()
        note(record, number, 2, value, waits=True)
    assert to_promote(record) == 0
    record.promote(0)
    assert to_promote(record) is None  # a fourth trial is to come
    record.ask()
    note(record, 3, 2, 3.0, waits=True)
    assert baseline(record) == record.trial(1)
    assert to_promote(record) == 1
    note(record, 0, 6, 5.0, waits=True)
    record.promote(1)
    assert to_promote(record) is None  # one that runs may still come to a rung
    scheduler = scheduler_of(record)
    assert scheduler.on_trial_result(None, Trial("", 1), result(6, 9.0)) == "CONTINUE"
    note(record, 1, 6, 9.0)
    note(record, 1, 18, 9.0, last=True)
    record.finish(1)
    assert to_promote(record) == 0
    record.promote(0)
    note(record, 0, 18, 4.0, last=True)
    record.finish(0)
    assert to_promote(record) == 2
    record.promote(2)
    note(record, 2, 6, 7.0, waits=True)
    assert to_promote(record) is None
    assert end_waiting(record) == [2, 3]
    assert record.over


def test_a_trial_waits_until_it_is_among_the_best(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=9", "study.halving=promoting")
    scheduler = scheduler_of(record)
    assert isinstance(scheduler, Promoting)
    for number, value in enumerate((1.0, 2.0)):
        record.ask()
        assert scheduler.on_trial_result(None, Trial("", number), result(2, value)) == "STOP"
        note(record, number, 2, value, waits=True)
    assert [trial.state for trial in record.trials()] == ["waiting", "waiting"]
    assert (to_promote(record), end_waiting(record), record.over) == (None, [], False)
    record.ask()
    assert scheduler.on_trial_result(None, Trial("", 2), result(2, 3.0)) == "STOP"  # the first is better
    note(record, 2, 2, 3.0, waits=True)
    assert to_promote(record) == 0
    assert record.promote(0).state == load("tiny").trial(0).state == "running"
    assert to_promote(record) is None
    record.ask()
    assert scheduler.on_trial_result(None, Trial("", 0), result(4, 0.1)) == "CONTINUE"  # no rung
    assert scheduler.on_trial_result(None, Trial("", 3), result(2, nan)) == "STOP"
    assert [trial.number for trial in record.resume()] == [0, 3]
    assert [trial.number for trial in record.ranking()] == [0, 1, 2]


def test_one_that_is_promoted_at_once_goes_on(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=9", "study.halving=promoting")
    scheduler = scheduler_of(record)
    for number, value in enumerate((2.0, 3.0)):
        record.ask()
        note(record, number, 2, value, waits=True)
    record.ask()
    assert scheduler.on_trial_result(None, Trial("", 2), result(2, 1.0)) == "CONTINUE"
    note(record, 2, 2, 1.0)
    assert [trial.state for trial in record.trials()] == ["waiting", "waiting", "running"]


@pytest.mark.ray
def test_a_driver_is_killed_while_trials_wait(studies: Path) -> None:
    """The command, killed, against the rules alone on the scores that it noted."""
    words, journal = ("study.halving=promoting", "study.finalists=0"), studies / "cut" / "journal.log"
    driver = start("search", *ONE, *words, "--name", "cut")
    until(lambda: journal.exists() and journal.read_bytes().count(b'"waits"') >= 4, driver)
    kill(driver)
    assert "waiting" in {trial.state for trial in load("cut").trials()}
    status = raymeta("status", "cut")
    assert "waiting" in status.stdout
    done = raymeta("resume", "cut", "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout)["trials"]["waiting"] == 0
    assert_mlflow_equals_record("cut")
    found, alone = load("cut"), tiny_record("alone", "budget.outer_steps=54", *words)
    drive(alone, {(t.number, entry["outer_steps"]): entry["val_mse"] for t in found.trials() for entry in t.rounds})
    expected = [(trial.state, trial.point, trial.outer_steps) for trial in alone.trials()]
    assert [(trial.state, trial.point, trial.outer_steps) for trial in found.trials()] == expected
    assert sorted(trial.outer_steps for trial in found.trials()) == [2, 2, 2, 2, 2, 6, 6, 54]
