"""One run of a command on its slots: how well it used them, what went wrong, and how Ctrl-C ends it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from raymeta.study.machines.resources import Slots

LEAVING = "leaving; every finished round is saved"


@dataclass
class Session:
    """One run of a command, from its start to its end.

    Attributes:
        slots: None: nothing was left to run.
        started: when the command began, seconds since the epoch.
        busy_s: seconds that slots computed (training, validation, tests), summed over them.
        first_result_s: seconds from the start to the first round.
        stopping: the user wants nothing new to be started.
        leaving: the user wants to leave before what runs is done, or nothing can be written any more.
        broken: why nothing can be written any more; "": it can.
        untracked: why MLflow lacks something of it; "": it has everything.
        problems: what came to nothing, a sentence each.
    """

    started: float = field(default_factory=time.time)
    slots: Slots | None = None
    busy_s: float = 0.0
    first_result_s: float | None = None
    ended: float | None = None
    stopping: bool = False
    leaving: bool = False
    broken: str = ""
    untracked: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        """Seconds since the start, until the end."""
        return (self.ended or time.time()) - self.started

    @property
    def efficiency(self) -> float | None:
        """Slot efficiency: seconds computed over slots times wall time; None: there were no slots."""
        return self.busy_s / (self.slots.count * self.wall_s) if self.slots else None

    def worked(self, seconds: float) -> None:
        """A slot has computed a round."""
        self.busy_s += seconds
        self.first_result_s = self.first_result_s or self.wall_s

    def break_off(self, reason: str) -> None:
        """Leave, and write nothing more."""
        self.broken, self.stopping, self.leaving = reason, True, True

    @contextmanager
    def interruptible(self, say: Callable[[str], None], first: str) -> Iterator[None]:
        """Ctrl-C inside is heard instead of raised. Once: nothing new is started. Twice: leave now.

        A third one ends at once what is inside, and so does the second while Ray is still being started. Python hears
        of Ctrl-C in its main thread only, so in another one nothing is changed.

        Args:
            say: tells the user.
            first: what happens at the first one.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if not self.stopping:
                self.stopping = True
                say(f"{first} (Ctrl-C again: leave now and go on later)")
                return
            again, self.leaving = self.leaving, True
            if again or self.slots is None:
                raise KeyboardInterrupt
            say(LEAVING)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        except KeyboardInterrupt:
            if not self.leaving:
                raise
        finally:
            signal.signal(signal.SIGINT, before)
