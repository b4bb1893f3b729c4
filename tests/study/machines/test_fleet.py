"""A fleet: rounds of many trials, asked for at any time, each reported once and the same whatever happens."""

import queue
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from raymeta.config import TrialConfig, parse_trial
from raymeta.engine import traced
from raymeta.engine.traced import Traced
from raymeta.errors import UserError
from raymeta.schema import merge, parse_overrides
from raymeta.study.machines.fleet import group, worker
from raymeta.study.machines.fleet.crew import Answer, Crew
from raymeta.study.machines.fleet.fleets import Fleets, _Fleet
from raymeta.study.machines.fleet.width import MEASURED, SKIPPED
from raymeta.study.machines.resources import Slots
from raymeta.testing import small_trial
from raymeta.training.lanes import Lanes, lanes_of
from raymeta.training.trainer import Trainer

OUTER = {"outer": {"tasks_per_step": 4}, "budget": {"outer_steps": 6, "validate_every": 2}}


def config(seed: int, **sections: Any) -> dict[str, Any]:
    """Plain data of a small trial, of one of two structures."""
    own = {"maml": {"inner_steps": 1 + seed % 2, "inner_lr": 0.01 * (1 + seed)}, "seed": seed}
    return merge(small_trial("maml", "sinusoid").as_dict(), OUTER, own, sections)


def rounds(crew: Crew, folder: Path, trials: dict[int, dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """All rounds of trials, each asked for as soon as the one before is there."""
    told: dict[int, list[dict[str, Any]]] = {number: [] for number in trials}

    def take(answer: Answer) -> None:
        assert answer.metrics is not None, answer.error
        told[answer.trial].append(answer.metrics)
        if not answer.metrics["done"]:
            ask(answer.trial)

    def ask(number: int) -> None:
        heard = told[number][-1]["outer_steps"] if told[number] else 0
        if answer := crew.ask(number, trials[number], str(folder / str(number)), heard):
            take(answer)

    for number in trials:
        ask(number)
    while crew.busy:
        for answer in crew.work():
            take(answer)
    return told


def numbers(told: dict[int, list[dict[str, Any]]]) -> dict[int, list[dict[str, Any]]]:
    """Without what tells the time."""
    return {n: [{k: v for k, v in one.items() if k not in ("seconds", "wall")} for one in r] for n, r in told.items()}


def test_rounds_are_those_of_a_trial_that_is_alone_with_its_fleet(tmp_path: Path) -> None:
    """Of two structures, more trials than lanes, one that diverges."""
    trials = {n: config(n, **({"outer": {"lr": 1e30}} if n == 3 else {})) for n in range(10)}
    together = rounds(Crew(8), tmp_path / "together", trials)
    singly: dict[int, list[dict[str, Any]]] = {}
    for number in (0, 1, 3, 9):
        singly |= rounds(Crew(8), tmp_path / "singly", {number: trials[number]})
    of_those = {number: together[number] for number in singly}
    assert str(numbers(of_those)) == str(numbers(singly))  # a diverged round has no score, which equals nothing
    assert [len(told) for told in together.values()] == [3, 3, 3, 1, 3, 3, 3, 3, 3, 3]
    assert together[3][0]["diverged"]
    assert together[3][0]["done"]


def test_what_was_not_heard_of_is_told_first_and_nothing_twice(tmp_path: Path) -> None:
    trials = {n: config(n) for n in range(3)}
    whole = rounds(Crew(8), tmp_path / "whole", trials)
    dead = Crew(8)
    for number, data in trials.items():
        dead.ask(number, data, str(tmp_path / "killed" / str(number)), 0)
    for _ in range(2):
        dead.work()  # a round is saved, and its answers are lost with the fleet
    again = rounds(Crew(8), tmp_path / "killed", trials)
    assert numbers(again) == numbers(whole)
    assert dead.ask(0, trials[0], str(tmp_path / "killed" / "0"), 0) is not None


def test_a_trial_that_is_asked_for_twice_is_computed_once(tmp_path: Path) -> None:
    crew, data = Crew(8), config(0)
    for _ in range(2):
        assert crew.ask(0, data, str(tmp_path), 0) is None
    found = [answer for _ in range(3) for answer in crew.work()]
    assert [answer.metrics["outer_steps"] for answer in found if answer.metrics] == [2]
    crew.release(0)
    assert not crew.busy


def test_a_program_that_fails_is_left_and_one_that_needs_too_much_gets_narrower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = {"outer_steps": 20, "validate_every": 10}  # long enough for a wider one to be tried
    trials = {2 * n: config(2 * n, budget=probed) for n in range(10)}  # of one structure
    plain = rounds(Crew(8), tmp_path / "plain", trials)
    step = Lanes.step

    def too_much(self: Lanes, lanes: Any) -> int:
        if self.width > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, lanes)

    monkeypatch.setattr(Lanes, "step", too_much)
    narrower = rounds(Crew(16), tmp_path / "narrower", trials)
    notes = [one.pop("note") for of_trial in narrower.values() for one in of_trial]
    assert [*filter(None, notes)] == ["16 lanes do not fit into memory; it goes on in 8"]
    assert not any(one.pop("note") for of_trial in plain.values() for one in of_trial)
    assert numbers(narrower) == numbers(plain)

    def broken(self: Lanes, lanes: Any) -> int:
        raise RuntimeError("vmap: no batching rule")

    monkeypatch.setattr(Lanes, "step", broken)
    alone = rounds(Crew(16), tmp_path / "alone", {number: trials[number] for number in (0, 2)})
    assert alone[0][0]["note"] == "it runs alone, as its program failed: vmap: no batching rule"
    assert alone[2][-1]["val_mse"] == pytest.approx(plain[2][-1]["val_mse"], rel=1e-4)


def test_what_failed_is_out_of_memory_before_lanes_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    leave = Lanes.leave

    def too_much(self: Lanes, lanes: Any) -> int:
        large = torch.zeros(1)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def checked(self: Lanes, lane: int) -> Trainer:
        assert held[-1]() is None
        return leave(self, lane)

    monkeypatch.setattr(Lanes, "step", too_much)
    monkeypatch.setattr(Lanes, "leave", checked)
    told = rounds(Crew(8), tmp_path, {0: config(0)})
    assert told[0][0]["note"].startswith("it runs alone")
    assert held[-1]() is None


def test_a_fleet_that_cannot_go_on_dies(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """So that Ray starts it again, instead of waiting for answers that never come."""
    died: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(worker.os, "_exit", died.put)
    fleet = worker.Fleet(8, 0.0, 0)
    fleet._inbox.put(lambda: {}["what is not there"])
    assert died.get(timeout=60) == 1


@pytest.mark.parametrize(
    ("costs", "widths", "said"),
    [
        ({8: 1.0, 16: 1.1, 32: 1.2}, {8, 16, 32}, ""),
        ({8: 1.0, 16: 1.1, 32: 2.2}, {8, 16}, "16 lanes: a trial's share of a step is 69 ms, and of 32 69 ms"),
        ({8: 1.0, 16: 1.9}, {8}, "8 lanes: a trial's share of a step is 1.2e+02 ms, and of 16 1.2e+02 ms"),
        ({8: 1.0, 16: 3.0}, {8}, "8 lanes: a trial's share of a step is 1.2e+02 ms, and of 16 1.9e+02 ms"),
    ],
)
def test_as_many_lanes_as_pay_and_the_same_numbers(
    costs: dict[int, float], widths: set[int], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on by the cost of a width."""
    clock, used, step = [0.0], [], Lanes.step

    def costly(self: Lanes, lanes: Any) -> int:
        clock[0] += costs[self.width]
        used.append(self.width)
        return step(self, lanes)

    monkeypatch.setattr(group, "seconds", lambda device: clock[0])
    monkeypatch.setattr(Lanes, "step", costly)
    trials = {2 * n: config(2 * n, budget={"outer_steps": 40, "validate_every": 10}) for n in range(20)}
    told = rounds(Crew(32), tmp_path / "together", trials)
    notes = [*filter(None, (one.pop("note") for of_trial in told.values() for one in of_trial))]
    assert [note.removeprefix("trials of its structure stay in ") for note in notes] == [said] * bool(said)
    probed = len(costs) * (SKIPPED + MEASURED)
    assert set(used[:probed]) == set(costs)
    assert used[probed:]
    assert set(used[probed:]) <= widths
    costs.update({8: 1.0, 16: 9.0})
    singly = rounds(Crew(32), tmp_path / "singly", {0: trials[0], 38: trials[38]})
    for of_trial in singly.values():
        for one in of_trial:
            one.pop("note")
    assert numbers({0: told[0], 38: told[38]}) == numbers(singly)


def test_more_trials_than_lanes_take_turns(tmp_path: Path) -> None:
    """None waits while another has two rounds."""
    trials = {2 * n: config(2 * n) for n in range(20)}
    crew, heard = Crew(8), dict.fromkeys(trials, 0)
    for number, data in trials.items():
        crew.ask(number, data, str(tmp_path / str(number)), 0)
    while crew.busy:
        for answer in crew.work():
            assert answer.metrics is not None
            heard[answer.trial] = answer.metrics["outer_steps"]
            assert heard[answer.trial] <= min(heard.values()) + 4
            if not answer.metrics["done"]:
                crew.ask(answer.trial, trials[answer.trial], str(tmp_path / str(answer.trial)), heard[answer.trial])
    assert set(heard.values()) == {6}


def test_a_program_that_cannot_be_traced_is_told_once_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = {2 * n: config(2 * n) for n in range(2)}
    plain = rounds(Crew(8), tmp_path / "plain", trials)

    def broken(self: Traced, *about: Any) -> Any:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(traced, "AFTER", 2)
    monkeypatch.setattr(Traced, "_made", broken)
    found = rounds(Crew(8), tmp_path / "untraced", trials)
    notes = [note for of_trial in found.values() for one in of_trial if (note := one.pop("note"))]
    assert notes == ["its program is slower, as it can't be traced: no such operation"]
    assert not any(one.pop("note") for of_trial in plain.values() for one in of_trial)
    assert numbers(found) == numbers(plain)


def test_a_trial_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    crew = Crew(8)
    refused = crew.ask(0, config(0, maml={"inner_steps": -1}), str(tmp_path / "0"), 0)
    assert refused is not None
    assert isinstance(refused.error, UserError)
    assert len(rounds(crew, tmp_path, {1: config(1)})[1]) == 3


def test_trials_go_where_their_structure_is() -> None:
    fleets = Fleets(Slots(2, 1.0, 0.0), 8, [_Fleet("a", None), _Fleet("b", None)])
    one, other = (parse_trial(config(seed)) for seed in range(2))

    def place(trial: int, config: TrialConfig) -> Any:
        fleets.place(trial, config, 0)
        return fleets._places[trial].fleet.actor

    assert [place(n, one) for n in range(4)] == ["a"] * 4
    assert place(4, one) == "b"  # which has nothing to do
    assert [place(n, other) for n in range(5, 8)] == ["b"] * 3
    for n in range(3):
        del fleets._places[n]
    assert place(8, other) == "b"
    del fleets._places[7]
    assert place(9, other) == "b"
    del fleets._places[9]
    fleets._fleets[1].here = False  # it failed, and has not answered since
    assert place(9, other) == "a"
    assert fleets.count == 16
    assert fleets.per_trial == {"cpu": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("lanes", "gpu", "most"), [("auto", False, 16), ("auto", True, 0), ("off", False, 0), (4, True, 4)]
)
def test_how_many_lanes(lanes: Any, gpu: bool, most: int) -> None:
    assert lanes_of(parse_trial(config(0, engine={"lanes": lanes})), gpu=gpu) == most


def test_other_lanes_are_refused() -> None:
    assert parse_trial(config(0, engine=parse_overrides(["lanes=off"]))).engine.lanes == "off"
    for lanes in (1, "many", 2.5, True):
        with pytest.raises(UserError, match=r"engine.lanes: found .*; allowed: auto, off, 2 or more"):
            parse_trial(config(0, engine={"lanes": lanes}))
