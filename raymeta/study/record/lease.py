"""One driver per study on a store, which has no locks: an object says who drives, as long as it is renewed.

pyarrow cannot put an object only if there is none, so whoever takes a lease looks, after a moment, whether it is still
its own; and whoever has one looks again at every beat, and before it writes if it has not been heard of for a while.
"""

import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymeta.errors import StorageError, UserError
from raymeta.storage.places import RemotePath
from raymeta.study.record.threads import SideThread

BEAT_S = 5.0
STALE_S = 30.0  # without a beat, after which a driver is taken for dead
WATCH_S = 15.0  # before it is, somebody whose clock may be wrong looks for a beat that long
SETTLE_S = 1.0  # longer than two who take it at once can be apart
_KINDS = {"token": str, "host": str, "machine": str, "pid": int, "at": float}  # of what it holds


class Lease:
    """Who drives a study, as an object in its folder."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self._token = uuid.uuid4().hex
        self._renewed = 0.0
        self._lost = False
        self._guard = threading.Lock()

    @property
    def taken(self) -> bool:
        """Somebody drives the study right now."""
        there = self._read()
        return there is not None and not _dead(there) and _age(there) < STALE_S

    @property
    def driver(self) -> int | None:
        """The process of this machine that drives the study right now; None: another machine's does, or none."""
        there = self._read() if self.taken else None
        mine = there is not None and there["machine"] == this_machine() and there["pid"] > 0
        return int(there["pid"]) if there is not None and mine else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one who drives.

        Raises:
            UserError: another process is.
        """
        there = self._read()
        if there is not None and not _dead(there):
            if _age(there) < STALE_S:
                raise self._refusal(there)
            self._watch(there)
        self._beat()
        time.sleep(SETTLE_S)
        there = self._read()
        if there is None or there["token"] != self._token:
            raise self._refusal(there)
        stop = threading.Event()
        thread = SideThread(target=self._keep, args=(stop,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._give_back()

    def confirm(self) -> None:
        """Make sure that it is still ours.

        Raises:
            StorageError: another process drives the study, or the store is away.
        """
        if abs(time.time() - self._renewed) > STALE_S / 2:
            self._renew()
        if self._lost:
            raise StorageError(errno.ESTALE, "another process has taken the study over", str(self.path.parent))

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            try:
                self._renew()
            except StorageError:  # away; `confirm` asks again before anything is written
                continue

    def _renew(self) -> None:
        with self._guard:
            there = self._read()
            self._lost = self._lost or there is None or there["token"] != self._token
            if not self._lost:
                self._beat()

    def _beat(self) -> None:
        now = time.time()
        # Of one length always: whoever reads it while it grows or shrinks gets it cut off, or with zeros behind it.
        at = f"{now:.6f}"
        mine = {"token": self._token, "host": platform.node(), "machine": this_machine(), "pid": os.getpid(), "at": at}
        self.path.write_bytes(json.dumps(mine).encode())
        self._renewed = now

    def _watch(self, there: dict[str, Any]) -> None:
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_S / 4))
            if (now := self._read()) != there and now is not None:
                raise self._refusal(now)

    def _give_back(self) -> None:
        try:
            there = self._read()
            if there is not None and there["token"] == self._token:
                self.path.unlink(missing_ok=True)
        except StorageError:  # it ends by itself
            return

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.path.read_bytes())
            return {key: kind(found[key]) for key, kind in _KINDS.items()}
        except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError):  # there is none, or a damaged one
            return None

    def _refusal(self, there: dict[str, Any] | None) -> UserError:
        who = f"process {there['pid']} on {there['host']}" if there else "another process"
        return UserError(
            f"the study '{self.path.parent.name}' is being driven by {who}; should that be dead, its lease ends "
            f"{STALE_S:.0f} s after its last beat"
        )


def _age(there: dict[str, Any]) -> float:
    return time.time() - float(there["at"])


def _dead(there: dict[str, Any]) -> bool:
    """A process of this machine that is not there any more; of another machine's nothing can be said."""
    if there["machine"] != this_machine():
        return False
    try:
        os.kill(int(there["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def this_machine() -> str:
    """Where a process number means this process: this boot of this machine, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"
