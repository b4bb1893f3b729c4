"""One driver's run of a study, and how well it used its slots."""

import time
from dataclasses import dataclass, field

from raymeta.study.resources import Slots


@dataclass
class Session:
    """One driver's run of a study, from its start to its end.

    Attributes:
        started: when the command began, seconds since the epoch.
        busy_s: seconds that trials computed (training and validation), summed over slots.
        first_result_s: seconds from the start to the first round of a trial.
        leaving: the user wants to leave before the running trials are done.
        untracked: why MLflow lacks something of it; "": it has everything.
    """

    slots: Slots
    started: float = field(default_factory=time.time)
    busy_s: float = 0.0
    first_result_s: float | None = None
    ended: float | None = None
    leaving: bool = False
    untracked: str = ""

    @property
    def wall_s(self) -> float:
        """Seconds since the start, until the end."""
        return (self.ended or time.time()) - self.started

    @property
    def efficiency(self) -> float:
        """Slot efficiency: seconds computed over slots times wall time."""
        return self.busy_s / (self.slots.count * self.wall_s)
