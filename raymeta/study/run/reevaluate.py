"""Score a study's finalists on fresh episodes, as Ray tasks on the slots that the trials had."""

import json
import time
from collections import deque
from math import isfinite
from typing import Any

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.storage.files import write_atomically
from raymeta.study.machines.failures import last_line
from raymeta.study.machines.interrupts import on_ctrl_c
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import FILE, Weights, missing
from raymeta.study.record.record import StudyRecord
from raymeta.training.device import cap_memory
from raymeta.training.trainer import Trainer

LISTEN_S = 0.5  # how long Ctrl-C may wait to be heard


def reevaluate(record: StudyRecord, session: Session, *, quiet: bool = False) -> None:
    """Score what is missing, each in a file of its own as soon as it is known. Ctrl-C: leave; `resume` does the rest.

    Args:
        record: a study that is over.
        session: whose slots to use; what went wrong is put into its `problems`.
        quiet: show nothing.
    """
    waiting = deque(missing(record))
    running: dict[Any, Weights] = {}
    slots, console = session.slots, Console(stderr=True, quiet=quiet)
    assert slots is not None
    task = _score.options(num_cpus=slots.cpu, num_gpus=slots.gpu)
    columns = (TextColumn("finalists on fresh episodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

    def leave() -> None:
        session.leaving = True
        console.print("leaving; every finalist that is scored is saved", highlight=False)

    with on_ctrl_c(leave), bars:
        bar = bars.add_task("", total=len(waiting))
        while (waiting or running) and not session.leaving:
            while waiting and len(running) < slots.count:
                one = waiting.popleft()
                running[task.remote(one, slots.gpu, slots.gpu_context)] = one
            ended, _ = ray.wait(list(running), num_returns=1, timeout=LISTEN_S)
            for ready in ended:
                one = running.pop(ready)
                session.busy_s += _seconds(ready, one, session)
                bars.advance(bar)
                if not console.is_terminal:
                    console.print(f"{one}: scored on {one.tasks} fresh episodes", highlight=False)


def _seconds(ready: Any, one: Weights, session: Session) -> float:
    try:
        return float(ray.get(ready))
    except ray.exceptions.RayError as error:
        session.problems.append(f"{one}: its worker failed: {last_line(error)}")
        return 0.0


def score(one: Weights, gpu_share: float = 0.0, gpu_context: int = 0) -> float:
    """Score weights on the fresh episodes and keep the scores in their folder. Returns the seconds that it took."""
    torch.set_num_threads(1)
    cap_memory(gpu_share, gpu_context)
    start = time.perf_counter()
    try:
        found: dict[str, Any] = {"values": _values(one), "reason": ""}
    except UserError as error:
        found = {"values": [], "reason": str(error)}
    seconds = time.perf_counter() - start
    found |= {"of": one.identity, "seconds": seconds, "at": time.time()}
    write_atomically(one.folder / FILE, json.dumps(found))
    return seconds


_score = ray.remote(max_retries=3)(score)


def warm_up(count: int) -> None:
    """Let Ray start workers for finalists on this machine; returns at once.

    A worker imports for three seconds before it scores: time that a slot has to spare while the last trials end.
    """
    for _ in range(count):
        ray.remote(num_cpus=0)(_imported).remote()


def _imported() -> None:
    """In a worker: this module is there."""


def _values(one: Weights) -> list[float]:
    trainer, checkpoint = Trainer(parse_trial(one.config)), one.folder / "checkpoint.pt"
    if one.trained_at is not None or checkpoint.exists():
        trainer.load(checkpoint)
    while one.trained_at is None and not trainer.done:
        trainer.round()
        trainer.save(checkpoint)
    if one.trained_at is None and trainer.diverged:
        raise UserError(f"seed {one.config['seed']} diverged at {trainer.outer_step} outer steps")
    steps = one.trained_at if one.trained_at is not None else (trainer.best or {})["outer_step"]
    kept = [entry["weights"] for entry in trainer.top if entry["outer_step"] == steps]
    if not kept:
        raise UserError(f"{checkpoint}: lacks the weights of {steps} outer steps, which were the trial's best")
    bank = trainer.problem.bank("validation", one.bank_seed)
    values = trainer.evaluate(bank, one.tasks, members=kept).values.tolist()
    if not all(map(isfinite, values)):
        raise UserError("a score on the fresh episodes is not finite")
    return [float(value) for value in values]
