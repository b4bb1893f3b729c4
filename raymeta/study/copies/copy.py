"""What a copy of a study's trials is, and the process that keeps one equal to the record.

A third tracker is a file of its own: a subclass of `Copy` under its name, found by an entry point of `raymeta.trackers`
(see `tensorboard.py` beside this file). The process reads the study as `raymeta status` does, so its driver tells it
nothing and waits for nothing; it ends once its standard input is closed and all is copied, or can't be. To standard
output it writes a line of JSON whenever its state changes: {"copied": trials brought up to date so far, "problem": why
no more, or ""}.
"""

import json
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from raymeta import registry
from raymeta.errors import UserError
from raymeta.storage.places import any_path
from raymeta.study.record.finalists import standings
from raymeta.study.record.record import StudyRecord, TrialRecord

LOOK_S = 5.0  # between two looks at the record, and two tries of what fails
TRIED_S = 60.0  # how long what fails is tried once the driver has ended
NICENESS = 10  # trials, and what starts them, go first
NO_SCORES = ("outer_steps", "diverged", "at", "last", "waits", "hostname")  # of a round


@dataclass(frozen=True)
class Point:
    """A round's scores.

    Attributes:
        at: seconds since the epoch.
    """

    steps: int
    at: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """A trial as it is by now.

    Attributes:
        searched: key to value of what was searched.
        config: the whole of it, nested.
        points: of its rounds, in order.
        fresh: a finalist's scores on the fresh episodes; None: it has none.
    """

    number: int
    label: str
    state: str
    reason: str
    searched: Mapping[str, Any]
    config: Mapping[str, Any]
    points: list[Point]
    fresh: Point | None

    @property
    def ended(self) -> bool:
        """Nothing but a finalist's scores is to come."""
        return self.state not in ("running", "waiting")

    @property
    def well(self) -> bool:
        """It has ended as it should."""
        return self.state in ("completed", "pruned")


class Copy(ABC):
    """A copy of a study's trials.

    Args:
        record: of the study.

    Attributes:
        name: as `--also` takes it.
        module: that must be installed; the extra of raymeta has the copy's name.
    """

    name: ClassVar[str]
    module: ClassVar[str]

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    @abstractmethod
    def take(self, trial: Trial) -> None:
        """Bring the copy of a trial up to date. What it has, from another process too, is not there twice.

        Raises:
            Exception: anything; it is tried again later.
        """

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes."""

    @staticmethod
    @abstractmethod
    def where(record: StudyRecord) -> str:
        """The line with which users look at it."""


def found(name: str) -> type[Copy]:
    """The copy of a name.

    Raises:
        UserError: there is none, or what it needs is not installed.
    """
    cls: type[Copy] = registry.find("tracker", name)
    if find_spec(cls.module) is None:
        raise UserError(f"--also {name}: {cls.module} is not installed: pip install 'raymeta[{name}]'")
    return cls


def trials_of(record: StudyRecord) -> Iterator[tuple[TrialRecord, Point | None]]:
    """The trials with their fresh scores, but for those that a killed driver has only begun to propose."""
    standing, name = standings(record), f"val_{record.metric.name}"
    for trial in record.trials():
        if record.plan.space.complete(trial.point):
            one = standing.of(trial.number) if standing else None
            scores = {f"reevaluated_{name}": one.mean, "reevaluated_val_ci95": one.ci95} if one and one.values else {}
            yield trial, Point(trial.outer_steps, one.at, scores) if one and scores else None


def content_of(record: StudyRecord, trial: TrialRecord, fresh: Point | None) -> Trial:
    """A trial as its copies take it."""
    points = [
        Point(entry["outer_steps"], entry["at"], {k: float(v) for k, v in entry.items() if k not in NO_SCORES})
        for entry in trial.rounds
    ]
    config = record.config(trial).as_dict()
    return Trial(trial.number, trial.label, trial.state, trial.reason, trial.point, config, points, fresh)


class Keeper:
    """Keeps a copy equal to the record.

    Attributes:
        copied: trials brought up to date so far.
    """

    def __init__(self, copy: Copy) -> None:
        self.copy, self.copied = copy, 0
        self._known: dict[int, tuple[int, str, Point | None]] = {}  # what a copy has: rounds, state, fresh scores
        self._failed: set[int] = set()

    def look(self) -> None:
        """Copy what is new. One that fails comes last the next time, so that it holds up no other for good."""
        record = self.copy.record
        for trial, fresh in sorted(trials_of(record), key=lambda one: one[0].number in self._failed):
            now = (len(trial.rounds), trial.state, fresh)
            if self._known.get(trial.number) != now:
                self._failed.add(trial.number)
                self.copy.take(content_of(record, trial, fresh))
                self._failed.remove(trial.number)
                self._known[trial.number] = now
                self.copied += 1


def main(place: str, name: str) -> None:
    """Keep the copy of a name equal to the study of a place, until standard input ends."""
    for number in ("SIGINT", "SIGUSR1"):  # what they mean is the driver's to decide
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    os.nice(NICENESS)
    states = os.fdopen(os.dup(1), "w")  # processes of trackers do not get it, so it ends with this one
    os.dup2(2, 1)  # whatever a tracker prints
    ending, keeper, before, ended = threading.Event(), None, "", 0.0
    threading.Thread(target=_wait_for_the_end, args=(ending,), daemon=True).start()
    while True:
        last, problem = ending.is_set(), ""
        ended = ended or (time.monotonic() if last else 0.0)
        try:
            keeper = keeper or Keeper(found(name)(StudyRecord.load(any_path(place))))
            keeper.look()
            if last:
                keeper.copy.close()
        except Exception as error:  # whatever a tracker, its server or its absence raises: it is tried again
            problem = problem_of(error)
        state = json.dumps({"copied": keeper.copied if keeper else 0, "problem": problem})
        if state != before:
            before = state
            with suppress(OSError):  # the driver has left without waiting for it
                print(state, file=states, flush=True)
        if last and (not problem or time.monotonic() > ended + TRIED_S):
            os._exit(1 if problem else 0)  # threads of trackers may still wait for something
        time.sleep(LOOK_S) if last else ending.wait(LOOK_S)


def _wait_for_the_end(ending: threading.Event) -> None:
    sys.stdin.buffer.read()
    ending.set()


def problem_of(error: Exception) -> str:
    """What went wrong, on one line."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:200] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0][:200]}".rstrip(": ")
