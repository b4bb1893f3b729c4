"""How many lanes of a structure are computed together: probed by the outer steps that trials need anyway.

Widths double from the least whole one. A wider one is tried once more trials are asked for than lanes are there, and
kept if each trial's share of the time falls by a margin. Only the pace depends on it: a lane's numbers are the same
bits at every whole width. Each width is measured in its program's first steps, before it is traced, so that all are
measured alike.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from raymeta.study.machines.probe import resident_peak
from raymeta.training.lanes import whole_width

SKIPPED, MEASURED = 3, 9  # first steps of a program, and those of which the fastest counts
MARGIN = 0.1  # by which a trial's share has to fall, or twice the memory is not worth it
GROUP = Path("/sys/fs/cgroup")  # where Linux tells a container its limits


class Width:
    """The widths of one structure's programs.

    Args:
        most: lanes, at most; rounded up to a whole width.
        tasks: of an outer step.

    Attributes:
        note: why it gets no wider, to be said once.
    """

    def __init__(self, most: int, tasks: int) -> None:
        self.note = ""
        self._most = whole_width(most, tasks)
        self._kept: dict[int, float] = {}  # with seconds of an outer step
        self._tried: int | None = whole_width(2, tasks)
        self._seconds: list[float] = []  # of its steps so far

    @property
    def measuring(self) -> bool:
        """A width is being tried, and `took` waits for its times."""
        return self._tried is not None

    @property
    def programs(self) -> set[int]:
        """Widths that may be asked for again."""
        return {*self._kept, *([] if self._tried is None else [self._tried])}

    def wanted(self, trials: int, room: Callable[[], bool]) -> int:
        """The width to compute so many trials in.

        Args:
            trials: that are asked for.
            room: whether memory allows twice the lanes; looked at once for each width.
        """
        widest = max(self._kept, default=0)
        if self._kept and self._tried is None and widest < min(trials, self._most):
            if room():
                self._tried, self._seconds = min(2 * widest, self._most), []
            else:
                self._stay(widest, f"memory is too short for {min(2 * widest, self._most)}")
        if self._tried is not None and trials > widest:
            return self._tried
        return min(self._kept, key=lambda width: self._kept[width] / min(trials, width))

    def took(self, width: int, seconds: float) -> None:
        """An outer step at a width took so long, whatever part of its lanes was filled."""
        if width != self._tried:
            return
        self._seconds.append(seconds)
        if len(self._seconds) < SKIPPED + MEASURED:
            return
        best, self._tried = min(self._seconds[SKIPPED:]), None
        widest = max(self._kept, default=0)
        if not widest or best / width < (1 - MARGIN) * self._kept[widest] / widest:
            self._kept[width] = best
            return
        was, now = (f"{1e3 * share:.2g} ms" for share in (self._kept[widest] / widest, best / width))
        self._stay(widest, f"a trial's share of a step is {was}, and of {width} {now}")

    def _stay(self, widest: int, why: str) -> None:
        self._most, self.note = widest, f"trials of its structure stay in {widest} lanes: {why}"

    def less(self, width: int) -> int:
        """A width does not fit into memory; returns the widest that is left, 0: none."""
        self._kept = {kept: seconds for kept, seconds in self._kept.items() if kept < width}
        self._tried, self._most = None, max(self._kept, default=0)
        return self._most


def seconds(device: torch.device) -> float:
    """What work on a device has taken until now: on a CPU this thread alone, to which neighbours add nothing."""
    if device.type != "cuda":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def room(device: torch.device) -> bool:
    """Whether this process may take as much memory again as it has had: a program of twice the lanes takes less."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) > 2 * torch.cuda.max_memory_allocated(device)
    return available() > resident_peak()


def available() -> float:
    """Bytes that this machine, or the container that this is in, still has; infinity: it is no Linux and not known."""
    found = [math.inf]
    with suppress(OSError):
        found.append(1024 * _number(Path("/proc/meminfo").read_text(), "MemAvailable:"))
    with suppress(OSError, ValueError):  # ValueError: the limit is "max"
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(limit - used + _number((GROUP / "memory.stat").read_text(), "inactive_file"))
    return min(found)


def _number(lines: str, name: str) -> int:
    return next(int(line.split()[1]) for line in lines.splitlines() if line.startswith(name))
