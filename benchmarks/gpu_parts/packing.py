"""Trials that share a device: outer steps per second in all, and memory, of 1 to 16 processes, without and with MPS."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_parts.child import Here
from gpu_parts.works import MIB, SCRATCH, attempt, config, works
from raymeta.problem import CHUNK
from raymeta.study.machines import mps
from raymeta.study.machines.probe import measure
from raymeta.training.device import CONTEXT_BYTES
from raymeta.training.trainer import Trainer

COUNTS = (1, 2, 4, 8, 16)
SECONDS = 2.5  # that processes compute at once
ENDS_S = 5.0  # that a process may take to end


def packing(here: Here) -> None:
    """What a search assumes of a trial's memory, then the processes: without MPS, with it."""
    assumed(here)
    with no_daemon():
        share(here, "off")
    try:
        mps.prepare()
        state = mps.switch_on()
        if state.startswith("on"):
            share(here, state)
        else:
            here.report("packing", MPS=state)
    finally:
        mps.switch_off()


@contextmanager
def no_daemon() -> Iterator[None]:
    """CUDA looks for MPS where there is none, though a daemon may run on this machine."""
    before = os.environ.get(mps.PIPES)
    os.environ[mps.PIPES] = str(Path(os.environ[SCRATCH]) / "no-daemon")
    try:
        yield
    finally:
        del os.environ[mps.PIPES]
        if before is not None:
            os.environ[mps.PIPES] = before


def assumed(here: Here) -> None:
    """What raymeta's probe finds in a process of its own, and what is assumed where it finds nothing."""
    here.report("memory", what="context of CUDA, where it is not measured", MiB=CONTEXT_BYTES / MIB)
    worker = Worker(here)

    def probed() -> dict[str, Any]:
        worker.answer()
        worker.say("probe")
        return worker.answer()

    try:
        found, why = attempt(probed)
    finally:
        worker.end()
        worker.gone()
    if why:
        here.report("memory", what="the probe", note=why)
        return
    here.report("memory", what="the probe: context of CUDA", MiB=found["context"] / MIB)
    here.report("memory", what="the probe: all that a trial of W1 needs of the GPU", MiB=found["gpu"] / MIB)
    here.report("memory", what="the probe: of its machine", MiB=found["host"] / MIB)


def share(here: Here, state: str) -> None:
    """All of one state of MPS; what came before a failure stays."""
    _, why = attempt(lambda: together(here, state))
    if why:
        here.report("packing", MPS=state, note=why)


def together(here: Here, state: str) -> None:
    """Rows of one to all processes; the last ones only import until their turn has come."""
    counts = COUNTS[:2] if here.small else COUNTS
    empty, alone = used(here), None
    workers = [Worker(here) for _ in range(counts[-1])]
    try:
        for worker in workers:
            worker.answer()
        if not here.small:
            workers[0].say("context")
            workers[0].answer()
            taken = (used(here) - empty) / MIB
            here.report("memory", what=f"context of CUDA, measured, MPS {state}", MiB=taken)
        opened = 0
        for count in counts:
            for worker in workers[opened:count]:
                worker.say("trial")
            for worker in workers[opened:count]:
                worker.answer()
            opened = count
            start = time.time() + 0.3
            for worker in workers[:count]:
                worker.say(f"run {start} {0.3 if here.small else SECONDS}")
            rates = [worker.answer()["steps_per_s"] for worker in workers[:count]]
            alone = alone or sum(rates)
            taken = (used(here) - empty) / MIB if not here.small else None
            here.report(
                "packing", MPS=state, processes=count, steps_per_s=sum(rates), against_one=sum(rates) / alone,
                slowest=min(rates), fastest=max(rates), GPU_MiB=taken, each_MiB=taken and taken / count,
            )  # fmt: skip
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.gone()


def used(here: Here) -> int:
    """Bytes of the GPU that are taken, by anyone."""
    if here.small:
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


class Worker:
    """A process that does what it is asked by a line, and answers by one of JSON."""

    def __init__(self, here: Here) -> None:
        command = [sys.executable, "-P", "-m", "gpu_parts.packing", *(["--cpu"] if here.small else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.say("import")

    def say(self, words: str) -> None:
        """Ask without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for what it says to the oldest question; the first one is answered when it has imported everything."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"a process of a trial died, exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildProcessError(f"in a process of a trial: {answer['error']}")
        return answer

    def end(self) -> None:
        """It has no more to do, and goes by itself; see `gone`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def gone(self) -> None:
        """Wait until it is gone, and its memory of the GPU is free."""
        try:
            self.process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(here: Here) -> None:
    """A worker's side."""
    torch.set_num_threads(1)
    trainers: list[Trainer] = []
    for line in sys.stdin:
        word, *given = line.split()
        done, why = attempt(partial(ORDERS[word], here, trainers, *map(float, given)))
        print(json.dumps({"error": why} if why else done or {}), flush=True)


def _import(here: Here, trainers: list[Trainer]) -> None:
    """Done already."""


def _probe(here: Here, trainers: list[Trainer]) -> dict[str, Any]:
    return vars(measure(config(here, works(here)[0]).as_dict()))


def _context(here: Here, trainers: list[Trainer]) -> None:
    torch.zeros(1, device=here.device)
    torch.cuda.synchronize()


def _trial(here: Here, trainers: list[Trainer]) -> None:
    trainer = Trainer(config(here, works(here)[0], seed=os.getpid()))
    for _ in range(2):
        trainer.outer_update()
    bank = trainer.problem.bank("validation", 0)
    trainer.evaluate(bank, CHUNK)
    trainers.append(trainer)


def _run(here: Here, trainers: list[Trainer], start: float, seconds: float) -> dict[str, Any]:
    time.sleep(max(start - time.time(), 0))
    steps, begun = 0, time.perf_counter()
    while (now := time.perf_counter() - begun) < seconds or not steps:
        trainers[0].outer_update()
        steps += 1
    return {"steps_per_s": steps / now}


ORDERS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "import": _import, "probe": _probe, "context": _context, "trial": _trial, "run": _run,
}  # fmt: skip

if __name__ == "__main__":
    serve(Here("packing", Path(os.devnull), "--cpu" in sys.argv))
