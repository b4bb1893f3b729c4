"""One run of a command on its slots: how well it used them, what went wrong, and how it is asked to leave."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

import ray
from rich.console import Console

from raymeta.study.machines.resources import Slots
from raymeta.study.record.pulse import Beat, Pulse

LEAVING = "leaving; what runs is saved first"
LEAVING_START = "leaving as soon as Ray has started"
SAVING = "what runs is asked to save now; every finished round is saved anyway"
# How long the running rounds may still take, and then Ray, which waits a minute for what is dead, if all that it has
# started heard the same signal. Schedulers kill ten seconds after they have asked, or later.
GRACE_S, RAY_GRACE_S = 3.0, 6.0
LOOK_S = 5.0  # between two looks at whether Ray still has a machine
NO_MACHINE = "Ray has no machine left: its daemon has died (its logs are in /tmp/ray/session_latest/logs)"
HANGUP, SAVE = getattr(signal, "SIGHUP", None), getattr(signal, "SIGUSR1", None)  # Windows has neither
ENDING = [number for number in (signal.SIGTERM, HANGUP) if number is not None]
INTERRUPTED, TERMINATED = 130, 143  # exit codes: as a shell says of what Ctrl-C, and of what SIGTERM has ended


@dataclass
class Session:
    """One run of a command, from its start to its end.

    Attributes:
        quiet: nothing is shown.
        go_on: what goes on with it when it was left.
        say: tells the user something; a display takes it over for as long as it shows the session.
        slots: None: nothing was left to run.
        started: when the command began, seconds since the epoch.
        busy_s: seconds that slots computed (training, validation, tests), summed over them.
        first_result_s: seconds from the start to the first round.
        stopping: the user wants nothing new to be started.
        saving: the user wants what runs to be saved now; whoever has asked it to, takes this back.
        exit_code: of the command, because it was asked to leave; 0: it was not.
        broken: why it can't go on: nothing can be written any more, or no machine is left; "": it can.
        untracked: why MLflow lacks something of it; "": it has everything.
        reported: it has written the study's report.
        problems: what came to nothing, a sentence each.
        elsewhere: where its copies for other trackers are, a line each.
        pulse: tells those who look from elsewhere what is shown; None: there is none yet.
    """

    started: float = field(default_factory=time.time)
    quiet: bool = False
    go_on: str = "the same command"
    slots: Slots | None = None
    busy_s: float = 0.0
    first_result_s: float | None = None
    ended: float | None = None
    stopping: bool = False
    saving: bool = False
    exit_code: int = 0
    broken: str = ""
    untracked: str = ""
    reported: bool = False
    problems: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    pulse: Pulse | None = None
    _leave_at: float = math.inf  # on the monotonic clock
    _look_at: float = 0.0  # likewise

    def __post_init__(self) -> None:
        self.say: Callable[[str], None] = self._line

    def _line(self, message: str) -> None:
        if not self.quiet:
            print(message, file=sys.stderr)  # noqa: T201

    @property
    def wall_s(self) -> float:
        """Seconds since the start, until the end."""
        return (self.ended or time.time()) - self.started

    @property
    def efficiency(self) -> float | None:
        """Slot efficiency: seconds computed over slots times wall time; None: there were no slots."""
        return self.busy_s / (self.slots.count * self.wall_s) if self.slots else None

    @property
    def closing(self) -> bool:
        """Rounds that run now are the last: the user wants to leave, or nothing can be written any more."""
        return self._leave_at < math.inf

    @property
    def leaving(self) -> bool:
        """Rounds that run now are not waited for any longer."""
        return time.monotonic() >= self._leave_at

    @property
    def beat(self) -> Beat:
        """What those who look from elsewhere are to know at any time."""
        return Beat(started=self.started, go_on=self.go_on)

    def told_by(self, pulse: Pulse) -> None:
        """Let a pulse tell of it."""
        self.pulse, pulse.shown = pulse, lambda: self.beat
        pulse.beat()

    def worked(self, seconds: float) -> None:
        """A slot has computed a round."""
        self.busy_s += seconds
        self.first_result_s = self.first_result_s or self.wall_s

    def leave(self, within_s: float = 0.0) -> None:
        """Start nothing more, and wait so long for the rounds that run."""
        self.stopping = self.saving = True
        self._leave_at = min(self._leave_at, time.monotonic() + within_s)

    def take(self, start: Callable[[], Slots]) -> None:
        """Start what it runs on, unless that is up; then leave, if that was asked for meanwhile.

        Ray crashes where its start or its import is interrupted, so that is never done.

        Raises:
            KeyboardInterrupt: the user wants to leave.
        """
        if self.slots is None:
            try:
                self.slots = start()
            except Exception:
                if not self.closing:
                    raise  # else what ended this process has ended Ray, too
        if self.closing:
            raise KeyboardInterrupt

    def break_off(self, reason: str) -> None:
        """Leave, and write nothing more."""
        self.broken = reason
        self.leave()

    def look(self) -> None:
        """Break off if Ray has no machine left, and would wait for one forever: its daemon has died, say."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            if not any(node["Alive"] for node in ray.nodes()):
                self.break_off(NO_MACHINE)

    @contextmanager
    def interruptible(self, first: str) -> Iterator[None]:
        """Signals inside are heard instead of raised.

        Ctrl-C once: nothing new is started. Twice, or SIGTERM or SIGHUP, as schedulers and closed terminals send
        them: what runs is saved, and left. Once more: what is inside ends at once.
        SIGUSR1: what runs is saved, and goes on. Python hears signals in its main thread only, so in another one
        nothing is changed.

        Args:
            first: what happens at the first Ctrl-C.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def told(message: str) -> None:
            with suppress(OSError, RuntimeError):  # the terminal is gone, or was being written to just now
                self.say(message)

        def handle(number: int, frame: FrameType | None) -> None:
            if number == SAVE:
                self.saving = True
                told(SAVING)
                return
            if number == HANGUP:
                _forget_terminal()
            self.exit_code = self.exit_code or (TERMINATED if number in ENDING else INTERRUPTED)
            if number == signal.SIGINT and not self.stopping:
                self.stopping = True
                told(f"{first} (Ctrl-C again: leave now and go on later)")
                return
            again = self.closing
            self.leave(GRACE_S)
            if not again:
                watchdog.start()
            if again:
                self.leave()
                raise KeyboardInterrupt
            told(LEAVING if self.slots else LEAVING_START)

        watchdog = threading.Timer(GRACE_S + RAY_GRACE_S, self._end)
        watchdog.daemon = True
        heard = [signal.SIGINT, *ENDING, *([SAVE] if SAVE is not None else [])]
        before = {number: signal.getsignal(number) for number in heard}
        if before.get(HANGUP) == signal.SIG_IGN:  # as `nohup` has it
            del before[HANGUP]
        for number in before:
            signal.signal(number, handle)
        try:
            with self.left_at_once():
                yield
        finally:
            watchdog.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        """End the process, whatever it waits for; what is on the disk is good, as after `kill -9`."""
        with suppress(Exception):
            Console(stderr=True).show_cursor()  # a live table hides it
            self._line(f"go on with: {self.go_on}")
            sys.stderr.flush()
        os._exit(self.exit_code)

    @contextmanager
    def left_at_once(self) -> Iterator[None]:
        """What is inside ends where it is, without an error, if the user does not want to wait for it."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.closing:
                raise


def _forget_terminal() -> None:
    """Write nothing more to a terminal that is closed: each line would be an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if os.isatty(stream.fileno()):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
