"""A fleet: rounds of many trials, asked for at any time, each reported once and the same whatever happens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raymeta.config import TrialConfig, parse_trial
from raymeta.engine import traced
from raymeta.engine.traced import Traced
from raymeta.errors import UserError
from raymeta.schema import merge, parse_overrides
from raymeta.study.machines.fleet.crew import Answer, Crew
from raymeta.study.machines.fleet.fleets import Fleets, _Fleet
from raymeta.study.machines.resources import Slots
from raymeta.testing import small_trial
from raymeta.training.lanes import Lanes, lanes_of

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
    trials = {2 * n: config(2 * n) for n in range(10)}  # of one structure
    plain = rounds(Crew(8), tmp_path / "plain", trials)
    step = Lanes.step

    def too_much(self: Lanes, lanes: Any) -> None:
        if self.width > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, lanes)

    monkeypatch.setattr(Lanes, "step", too_much)
    narrower = rounds(Crew(16), tmp_path / "narrower", trials)
    assert narrower[0][0]["note"] == "16 lanes do not fit into memory; it goes on in 8"
    narrower[0][0]["note"] = ""
    assert numbers(narrower) == numbers(plain)

    def broken(self: Lanes, lanes: Any) -> None:
        raise RuntimeError("vmap: no batching rule")

    monkeypatch.setattr(Lanes, "step", broken)
    alone = rounds(Crew(16), tmp_path / "alone", trials)
    assert alone[0][0]["note"] == "it runs alone, as its program failed: vmap: no batching rule"
    assert alone[2][-1]["val_mse"] == pytest.approx(plain[2][-1]["val_mse"], rel=1e-4)


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
