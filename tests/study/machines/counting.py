"""Jobs that count to a number in a file, and what may befall them."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raymeta.metric import Metric
from raymeta.study.machines.pool import Report


@dataclass(frozen=True)
class Counting:
    """Counts to `steps` in `folder`, a line a round; every worker that it has adds its process's number to `pids`.

    Attributes:
        fault: what happens in the round after `at`, for the first `times`.
    """

    folder: Path
    steps: int = 3
    fault: str = ""
    at: int = 1
    times: int = 1
    round_s: float = 0.0
    metric: Metric = Metric("mse", "min")  # noqa: RUF009  (it is frozen)

    def __str__(self) -> str:
        return self.folder.name

    def work(self) -> Iterator[Report]:
        self.folder.mkdir(exist_ok=True)
        note(self.folder / "pids", str(os.getpid()))
        done = len(lines(self.folder / "rounds"))
        yield Report(done)
        while done < self.steps:
            begun = time.time()
            if done == self.at and len(lines(self.folder / "faults")) < self.times:
                note(self.folder / "faults", self.fault)
                befall(self.fault)
                if self.fault == "diverges":
                    yield Report(done, state="diverged", problem=f"diverged at {done} outer steps")
                    return
            time.sleep(self.round_s)
            done += 1
            note(self.folder / "rounds", f"{begun} {time.time()}")
            yield Report(done, time.time() - begun, score=1 / done, ci95=0.1)
        note(self.folder / "tests", "tested")
        yield Report(done, 0.0, score=0.5, ci95=0.1, state="done")


def befall(fault: str) -> None:
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "memory":
        raise MemoryError("not enough memory for the round")
    elif fault == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/studies/one/checkpoint.pt")


def note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
