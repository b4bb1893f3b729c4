"""A simulated asynchronous search: workers take the recorded time, the proposals and cuts are real."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raymeta.study.plan.param import Point
from raymeta.study.plan.plan import Plan
from simulated.cube import Exhausted
from simulated.outside import SMAC, RaysOptuna, SyneTune, SyneTunesASHA
from simulated.samplers import SAMPLERS, Proposer, without_starts
from simulated.schedulers import SCHEDULERS, Full, Trial
from simulated.table import Table

OUTSIDE = {"Ray's Optuna": RaysOptuna, "Syne Tune's CQR": SyneTune, "SMAC": SMAC}
OUTSIDE_SCHEDULERS = {"Syne Tune's ASHA": SyneTunesASHA, "its hyperband": Full}
"""Other systems: what proposes, and what cuts."""

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Compute at which is noted what a search would return, in full trainings of mean length."""


@dataclass(frozen=True)
class Setting:
    """A way to search.

    Attributes:
        sampler, scheduler: names of `SAMPLERS` and `SCHEDULERS`.
        starts: whether the starting points come first.
        first: the first rung as a share of the full budget, one in so many; None: the problem's own.
        reduction: one trial in so many passes a rung.
        warm: whether the best five configs of the other problems are further starting points.
        finalists: so many of the best whole trainings are scored on fresh tasks at the end; 0: none.
    """

    sampler: str = "TPE"
    scheduler: str = "ASHA"
    starts: bool = True
    first: int | None = None
    reduction: int = 3
    warm: bool = False
    finalists: int = 0

    def __str__(self) -> str:
        parts = [f"{self.sampler} + {self.scheduler}"]
        parts += [f"1/{self.reduction}"] * (self.reduction != 3)
        parts += [f"first rung 1/{self.first}"] * (self.first is not None)
        parts += ["no starting points"] * (not self.starts) + ["warm start"] * self.warm
        parts += [f"{self.finalists} finalists"] * (self.finalists > 0)
        return ", ".join(parts)

    def plan(self, table: Table, seed: int, others: Sequence[Table] = (), most: float = BUDGETS[-1]) -> Plan:
        """The study's plan, as a user would write it who has so much compute, in full trainings."""
        own = table.problem.plan
        budget = own.base.budget.outer_steps
        first = budget // self.first if self.first else own.study.first_rung
        chosen = {"seed": seed, "first_rung": first, "reduction": self.reduction, "halving": "stopping"}
        study = own.study.model_copy(update=chosen)  # one number of trials whatever the scheduler
        plan = replace(own, study=study)
        if not self.starts:
            plan = without_starts(plan)
        if self.warm:
            points = [point for other in others for point in best_points(other, plan)]
            plan = plan.starting_from(points, ["another problem's"] * len(points))
        trials = 1
        while plan.with_trials(trials).usual_steps() < most * budget:
            trials += 1
        return plan.with_trials(trials)


STOPPING = Setting()
"""What others are compared with: raymeta's default until these tables chose another."""


def best_points(other: Table, plan: Plan, most: int = 5) -> list[Point]:
    """The configs of another problem with the best last validations, as far as a plan's space has their keys."""
    ends = other.means[:, -1]
    order = np.argsort(-ends if other.metric.mode == "max" else ends)  # what is not finite comes last
    points: list[Point] = []
    for row in order:
        given = dict(other.points[row])
        if "regularizer" in plan.space.params and "regularizer" not in given:
            added = {key.split(".")[1] for key in given if key.startswith("regularizers.")}
            given["regularizer"] = next(iter(added), "none")
        params = plan.space.params
        point = {key: value for key, value in given.items() if key in params and params[key].contains(value)}
        if point and point not in points:
            points.append(point)
        if len(points) == most:
            break
    return points


@dataclass(frozen=True)
class Found:
    """What a simulated search did.

    Attributes:
        rows: of the table, what it would have returned at each of `BUDGETS`; -1: nothing was validated yet.
        trials: begun.
        whole: trained at full budget.
    """

    rows: list[int]
    trials: int
    whole: int


def simulate(
    table: Table, setting: Setting, seed: int, workers: int = 4, others: Sequence[Table] = (), most: float = BUDGETS[-1]
) -> Found:
    """Search a table.

    Args:
        table: what can be found and how long it takes.
        setting: the way to search.
        seed: of the proposals.
        workers: trials at a time.
        others: tables of other problems, for a warm start.
        most: compute, in full trainings.
    """
    np.random.seed(seed)
    plan = setting.plan(table, seed, others, most)
    proposer: Proposer = (SAMPLERS | OUTSIDE)[setting.sampler](table, plan)
    both = isinstance(proposer, Full)  # a system that proposes and schedules
    scheduler: Full = proposer if both else (SCHEDULERS | OUTSIDE_SCHEDULERS)[setting.scheduler](table, plan)
    full = float(table.times[:, -1].mean())
    best, begun = _Best(table, scheduler.rungs, setting.finalists), 0
    marks, found = [budget * full for budget in BUDGETS if budget <= most], list[int]()
    queue: list[tuple[float, int, Trial]] = []

    def take(now: float) -> None:
        """A worker's next trial: one that was paused, or a new one."""
        nonlocal begun
        if (trial := scheduler.paused()) is None:
            try:
                trial = Trial(begun, proposer.ask(begun))
            except Exhausted:
                return
            begun += 1
            scheduler.begin(trial)
        else:
            proposer.waits(trial.number, waiting=False)
        push(now, trial)

    def push(now: float, trial: Trial) -> None:
        times = table.times[trial.row]
        needed = times[trial.done] - (times[trial.done - 1] if trial.done else 0.0)
        heapq.heappush(queue, (now + needed, trial.number, trial))

    for _ in range(workers):
        take(0.0)
    while queue and len(found) < len(marks):
        now, _, trial = heapq.heappop(queue)
        while len(found) < len(marks) and workers * now > marks[len(found)] * (1 + 1e-9):
            found.append(best.row())
        step, value = int(table.steps[trial.done]), float(table.means[trial.row, trial.done])
        trial.done += 1
        proposer.report(trial.number, step, value)
        best.note(trial, step, value)
        if scheduler.goes_on(trial, step, value) and trial.done < len(table.steps):
            push(now, trial)
            continue
        whole = trial.done == len(table.steps)
        trial.over = whole or not np.isfinite(value) or not scheduler.pauses
        if trial.over:
            proposer.end(trial.number, value if whole and np.isfinite(value) else None)
        else:
            proposer.waits(trial.number, waiting=True)
        take(now)
    found += [best.row()] * (len(marks) - len(found))
    return Found(found, begun, best.whole)


class _Best:
    """What a search would return: of the trials at the highest rung the one with the best validation so far, or of
    several that were trained to the end the best on fresh tasks.
    """

    def __init__(self, table: Table, rungs: Sequence[int], finalists: int) -> None:
        self.table, self.rungs, self.finalists = table, rungs, finalists
        self.sign = 1 if table.metric.mode == "max" else -1
        self.whole = 0
        self._standing: dict[int, tuple[int, float, int]] = {}  # of trials: rung, best score, row

    def note(self, trial: Trial, step: int, value: float) -> None:
        """A validation."""
        if not np.isfinite(value):
            self._standing.pop(trial.number, None)  # it diverged
            return
        rung = sum(rung <= step for rung in self.rungs)
        before = self._standing.get(trial.number, (0, -np.inf, 0))[1]
        self._standing[trial.number] = rung, max(before, self.sign * value), trial.row
        self.whole += trial.done == len(self.table.steps)

    def row(self) -> int:
        """Of the best; -1: there is none."""
        if not self._standing:
            return -1
        order = sorted(self._standing.values(), reverse=True)
        if self.finalists:
            rows = [row for rung, _, row in order if rung == len(self.rungs)][: self.finalists]
            if rows:
                return max(rows, key=lambda row: self.sign * self.table.fresh[row].mean())
        return order[0][2]


def tables_of(found: dict[str, Table]) -> dict[str, list[Table]]:
    """For each problem the tables of the others."""
    return {name: [table for other, table in found.items() if other != name] for name in found}


def as_row(found: Found) -> dict[str, Any]:
    """Plain data."""
    return {"rows": found.rows, "trials": found.trials, "whole": found.whole}
