"""Saves in the middle of a round: what goes on from one ends with the numbers of a run that was never interrupted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reference import CURVES, small_trial
from training.test_trainer import metrics, same, train

from raymeta.training import saving
from raymeta.training.saving import Saving, ask_to_save
from raymeta.training.trainer import Trainer, resumed

SECTIONS = {"budget": {"outer_steps": 6, "validate_every": 3}, "regularizers": {"dropgrad": {"rate": 0.2}}}


class Left(Exception):
    """The worker is gone."""


def leave_at(trainer: Trainer, step: int, look: Callable[[], None]) -> Callable[[], None]:
    def after_step() -> None:
        look()
        if trainer.outer_step == step:
            raise Left

    return after_step


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_a_run_that_was_left_in_the_middle_of_a_round(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "LOOK_S", 0.0)
    config, checkpoint = small_trial(CURVES, **SECTIONS), tmp_path / "checkpoint.pt"
    whole = train(Trainer(config))

    first = Trainer(config)
    worker = Saving(first, checkpoint)
    monkeypatch.setattr(worker, "look", leave_at(first, step, worker.look))
    for _ in range(step // 3):
        worker.round()
    ask_to_save(tmp_path)
    with pytest.raises(Left):
        worker.round()
    # It saved at the first step after it was asked, and the request is gone.
    asked_at = 1 if step < 3 else 4
    second, note = resumed(config, checkpoint)
    assert (second.outer_step, len(second.rounds), note) == (asked_at, asked_at // 3, "")
    assert sorted(path.name for path in tmp_path.iterdir() if "checkpoint" not in path.name) == []

    train(second)
    assert metrics(second) == metrics(whole)
    assert same(second.state_dict(), whole.state_dict())


def test_a_long_round_is_saved_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    trainer = Trainer(small_trial(CURVES, budget={"outer_steps": 9, "validate_every": 9}))
    saved: list[int] = []
    monkeypatch.setattr(trainer, "save", lambda path: saved.append(trainer.outer_step))
    update = trainer.outer_update

    def slow() -> object:
        now[0] += 25.0
        return update()

    monkeypatch.setattr(trainer, "outer_update", slow)
    Saving(trainer, tmp_path / "checkpoint.pt").round()
    assert saved == [3, 6, 9, 9]  # after 75 s each, and when the round is over


def test_asking_where_nothing_is_yet(tmp_path: Path) -> None:
    ask_to_save(tmp_path / "trials" / "0007")
    assert (tmp_path / "trials" / "0007" / "save").exists()
    (tmp_path / "file").touch()
    ask_to_save(tmp_path / "file" / "0008")  # can't be written: it saves when it does
