"""One driver's run of a study, and how well it used its slots."""

import time
from dataclasses import dataclass, field

from raymeta.study.machines.resources import Slots


@dataclass
class Session:
    """One driver's run of a study, from its start to its end.

    Attributes:
        slots: None: no trial was left to run.
        started: when the command began, seconds since the epoch.
        busy_s: seconds that trials computed (training and validation), summed over slots.
        first_result_s: seconds from the start to the first round of a trial.
        leaving: the user wants to leave before the running trials are done.
        broken: why the record can't be written any more; "": it can.
        untracked: why MLflow lacks something of it; "": it has everything.
        problems: what went wrong with the finalists, a sentence each.
    """

    started: float = field(default_factory=time.time)
    slots: Slots | None = None
    busy_s: float = 0.0
    first_result_s: float | None = None
    ended: float | None = None
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
