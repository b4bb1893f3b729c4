"""The pulse of a driver: `driver.json` in the folder of what it drives, renewed every two seconds while it lives.

It says which process it is and what it shows beside the record, for those who look from another shell or machine. Who
ends in order deletes it; so one that is there without a living driver says that its driver was killed.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from raymeta.errors import shown
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.study.record.lease import STALE_S, this_machine
from raymeta.study.record.threads import SideThread

FILE = "driver.json"
BEAT_S = 2.0


@dataclass(frozen=True)
class Line:
    """A job of the driver's pool: a finalist or a final run.

    Attributes:
        steps: outer steps done, of those that it takes in all.
        of: 0: it only scores.
        score: the best validation so far, or the result, as it is shown.
    """

    name: str
    state: str
    steps: int = 0
    of: int = 0
    score: str = "-"


@dataclass(frozen=True)
class Beat:
    """What a driver says of itself; of one of an older version, less.

    Attributes:
        machine: where its process number means it.
        at: when it said so; it and `started`: seconds since the epoch.
        go_on: the line that goes on with what it drives.
        message: its last word to the user.
        left_s: how long it expects to take, in seconds; None: it can't say yet.
        what: has become of the jobs that are done.
        figure: their score's name.
        jobs: of its pool; []: it has none.
        born: when its process began (`_born`), since numbers of processes come again.
    """

    machine: str = ""
    host: str = ""
    pid: int = 0
    at: float = 0.0
    started: float = 0.0
    go_on: str = ""
    message: str = ""
    left_s: float | None = None
    what: str = ""
    figure: str = ""
    jobs: list[Line] = field(default_factory=list)
    born: int = 0

    def __str__(self) -> str:
        return f"process {self.pid}{f' on {shown(self.host)}' if self.host else ''}"

    def killed(self, go_on: str) -> str:
        """What is said of its driver, if that was killed: in order it would have deleted the file.

        Args:
            go_on: the line that goes on, where it has not said it.
        """
        return f"its driver, {self}, was killed; go on with: {shown(self.go_on or go_on)}"

    @property
    def here(self) -> bool:
        """It is a process of this machine."""
        return self.machine == this_machine()

    @property
    def fresh(self) -> bool:
        """It has been heard of lately."""
        return abs(time.time() - self.at) < STALE_S

    @property
    def alive(self) -> bool:
        """Its process is there; of another machine's: it has been heard of lately."""
        if not self.here:
            return self.fresh
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass
        born = _born(self.pid)
        return 0 in (self.born, born) or self.born == born


def _born(pid: int) -> int:
    """When a process of this machine began, in clock ticks since the machine did.

    0: the system does not say. -1: it has ended, and its parent has not looked yet.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return -1 if state in "ZX" else int(rest[18])


def last_beat(folder: AnyPath) -> Beat | None:
    """What the driver of a folder has last said; None: nothing."""
    try:
        content = (folder / FILE).read_bytes()
    except OSError:
        return None
    from pydantic import TypeAdapter  # who only looks for drivers can do without

    try:
        beat = TypeAdapter(Beat).validate_json(content)
    except ValueError:  # damaged; or on a store read while it was written
        return None
    return beat if all(map(isfinite, (beat.at, beat.started, beat.left_s or 0.0))) else None


class Pulse:
    """Keeps the file fresh, as a context manager; what can't be written is not.

    Args:
        folders: whose driver this process is.

    Attributes:
        shown: gives what is shown right now.
    """

    def __init__(self, folders: Sequence[AnyPath]) -> None:
        self.folders = folders
        self.shown: Callable[[], Beat] = Beat
        self._stop = threading.Event()
        self._thread = SideThread(target=self._keep, name="pulse", daemon=True)

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles the session for a restore of its own, which is not used

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        for folder in self.folders:
            beat = last_beat(folder)
            if beat is None or (beat.here and beat.pid == os.getpid()):
                with suppress(OSError):
                    (folder / FILE).unlink(missing_ok=True)

    def beat(self) -> None:
        """Say it now."""
        pid = os.getpid()
        me = {"machine": this_machine(), "host": platform.node(), "pid": pid, "born": _born(pid)}
        with suppress(Exception):  # what is shown is no reason to end a study
            content = json.dumps(asdict(self.shown()) | me | {"at": time.time()})
            for folder in self.folders:
                if not isinstance(folder, Path) or folder.is_dir():  # a folder that was removed is not made again
                    with suppress(OSError):
                        write_atomically(folder / FILE, content)

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_S):
            self.beat()
