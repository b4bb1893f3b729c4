"""Copies are made beside a study by processes of their own; whatever befalls one is a line, and the study goes on."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from study.driving import noted, raymeta, tiny_record, until

from raymeta import installed
from raymeta.api.studies import open_study
from raymeta.errors import RunFailed, UserError
from raymeta.study.copies import copier
from raymeta.study.copies.copy import Copy, Keeper, Trial, found
from raymeta.study.record.record import StudyRecord

MINE = """
import os, sys
from raymeta.registry import tracker
from raymeta.study.copies.copy import Copy

@tracker("mine")
class Mine(Copy):
    module = "json"

    def take(self, trial):
        print("noise", flush=True)
        os.write(1, b"more noise\\n")
        if os.environ.get("MINE") == "raises":
            raise RuntimeError("their\\nserver is down")
        if os.environ.get("MINE") == "dies":
            os._exit(3)
        with open(self.record.folder / "mine.txt", "a") as file:
            file.write(f"{trial.number} {trial.state}\\n")

    def close(self):
        pass

    @staticmethod
    def where(record):
        return "mine.txt"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third tracker: a file, and an entry point that names it."""
    about = tmp_path / "site" / "mine-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[raymeta.trackers]\nmine = mine\n")
    (tmp_path / "site" / "mine.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed.forget()
    yield
    installed.forget()
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_a_tracker_from_outside_gets_every_trial(studies: Path, mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier, "PATIENCE_S", 250.0)
    record = tiny_record("one", "study.trials=2", "study.finalists=0")
    noted(record, 3.0, 2.0)
    said: list[str] = []
    with record.locked():
        record.copied_to(["mine"])
        with copier.Copies(record, said.append) as copies:
            noted(record, 1.0)
    assert (said, copies.problems, copies.whole) == ([], [], ["mine: mine.txt"])
    assert {line.split()[0] for line in (studies / "one" / "mine.txt").read_text().splitlines()} == {"0", "1"}
    assert open_study("one").record.plan.study.also == ("mine",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "why"), [("raises", "RuntimeError: their"), ("dies", "the process that copies ended (3)")]
)
def test_one_that_fails_is_a_line(
    studies: Path,
    mine: None,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    why: str,
) -> None:
    monkeypatch.setenv("MINE", how)
    monkeypatch.setattr(copier, "TRIED_S", 0.0)
    record = tiny_record("one", "study.trials=2", "study.finalists=0")
    noted(record, 3.0, 2.0)
    said: list[str] = []
    with copier.Copies(record, said.append, more=["mine"]) as copies:
        end = time.monotonic() + 60
        while not said and copies.copiers[0].process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    later = "`raymeta sync one --also mine` copies it later"
    assert copies.problems == [f"mine lacks something of it: {why}; {later}"]
    assert said == ([f"mine lacks this study for now: {why}; {later}"] if how == "raises" else [])


@pytest.mark.slow
def test_it_copies_on_where_its_driver_has_left(studies: Path, mine: None) -> None:
    record = tiny_record("one", "study.trials=2", "study.finalists=0")
    noted(record, 3.0)
    with copier.Copier("mine", record, lambda text: None, lambda: True) as left:
        assert left.process.stdout is not None
        os.dup2(os.open(os.devnull, os.O_RDONLY), left.process.stdout.fileno())  # as a driver that is gone
        until(lambda: (studies / "one" / "mine.txt").exists(), seconds=120)
        time.sleep(1)  # it says so to no reader
        noted(record, 2.0)
    assert left.process.wait(120) == 0
    assert (studies / "one" / "mine.txt").read_text().splitlines() == ["0 completed", "1 completed"]


def test_one_trial_that_fails_holds_up_no_other(studies: Path) -> None:
    """A server may refuse one run for good: one that a user has deleted there."""

    class First(Copy):
        def take(self, trial: Trial) -> None:
            if trial.number == 0:
                raise RuntimeError("it was deleted")

        def close(self) -> None:
            pass

        @staticmethod
        def where(record: StudyRecord) -> str:
            return ""

    record = tiny_record("one", "study.trials=3", "study.finalists=0")
    for score in (3.0, 2.0, 1.0):
        noted(record, score)
    keeper = Keeper(First(record))
    for copied in (0, 2, 2):
        with pytest.raises(RuntimeError, match="it was deleted"):
            keeper.look()
        assert keeper.copied == copied


def test_a_tracker_that_cannot_say_where_ends_no_study(mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found("mine"), "where", lambda record: record.nothing)
    said = copier.where("mine", object())  # type: ignore[arg-type]
    assert said == "mine: it does not say where (AttributeError: 'object' object has no attribute 'nothing')"


def test_names_and_what_they_need(mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError,
        match=r"unknown tracker 'tensorbord': did you mean 'tensorboard'\? \(allowed: mine, tensorboard, wandb\)",
    ):
        found("tensorbord")
    monkeypatch.setattr(found("mine"), "module", "not_there")
    with pytest.raises(UserError, match=r"^--also mine: not_there is not installed: pip install 'raymeta\[mine\]'$"):
        found("mine")


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_keeps_its_copies(studies: Path) -> None:
    from study.copies.test_tensorboard import assert_equal
    from study.driving import NAME, TINY, assert_mlflow_equals_record

    done = raymeta("search", *TINY, "--also", "tensorboard", "--also", "wandb", "study.trials=4", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert f"tensorboard: tensorboard --logdir {studies / NAME / 'tensorboard'}\n" in done.stderr
    record = open_study(NAME).record
    assert record.plan.study.also == ("tensorboard", "wandb")
    assert_equal(record)
    assert len(list(studies.glob("wandb/offline-run-*"))) == 4
    assert_mlflow_equals_record(NAME)
    (studies / NAME / "tensorboard").rename(studies / NAME / "away")
    (studies / NAME / "tensorboard").write_text("in the way")
    done = raymeta("extend", NAME, "-n", "1", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "tensorboard lacks this study for now" in line]
    assert "NotADirectoryError" in line
    assert open_study(NAME).settled
    with pytest.raises(RunFailed, match="tensorboard lacks something of it: NotADirectoryError"):
        open_study(NAME).sync()
    (studies / NAME / "tensorboard").unlink()
    assert open_study(NAME).sync() == [
        f"tensorboard: tensorboard --logdir {studies / NAME / 'tensorboard'}",
        f"wandb: project {NAME} of Weights & Biases, group {NAME}",
    ]
    assert_equal(open_study(NAME).record)
