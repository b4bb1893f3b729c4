"""A process is known by its number and its beginning, and what is said of it ends no study."""

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from raymeta.study.record.folder import LOCK, driver_of
from raymeta.study.record.lease import this_machine
from raymeta.study.record.pulse import FILE, Beat, Pulse, _born, last_beat


def test_a_number_that_came_again_is_another_process(tmp_path: Path) -> None:
    with Pulse([tmp_path]):
        mine = last_beat(tmp_path)
    assert mine is not None
    assert mine.alive
    assert replace(mine, born=0).alive  # an older raymeta did not say
    assert not replace(mine, born=mine.born + 1).alive


def test_one_that_ended_and_was_not_collected_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        beat = Beat(this_machine(), pid=process.pid, born=_born(process.pid))
        assert beat.alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.kill(process.pid, 0)  # its number is still there
        assert not beat.alive


def test_what_a_killed_driver_has_left_names_no_other_process(tmp_path: Path) -> None:
    """A stranger with its number would get the signal that is meant for the driver."""
    with Pulse([tmp_path]):
        mine = last_beat(tmp_path)
        with FileLock(str(tmp_path / LOCK)):
            assert driver_of(tmp_path) == os.getpid()
    assert mine is not None
    (tmp_path / FILE).write_text(json.dumps(asdict(replace(mine, born=mine.born + 1))))
    with FileLock(str(tmp_path / LOCK)):
        assert driver_of(tmp_path) is None


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"at": NaN}', '{"started": -Infinity}', '{"left_s": 1e999}', '{"pid": "x"}']
)
def test_a_damaged_one_is_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text('{"pid": 1, "left_s": null}')
    assert last_beat(tmp_path) == Beat(pid=1)
    (tmp_path / FILE).write_text(damage)
    assert last_beat(tmp_path) is None


def test_what_is_shown_may_fail(tmp_path: Path) -> None:
    def fails() -> Beat:
        raise OSError("the store is away")

    with Pulse([tmp_path]) as pulse:
        before = last_beat(tmp_path)
        pulse.shown = fails
        pulse.beat()
        assert last_beat(tmp_path) == before
