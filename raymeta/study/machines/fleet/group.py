"""The trials of one structure in a fleet: the programs that compute them together, each of a width of its own."""

import traceback
from dataclasses import dataclass
from typing import Any

from raymeta.config import TrialConfig
from raymeta.study.machines.failures import failure_of, last_line
from raymeta.study.machines.fleet.width import Width, room, seconds
from raymeta.training.lanes import Lanes
from raymeta.training.saving import Saving
from raymeta.training.trainer import Trainer


@dataclass(eq=False)
class Resident:
    """A trial that is in a fleet.

    Attributes:
        structure: what it shares a program by; None: it runs alone.
        asked: its next round is wanted.
        began: of that round, by `time.perf_counter`.
        spent: seconds of it, shared fairly with those that were computed at the same time.
        note: what the user is to know; said with its next round.
    """

    number: int
    config: TrialConfig
    trainer: Trainer
    saving: Saving
    structure: Any
    note: str
    asked: bool = False
    began: float = 0.0
    spent: float = 0.0


class Group:
    """Programs for the trials of one structure.

    Args:
        most: lanes of a program; rounded up to a whole width.
        tasks: of an outer step.

    Attributes:
        unfit: why its trials run alone, or "".
    """

    def __init__(self, most: int, tasks: int) -> None:
        self.unfit = ""
        self._width = Width(most, tasks)
        self._programs: dict[int, Lanes] = {}  # by width
        self._now = 0  # the width of the last outer step
        self._told_untraced = False

    def step(self, asked: list[Resident]) -> list[Resident]:
        """An outer step of as many trials as there are lanes for, who has waited longest first; returns those."""
        first = asked[0].trainer
        self._now = self._width.wanted(len(asked), lambda: room(first.device))
        inside = sorted(asked, key=lambda one: one.began)[: self._now]
        lanes = self._filled(self._now, [one.trainer for one in inside])
        numbers = [lanes.trainers.index(one.trainer) for one in inside]
        if self._width.measuring:
            start = seconds(lanes.device)
            programs = lanes.step(numbers)
            self._width.took(lanes.width, (seconds(lanes.device) - start) / programs)
        else:
            lanes.step(numbers)
        notes = [self._width.note]
        self._width.note = ""
        if lanes.untraced and not self._told_untraced:
            self._told_untraced = True
            notes.append(f"its program is slower, as it can't be traced: {last_line(lanes.untraced)}")
        inside[0].note = "; ".join(filter(None, (inside[0].note, *notes)))
        return inside

    def _filled(self, width: int, trainers: list[Trainer]) -> Lanes:
        """The program of a width, with these in its lanes."""
        for left in self._programs.keys() - self._width.programs:
            self._close(left)
        if (lanes := self._programs.get(width)) is None:
            lanes = self._programs[width] = Lanes(trainers[0], width)
        for trainer in trainers:
            if trainer not in lanes.trainers:
                if not lanes.free:
                    lanes.leave(next(n for n, one in enumerate(lanes.trainers) if one not in trainers))
                self.leave(trainer)
                lanes.join(trainer)
        return lanes

    def leave(self, trainer: Trainer) -> None:
        """Take a trial out of whatever lane it is in."""
        for lanes in self._programs.values():
            if trainer in lanes.trainers:
                lanes.leave(lanes.trainers.index(trainer))

    def failed(self, error: Exception) -> str:
        """Its program failed: for want of memory it gets narrower, else each trial runs alone; returns what to say."""
        traceback.clear_frames(error.__traceback__)  # or the memory of what failed is taken still
        for width in list(self._programs):
            self._close(width)
        if failure_of(error).kind == "memory" and (less := self._width.less(self._now)):
            return f"{self._now} lanes do not fit into memory; it goes on in {less}"
        self.unfit = f"it runs alone, as its program failed: {last_line(error)}"
        return self.unfit

    def _close(self, width: int) -> None:
        lanes = self._programs.pop(width)
        for lane, trainer in enumerate(lanes.trainers):
            if trainer is not None:
                lanes.leave(lane)
