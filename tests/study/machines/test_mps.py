"""CUDA's MPS is switched on and off by its real protocol, spoken with a program that stands for NVIDIA's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from study.driving import until
from study.fake_mps import calls, fake_mps

from raymeta.errors import UserError
from raymeta.study.machines import mps


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of the calls of a program on PATH; `tmp_path` is where a user's own daemon would be."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in (mps.PIPES, mps.LOGS, mps.SWITCH):
        monkeypatch.delenv(name, raising=False)
    yield fake_mps(tmp_path)
    mps.switch_off()


def test_on_and_off(log: Path, tmp_path: Path) -> None:
    mps.prepare()
    folder = os.environ[mps.PIPES]
    assert Path(folder).stat().st_mode & 0o077 == 0  # nobody else's processes may join in
    assert mps.switch_on() == "on"
    mps.switch_off()
    assert calls(log) == [f"get_server_list {tmp_path}", f"start {folder}", f"quit {folder}"]
    assert mps.PIPES not in os.environ
    assert not Path(folder).exists()


def test_what_is_not_needed_is_not_started(log: Path) -> None:
    mps.prepare()
    mps.switch_off()
    assert len(calls(log)) == 1
    assert mps.PIPES not in os.environ


def test_a_daemon_that_was_there_is_used_and_left_alone(log: Path, tmp_path: Path) -> None:
    (tmp_path / "daemon").touch()
    mps.prepare()
    assert mps.switch_on() == "on, by the daemon that was there"
    mps.switch_off()
    assert calls(log) == [f"get_server_list {tmp_path}"]
    assert mps.PIPES not in os.environ


def test_the_users_own_folder_is_kept(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own := tmp_path / "own").mkdir()
    monkeypatch.setenv(mps.PIPES, str(own))
    mps.prepare()
    assert mps.switch_on() == "on"
    mps.switch_off()
    assert calls(log)[1:] == [f"start {own}", f"quit {own}"]
    assert own.exists()


def test_off_if_the_user_says_so(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mps.SWITCH, "off")
    mps.prepare()
    assert mps.switch_on() == "off: RAYMETA_MPS=off"
    assert calls(log) == []
    monkeypatch.setenv(mps.SWITCH, "of")
    with pytest.raises(UserError, match=r"^RAYMETA_MPS: found 'of'; allowed: on, off$"):
        mps.prepare()


def test_off_where_it_is_missing_or_does_not_start(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").touch()
    mps.prepare()
    assert mps.switch_on() == "off: nvidia-cuda-mps-control -d failed"
    mps.switch_off()
    monkeypatch.setenv("PATH", "/nowhere")
    mps.prepare()
    assert mps.switch_on() == "off: no nvidia-cuda-mps-control on PATH"


def test_a_killed_driver_leaves_no_daemon(log: Path) -> None:
    code = "from raymeta.study.machines import mps; mps.prepare(); print(mps.switch_on(), flush=True); input()"
    driver = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "on\n"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    until(lambda: calls(log)[-1].startswith("quit "), seconds=20)
