"""What drivers and workers write is no damage, whatever the numbers; the rest is tests/report/test_damaged.py."""

import json
from math import inf, isnan, nan
from pathlib import Path

import pytest
from study.driving import load, tiny_record
from study.record.test_record import entry

from raymeta.study.record.damage import is_moment, is_number, is_round, is_scored

ROUND = {
    "outer_steps": 4,
    "train_loss": 1.0,
    "val_mse": 2.0,
    "val_ci95": 0.1,
    "seconds": 0.5,
    "at": 1.0,
    "diverged": False,
}
SCORED = {"of": {}, "values": [1.0], "reason": "", "at": 2.0, "seconds": 1.0}


@pytest.mark.parametrize("loss", [inf, nan, 1e308])
def test_a_round_that_diverged_is_noted_and_read(studies: Path, loss: float) -> None:
    record = tiny_record("one")
    record.ask()
    record.add_round(0, entry(2, None, train_loss=loss, at=1.0, last=True))
    record.finish(0)
    (trial,) = load("one").trials()
    assert trial.state == "diverged"
    (found,) = trial.rounds
    assert found["train_loss"] == loss or (isnan(loss) and isnan(found["train_loss"]))


@pytest.mark.parametrize(
    "change",
    [{}, {"val_ci95": nan}, {"train_loss": inf}, {"last": True}, {"hostname": "a"}, {"seconds": 0}, {"new": 3}],
)
def test_what_a_driver_writes(change: dict[str, object]) -> None:
    assert is_round("round 000000004", json.loads(json.dumps(ROUND | change)), "val_mse")


@pytest.mark.parametrize(
    "change",
    [
        {"outer_steps": 5}, {"outer_steps": True}, {"val_mse": nan}, {"val_mse": "2"}, {"val_mse": None},
        {"at": -1}, {"at": inf}, {"seconds": inf}, {"seconds": None}, {"hostname": 3}, {"diverged": 0},
        {"train_loss": 10**400}, {"val_loss": []},
    ],
)  # fmt: skip
def test_what_none_writes(change: dict[str, object]) -> None:
    assert not is_round("round 000000004", ROUND | change, "val_mse")
    left = {key: value for key, value in ROUND.items() if key != "val_ci95"}
    assert not is_round("round 000000004", left, "val_mse")
    assert not is_round("round 000000004", [], "val_mse")


def test_scores_of_a_finalist() -> None:
    assert is_scored(SCORED)
    assert is_scored(SCORED | {"values": [], "reason": "diverged"})
    for change in (
        {"values": []},
        {"values": [nan]},
        {"values": "1"},
        {"reason": None},
        {"at": None},
        {"seconds": None},
    ):
        assert not is_scored(SCORED | change), change
    assert not is_scored({key: value for key, value in SCORED.items() if key != "values"})


def test_numbers_and_moments() -> None:
    assert all(map(is_number, (0, -1.5, inf, nan, 10**299)))
    assert not any(map(is_number, (True, None, "1", 10**400)))
    assert all(map(is_moment, (0, 1.7e9)))
    assert not any(map(is_moment, (-1, inf, nan, 1e12, None)))
