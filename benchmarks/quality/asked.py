"""Searches by systems that are asked for a config and told its scores, round real trainings.

They are those of `simulated/outside.py`, with worker processes in place of a table: each trains a trial round by round,
with one thread, and after every validation the system says whether it goes on. One that is paused leaves a checkpoint,
from which any worker goes on.
"""

import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated.schedulers import Full, Trial
from simulated.search import OUTSIDE, OUTSIDE_SCHEDULERS

from quality.arms import Arm, Round
from raymeta.config import parse_trial
from raymeta.metric import Metric
from raymeta.problem import open_problem
from raymeta.storage.files import write_atomically
from raymeta.study.plan.param import Param, Point
from raymeta.study.plan.plan import Plan
from raymeta.training.trainer import Trainer


class Live:
    """What a system asks of a table, where there is none: each proposal is a row of its own."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.points: list[Point] = []

    def lookup(self, params: Mapping[str, Param]) -> "Live":
        """Rows by points."""
        return self

    def take(self, point: Mapping[str, Any]) -> int:
        """A new row, of plain values."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in point.items()}
        self.points.append(plain)
        return len(self.points) - 1


_running: dict[int, Trainer] = {}
"""The trial of a worker, by number."""


def train_round(number: int, config: dict[str, Any], checkpoint: Path, keep: bool) -> dict[str, Any]:
    """A round of a trial, in a worker; `keep`: it leaves a checkpoint."""
    if number not in _running:
        _running.clear()
        trainer = _running[number] = Trainer(parse_trial(config))
        if checkpoint.exists():
            trainer.load(checkpoint)
    trainer = _running[number]
    metrics = trainer.round()
    if keep:
        trainer.save(checkpoint)
    return metrics


def by_asking(arm: Arm, plan: Plan, limit: int, slots: int, path: Path) -> None:
    """Search, and write the rounds down in order of time."""
    np.random.seed(plan.study.seed)
    live = Live(open_problem(plan.base.task).metric)
    proposer = OUTSIDE[arm.system](live, plan)  # type: ignore[arg-type, abstract]
    scheduler: Full = proposer if isinstance(proposer, Full) else OUTSIDE_SCHEDULERS[arm.scheduler](live, plan)  # type: ignore[arg-type]
    full, metric = plan.base.budget.outer_steps, f"val_{live.metric.name}"
    rounds: list[Round] = []
    done: dict[int, int] = {}  # outer steps by trial
    under_way: dict[Future[dict[str, Any]], tuple[ProcessPoolExecutor, Trial]] = {}
    begun = 0

    def push(worker: ProcessPoolExecutor, trial: Trial) -> None:
        config = plan.config(live.points[trial.row]).as_dict()
        checkpoint = path.parent / f"{trial.number}.pt"
        under_way[worker.submit(train_round, trial.number, config, checkpoint, scheduler.pauses)] = worker, trial

    def take(worker: ProcessPoolExecutor) -> None:
        nonlocal begun
        if (trial := scheduler.paused()) is None:
            trial = Trial(begun, proposer.ask(begun))
            begun += 1
            scheduler.begin(trial)
        else:
            proposer.waits(trial.number, waiting=False)
        push(worker, trial)

    workers = [
        ProcessPoolExecutor(1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
        for _ in range(slots)
    ]
    for worker in workers:
        take(worker)
    while sum(done.values()) < limit:
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            worker, trial = under_way.pop(future)
            metrics = future.result()
            step, value = metrics["outer_steps"], metrics.get(metric, math.nan)
            done[trial.number] = step
            told = None if metrics["diverged"] else value
            point = live.points[trial.row]
            rounds.append({"at": time.time(), "trial": trial.number, "steps": step, "value": told, "point": point})
            proposer.report(trial.number, step, value)
            if scheduler.goes_on(trial, step, value) and step < full:
                push(worker, trial)
                continue
            trial.over = step == full or told is None or not scheduler.pauses
            if trial.over:
                proposer.end(trial.number, told if step == full else None)
            else:
                proposer.waits(trial.number, waiting=True)
            take(worker)
    for worker in workers:
        worker.shutdown(cancel_futures=True)
    write_atomically(path, json.dumps(rounds))
