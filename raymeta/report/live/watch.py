"""What another process runs, watched from another shell or machine: nothing is locked and nothing written."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from raymeta.errors import RunFailed
from raymeta.report.live.display import Display
from raymeta.report.live.views import JobsView, TrialsView, View
from raymeta.report.shown import text
from raymeta.report.status import status_of, status_table
from raymeta.storage.places import AnyPath
from raymeta.study.record.folder import fallen_driver, is_driven, refuse_gone
from raymeta.study.record.pulse import Beat, last_beat
from raymeta.study.record.record import StudyRecord

LOOK_S, FAR_S = 0.5, 2.0  # between two looks, at a folder and at a store


class Target(ABC):
    """What is watched: the folder of something that a driver runs."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder, self.go_on = folder, "the same command"
        self.look_s = LOOK_S if isinstance(folder, Path) else FAR_S

    def beat(self) -> Beat:
        """What its driver has last said."""
        return last_beat(self.folder) or Beat()

    @property
    @abstractmethod
    def driven(self) -> bool:
        """A process runs it right now."""

    @property
    @abstractmethod
    def fallen(self) -> Beat | None:
        """What its last driver said, if that was killed; None: it was not."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """There is nothing left to go on with."""

    @abstractmethod
    def look(self) -> None:
        """Read again what a driver may have changed as it began.

        Raises:
            UserError: it is not there any more.
        """

    @abstractmethod
    def view(self) -> View:
        """What there is to see while its driver has no jobs."""

    @abstractmethod
    def state(self) -> RenderableType:
        """What has become of it so far."""

    @abstractmethod
    def sentence(self) -> str:
        """How far it is, and what to do next."""


class StudyTarget(Target):
    """A study."""

    record: StudyRecord

    def __init__(self, folder: AnyPath) -> None:
        super().__init__(folder)
        self.go_on = f"raymeta resume {folder.name}"

    @property
    def driven(self) -> bool:
        return is_driven(self.folder)

    @property
    def fallen(self) -> Beat | None:
        return fallen_driver(self.folder)

    @property
    def over(self) -> bool:
        return status_of(self.record).settled

    def look(self) -> None:
        refuse_gone(self.folder)
        self.record = StudyRecord.load(self.folder)

    def view(self) -> View:
        return TrialsView(self.record)

    def state(self) -> RenderableType:
        return status_table(self.record)

    def sentence(self) -> str:
        return str(status_of(self.record))


class _Watching(Display):
    def __init__(self, target: Target, console: Console) -> None:
        super().__init__(console, alone=True)
        self.target, self._told = target, ""

    def beat(self) -> Beat:
        return self.target.beat()

    def view(self, beat: Beat) -> View:
        return JobsView(beat) if beat.jobs else self.target.view()

    def run(self) -> None:
        """Until the driver is gone, or goes over to its jobs or away from them."""
        beat = self.beat()
        jobs = bool(beat.jobs)
        self.line(self.view(beat).summary(beat.left_s), beat)
        while self.target.driven and bool(beat.jobs) is jobs:
            self.update()
            if beat.message != self._told:
                self._told = beat.message
                self.line(beat.message, beat)
            time.sleep(self.target.look_s)
            beat = self.beat()


def watch(target: Target, console: Console, say: Callable[[str], None], *, follow: bool = False) -> None:
    """Show what runs until it ends, then what has become of it.

    Args:
        target: what.
        console: where to.
        say: is told what is beside the results.
        follow: where nothing runs, wait until something does; end only when nothing is left to go on with.

    Raises:
        UserError: it was moved or removed.
        RunFailed: its driver was killed.
    """
    seen = waiting = False
    while True:
        target.look()
        if target.driven:
            try:
                with _Watching(target, console) as display:
                    display.run()
            except OSError:
                target.look()  # was it moved or removed?
                raise
            seen, waiting = True, False
        elif follow and not target.over:
            if not waiting:
                say(f"nothing runs it right now: waiting for a driver ({target.sentence()})")
            waiting = True
            time.sleep(target.look_s)
        else:
            break
    if not seen:
        say("nothing runs it right now")
    state = target.state() if console.is_terminal else text(target.state())  # where there is no edge, nothing is cut
    console.print(state, soft_wrap=not console.is_terminal, highlight=False, markup=False, emoji=False)
    fallen = target.fallen
    if fallen is not None and not target.over:
        raise RunFailed(fallen.killed(target.go_on))
    say(target.sentence())
