"""A study driven: in this process, or by a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raymeta.errors import Interrupted, RunFailed, UserError
from raymeta.installed import child_environment
from raymeta.problems.images.reading.remote import Root
from raymeta.study.machines.fleet.fleets import FLEET
from raymeta.study.machines.packing import Pack, largest, take_slots
from raymeta.study.machines.resources import TRIALS, Slots, stop_ray
from raymeta.study.machines.session import INTERRUPTED, TERMINATED, Session
from raymeta.study.plan.plan import Plan
from raymeta.study.record.folder import driver_of
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.search import on_slots, run
from raymeta.training.lanes import lanes_of

LOOK_S = 0.2  # between two looks at a study that another process drives
APART_S = 1.0  # between two interrupts, or they may arrive as one
STARTS_S = 60.0  # how long a driver may take until it can be interrupted


@dataclass(frozen=True)
class How:
    """What a study is driven with; see `raymeta.search`."""

    slots: int | None = None
    pack: Pack = None
    data_root: Root | None = None
    ship_data: bool = False
    quiet: bool = False

    def start(self, plan: Plan) -> Slots:
        """Ray, and the machines of its cluster if it is one, made ready for the trials of a plan."""
        try:
            preload = FLEET if lanes_of(plan.base, gpu=False) else TRIALS
            given = take_slots(self.slots, self.pack, lambda: largest(plan), preload)
            from raymeta.study.machines.nodes import prepare_kernels, prepare_nodes

            prepare_kernels(plan.base)
            prepare_nodes(plan.base.task, self.data_root, ship=self.ship_data)
        except BaseException:
            stop_ray()  # part of it may be up
            raise
        return given

    @property
    def words(self) -> list[str]:
        """As the command line takes it."""
        given = {"--slots": self.slots, "--pack": self.pack, "--data-root": self.data_root}
        words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
        return [*words, *(["--ship-data"] if self.ship_data else [])]


def drive(record: StudyRecord, how: How, started: float) -> Session:
    """Run the trials that a study lacks and score its finalists; see `raymeta.study.run.search.run`."""

    def start() -> Slots:
        try:
            return how.start(record.plan)
        except UserError as error:
            raise UserError(f"{error}; then go on with `raymeta resume {record.name}`") from error

    session = Session(started, quiet=how.quiet, go_on=f"raymeta resume {record.name}")
    with on_slots(session):
        run(record, session, start)
    return session


def begin(plan: Plan, record: Callable[[], StudyRecord], how: How, started: float) -> tuple[StudyRecord, Session]:
    """The same of a study that is not there yet: it is made once Ray has started, so that what can't start leaves none.

    Args:
        plan: of the study.
        record: makes it.
        how: it is driven.
        started: when the command began, in seconds since the epoch.

    Raises:
        Interrupted: the user left before there was a study.
    """
    session, made = Session(started, quiet=how.quiet), None
    with on_slots(session):
        session.take(lambda: how.start(plan))
        made = record()
        session.go_on = f"raymeta resume {made.name}"
        run(made, session, lambda: how.start(plan))
    if made is None:
        raise Interrupted("left before the study had begun: nothing is kept of it", session.exit_code)
    return made, session


class Background:
    """A driver in a process of its own, which outlives this one: `raymeta resume`.

    Attributes:
        log: what it prints.
    """

    def __init__(self, record: StudyRecord, how: How) -> None:
        self.name = record.name
        folder = record.folder if isinstance(record.folder, Path) else Path(tempfile.mkdtemp(prefix="raymeta-"))
        self.log = folder / "driver.log"
        command = [sys.executable, "-P", "-m", "raymeta", "resume", record.name, *how.words]
        with open(self.log, "ab") as log:
            self._from = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=child_environment(),
            )

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def result(self) -> None:
        """Nothing, once it has ended well or was stopped.

        Raises:
            UserError, RunFailed: what it ended with.
        """
        code = self._process.wait()
        if code in (0, INTERRUPTED, TERMINATED):  # it was asked to leave; the study says how far it is
            return
        with open(self.log, "rb") as log:
            log.seek(self._from)
            lines = log.read().decode(errors="replace").splitlines()
        said = [line.removeprefix("raymeta: ") for line in lines if line.startswith("raymeta: ")]
        if code == 2 and said:
            raise UserError(said[-1])
        raise RunFailed(said[-1] if said else f"the driver of '{self.name}' ended with code {code}: see {self.log}")


def interrupt(record: StudyRecord, background: Background | None, *, now: bool) -> None:
    """Do what Ctrl-C does in the terminal of a study's driver, once or twice.

    Raises:
        UserError: the driver is not on this machine.
    """
    end = time.monotonic() + STARTS_S
    while (driver := driver_of(record.folder)) is None:
        starting = background is not None and background.running
        if not starting and not record.driven:
            return
        if time.monotonic() > end:
            raise UserError(f"the study '{record.name}' is not driven by a process of this machine: stop it there")
        time.sleep(LOOK_S)
    for first in (True, False)[: 1 + now]:
        if not first:
            time.sleep(APART_S)
        with suppress(ProcessLookupError):
            os.kill(driver, signal.SIGINT)
