"""How many lanes pay: found by measuring, on times that are made up here."""

import itertools
from pathlib import Path

import pytest
import torch

from raymeta.study.machines.fleet import width
from raymeta.study.machines.fleet.width import MEASURED, SKIPPED, Width, available, room, seconds

STEPS = SKIPPED + MEASURED


def settle(probe: Width, costs: dict[int, float], trials: int, steps: int = 10 * STEPS) -> list[int]:
    """The widths of outer steps of so many trials, one after the other without repetitions."""
    used = []
    for _ in range(steps):
        used.append(probe.wanted(trials, lambda: True))
        probe.took(used[-1], costs[used[-1]])
    return [one for one, _ in itertools.groupby(used)]


def test_it_doubles_as_long_as_a_share_falls() -> None:
    probe = Width(64, tasks=4)
    assert settle(probe, {8: 1.0, 16: 1.3, 32: 2.0, 64: 3.5}, trials=64) == [8, 16, 32, 64]
    assert probe.note == ""
    assert not probe.measuring
    assert probe.programs == {8, 16, 32, 64}


@pytest.mark.parametrize("cost", [1.81, 2.0, 5.0])  # a win of less than a tenth, a tie, a loss
def test_it_goes_back_where_it_does_not(cost: float) -> None:
    probe = Width(64, tasks=4)
    assert settle(probe, {8: 1.0, 16: cost}, trials=64) == [8, 16, 8]
    assert probe.programs == {8}
    assert probe.note.startswith(
        "trials of its structure stay in 8 lanes: a trial's share of a step is 1.2e+02 ms, and"
    )


def test_a_wider_one_is_tried_only_for_trials_that_would_fill_it() -> None:
    probe, costs = Width(32, tasks=4), {8: 1.0, 16: 1.3, 32: 1.5}
    assert settle(probe, costs, trials=8) == [8]
    assert settle(probe, costs, trials=9, steps=STEPS - 1) == [16]
    assert settle(probe, costs, trials=3) == [8]  # meanwhile
    assert settle(probe, costs, trials=9) == [16, 8]  # nine of sixteen cost more than eight, and one in turn
    assert settle(probe, costs, trials=16) == [16]
    assert settle(probe, costs, trials=17) == [32, 16]
    assert settle(probe, costs, trials=32) == [32]


def test_the_bound_holds_and_need_not_be_a_doubling() -> None:
    probe = Width(20, tasks=4)
    assert settle(probe, {8: 1.0, 16: 1.1, 24: 1.2}, trials=100) == [8, 16, 24]
    assert settle(Width(2, tasks=4), {8: 1.0}, trials=100) == [8]
    assert settle(Width(8, tasks=32), {2: 1.0, 4: 1.1, 8: 1.2}, trials=100) == [2, 4, 8]


def test_a_few_slow_steps_decide_nothing() -> None:
    probe = Width(16, tasks=4)
    for number in range(2 * STEPS):
        at = probe.wanted(16, lambda: True)
        probe.took(at, {8: 1.0, 16: 1.5}[at] * (1.0 if number % 3 == 0 else 7.0))
    assert probe.wanted(16, lambda: True) == 16


def test_memory_bounds_it() -> None:
    short = Width(32, tasks=4)
    assert [short.took(8, 1.0) for _ in range(STEPS) if short.wanted(32, lambda: False)]
    assert short.wanted(32, lambda: False) == short.wanted(32, lambda: True) == 8  # asked once
    assert short.note == "trials of its structure stay in 8 lanes: memory is too short for 16"
    failed, costs = Width(32, tasks=4), {8: 1.0, 16: 1.1, 32: 1.2}
    settle(failed, costs, trials=16)
    assert failed.wanted(32, lambda: True) == 32
    assert failed.less(32) == 16
    assert settle(failed, costs, trials=32) == [16]
    assert Width(32, tasks=4).less(8) == 0


def test_memory_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine, of a container with a limit and one without."""
    whole = available()
    assert 0 < whole < float("inf")
    monkeypatch.setattr(width, "GROUP", tmp_path)
    assert available() == pytest.approx(whole, rel=0.5)
    for name, text in (("current", "9000"), ("stat", "anon 5000\ninactive_file 3000\n"), ("max", "10000")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available() == 4000
    assert not room(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("max")
    assert available() > 4000


def test_seconds_are_those_of_this_thread() -> None:
    start = seconds(torch.device("cpu"))
    sum(range(100_000))
    assert seconds(torch.device("cpu")) > start
