"""One driver per study on a store: others are refused until it is gone or dead; one taken for dead is told so."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from raymeta.errors import StorageError, UserError
from raymeta.storage.places import RemotePath
from raymeta.study.record import lease as module
from raymeta.study.record.lease import Lease


@pytest.fixture
def path(bucket: RemotePath, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    for name, seconds in (("BEAT_S", 0.05), ("STALE_S", 2.0), ("WATCH_S", 0.3), ("SETTLE_S", 0.05)):
        monkeypatch.setattr(module, name, seconds)
    return bucket / request.node.name / "a-study" / "driver.lease"


def leave(path: RemotePath, **about: Any) -> None:
    """A lease as another machine's driver left it."""
    other = {"token": "x", "host": "elsewhere", "machine": "elsewhere 1", "pid": 7, "at": time.time()}
    path.write_bytes(json.dumps(other | about).encode())


def test_one_at_a_time(path: RemotePath) -> None:
    assert not Lease(path).taken
    with Lease(path).held():
        assert Lease(path).taken
        with pytest.raises(UserError) as caught, Lease(path).held():
            pytest.fail("two drivers")
        assert str(caught.value).startswith(
            f"the study 'a-study' is being driven by process {os.getpid()} on {platform.node()}; should that be dead, "
        )
    assert not path.exists()
    with Lease(path).held():
        pass


def test_it_is_renewed(path: RemotePath) -> None:
    with Lease(path).held():
        read = []
        for _ in range(20):
            read.append(path.read_bytes())
            time.sleep(0.03)
    beats = [json.loads(data) for data in read]
    assert {beat["token"] for beat in beats} == {beats[0]["token"]}
    times = [float(beat["at"]) for beat in beats]
    assert times == sorted(times)
    assert len(set(times)) > 5
    assert len({len(data) for data in read}) == 1  # pyarrow mixes two states of an object if its length changes


def test_a_dead_process_of_this_machine_has_none(path: RemotePath) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave(path, machine=module.this_machine(), pid=gone.pid)
    assert not Lease(path).taken
    with Lease(path).held():
        assert Lease(path).taken
    leave(path, machine=module.this_machine(), pid=os.getpid())
    assert Lease(path).taken


def test_another_machine_s_ends_once_it_is_stale(path: RemotePath) -> None:
    leave(path)
    with pytest.raises(UserError, match="process 7 on elsewhere"), Lease(path).held():
        pytest.fail("two drivers")
    leave(path, at=time.time() - 3)
    assert not Lease(path).taken
    with Lease(path).held():
        pass


def test_a_wrong_clock_takes_nobody_for_dead(path: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 5.0)
    leave(path, at=time.time() - 3600)
    beat = threading.Timer(0.5, lambda: leave(path, at=time.time() - 3599))
    beat.start()
    with pytest.raises(UserError, match="is being driven"), Lease(path).held():
        pytest.fail("two drivers")
    beat.join()


def test_of_two_at_once_one_gets_it(path: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease(path)
    monkeypatch.setattr(time, "sleep", lambda seconds: leave(path))  # while it waits whether another one comes
    with pytest.raises(UserError, match="process 7 on elsewhere"), first.held():
        pytest.fail("two drivers")
    assert json.loads(path.read_bytes())["token"] == "x"


def test_whoever_was_taken_for_dead_is_told_before_it_writes(path: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 60.0)  # as a laptop that slept
    mine = Lease(path)
    with mine.held():
        mine.confirm()
        leave(path)
        mine._renewed -= 2
        with pytest.raises(StorageError, match=r"a-study.*: another process has taken the study over"):
            mine.confirm()
    assert json.loads(path.read_bytes())["token"] == "x"


def test_a_store_that_is_away_for_a_while(path: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Lease(path)
    with mine.held():
        with monkeypatch.context() as patch:

            def away(self: RemotePath) -> bytes:
                raise StorageError(5, "away", str(self))

            patch.setattr(RemotePath, "read_bytes", away)
            time.sleep(0.2)
            mine._renewed -= 2
            with pytest.raises(StorageError, match="away"):
                mine.confirm()
        mine.confirm()
    assert not path.exists()
