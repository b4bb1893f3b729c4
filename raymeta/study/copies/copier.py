"""The driver's end of copies: a process each, that the study neither waits for nor fails by."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from raymeta.installed import child_environment
from raymeta.study.copies.copy import found, problem_of
from raymeta.study.record.record import StudyRecord
from raymeta.study.record.threads import SideThread

PATIENCE_S = 120.0  # how long the end of a study waits for a copy that takes nothing
TRIED_S = 10.0  # for one that takes nothing and has said why
LISTEN_S = 0.2


class Copier:
    """Keeps one copy of a study equal to its record. Use as a context manager.

    Args:
        name: of the copy.
        record: of the study.
        say: is told once, early, that it can't be made, and why.
        leaving: the end is not to wait: the process copies what is left by itself.

    Attributes:
        problem: why it lacks something; at the end "" says that it has everything.
    """

    def __init__(self, name: str, record: StudyRecord, say: Callable[[str], None], leaving: Callable[[], bool]) -> None:
        self.name, self.record, self._say, self._said = name, record, say, False
        self._leaving = leaving
        self.problem, self._copied = "", 0

    def __enter__(self) -> Self:
        start = "import sys; from raymeta.study.copies.copy import main; main(*sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", start, str(self.record.folder), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whatever a tracker prints
            env=child_environment(),
            process_group=0,  # Ctrl-C of a terminal is not for it
        )
        self._listener = SideThread(target=self._listen, name=self.name, daemon=True)
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended
            self.process.stdin.close()
        copied, since = self._copied, time.monotonic()
        while self.process.poll() is None:
            if self._leaving():
                return
            if self._copied > copied:
                copied, since = self._copied, time.monotonic()
            if time.monotonic() - since > (TRIED_S if self.problem else PATIENCE_S):
                break
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LISTEN_S)
        if self.process.poll() is None:
            self.process.kill()
            self.problem = self.problem or "no answer"
        elif self.process.returncode:
            self.problem = self.problem or f"the process that copies ended ({self.process.returncode})"
        self.process.wait()
        self._listener.join(PATIENCE_S)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError, KeyError, TypeError):  # a tracker may print there, whatever is done against it
                state = json.loads(line)
                self.problem, self._copied = str(state["problem"]), int(state["copied"])
            if self.problem and not self._said:
                self._said = True
                self._say(f"{self.name} lacks this study for now: {self.problem}; {sent_by(self.record, self.name)}")


class Copies:
    """All copies of a study that `--also` has named, as a context manager.

    Args:
        record: of the study.
        say: is told, early, what can't be made.
        leaving: the end is not to wait.
        more: names, beside those that the study keeps.

    Attributes:
        problems: at the end, a sentence for each that lacks something.
        whole: at the end, of each of the others where it is.
    """

    def __init__(
        self,
        record: StudyRecord,
        say: Callable[[str], None],
        leaving: Callable[[], bool] = lambda: False,
        more: Sequence[str] = (),
    ) -> None:
        self.record = record
        names = dict.fromkeys([*record.plan.study.also, *more])
        self.copiers = [Copier(name, record, say, leaving) for name in names]
        self.problems: list[str] = []
        self.whole: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for copier in self.copiers:
                stack.enter_context(copier)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)
        self.problems = [
            f"{copier.name} lacks something of it: {copier.problem}; {sent_by(self.record, copier.name)}"
            for copier in self.copiers
            if copier.problem
        ]
        self.whole = [where(copier.name, self.record) for copier in self.copiers if not copier.problem]


def where(name: str, record: StudyRecord) -> str:
    """Where a copy is, as its tracker says, which is the only code of it that runs here."""
    try:
        return f"{name}: {found(name).where(record)}"
    except Exception as error:  # whatever it raises, the copy is whole
        return f"{name}: it does not say where ({problem_of(error)})"


def sent_by(record: StudyRecord, name: str) -> str:
    """What copies later."""
    return f"`raymeta sync {record.name} --also {name}` copies it later"
