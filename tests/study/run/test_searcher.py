"""Trials as Tune asks for them: those that a dead driver left, those that are promoted, new ones."""

from pathlib import Path

from ray.tune.search import Searcher
from study.driving import load, tiny_record

from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.driver import Leave
from raymeta.study.run.searcher import RecordSearcher


def note(record: StudyRecord, number: int, steps: int, value: float, **more: bool) -> None:
    entry = {"outer_steps": steps, "val_mse": value, "val_ci95": 0.0, "diverged": False, "seconds": 0.1, "at": 0.0}
    record.add_round(number, entry | more)


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
