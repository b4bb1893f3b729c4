"""What cuts the trials of a simulated search: raymeta's ASHA, Ray's own rules, and some that are in neither.

Each is asked after every validation whether a trial goes on, and, where trials are paused, whose turn it is.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import AUTHORS, BASELINE
from raymeta.study.run.halving import Stopping, promoted
from simulated.table import Table


@dataclass(eq=False)
class Trial:
    """A simulated trial.

    Attributes:
        number: of the trial.
        row: its config in the table.
        done: validations so far.
        over: it was cut, diverged or has its full budget.
    """

    number: int
    row: int
    done: int = 0
    over: bool = False
    trial_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trial_id, self.config = f"trial {self.number}", {"study": {"trial": self.number}}  # as Ray's have them


class Full:
    """Nothing is cut.

    Attributes:
        rungs: outer steps by which trials are ranked.
        pauses: trials that do not go on may do so later.
    """

    pauses = False

    def __init__(self, table: Table, plan: Plan) -> None:
        self.table, self.plan, self.rungs = table, plan, [plan.base.budget.outer_steps]

    def begin(self, trial: Trial) -> None:
        """A trial starts."""

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        """Whether a trial goes on after a validation; one that does not may be paused."""
        return bool(np.isfinite(value))

    def paused(self) -> Trial | None:
        """A paused trial that goes on now, ahead of a new one."""
        return None


class OfRay(Full):
    """A scheduler of Ray's, as Tune calls it."""

    def __init__(self, table: Table, plan: Plan, scheduler: Any, rungs: list[int]) -> None:
        super().__init__(table, plan)
        self.scheduler, self.rungs = scheduler, rungs

    def begin(self, trial: Trial) -> None:
        self.scheduler.on_trial_add(self, trial)

    def get_live_trials(self) -> list[Any]:
        """What the median rule asks of Tune: trials that wait for a slot, of which there are none here."""
        return []

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        result = {"outer_steps": step, f"val_{self.table.metric.name}": value}
        if not np.isfinite(value):
            return False
        action = self.scheduler.on_trial_result(self, trial, result)
        return bool(action != TrialScheduler.STOP)


@dataclass
class _Record:
    """What raymeta's ASHA asks of a study's record."""

    plan: Plan
    metric: Any

    def trials(self) -> list[Any]:
        """A new study has none."""
        return []


class ASHA(OfRay):
    """raymeta's own scheduler."""

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan, Stopping(_Record(plan, table.metric)), plan.rungs)  # type: ignore[arg-type]


class Lenient(ASHA):
    """ASHA that cuts a trial only if it is worse than the one at the cutoff by more than a standard error of their
    difference over the tasks that both were scored on.
    """

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self._rows: dict[str, int] = {}

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        self._rows[trial.trial_id] = trial.row
        if super().goes_on(trial, step, value):
            return True
        scores = self.scheduler.rungs.get(step, {})
        own = scores.get(trial.trial_id)
        if own is None or step == self.rungs[-1]:
            return False
        cutoff = np.percentile(list(scores.values()), 100 * (1 - 1 / self.plan.study.reduction))
        other = min((name for name in scores if scores[name] >= cutoff), key=scores.__getitem__)
        place = trial.done - 1
        apart = self.table.validation[trial.row, place] - self.table.validation[self._rows[other], place]
        return bool(abs(apart.mean()) < apart.std(ddof=1) / len(apart) ** 0.5)


class Strict(ASHA):
    """ASHA whose rungs no trial passes before as many as `reduction` were there."""

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self._sign = 1 if table.metric.mode == "max" else -1
        self._scores: dict[int, list[float]] = {rung: [] for rung in self.rungs[:-1]}

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        if not np.isfinite(value):
            return False
        if step not in self._scores:
            return True
        seen = self._scores[step]
        seen.append(self._sign * value)
        rank = sum(other > seen[-1] for other in seen) + 1
        return rank <= len(seen) // self.plan.study.reduction


class Opening(ASHA):
    """The same of rungs that are to see many trials, and not of the authors' setting and the un-regularized start."""

    MANY = 24

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        labels, study = plan.space.labels, plan.study
        self._free = {number for number, label in enumerate(labels) if label in (AUTHORS, BASELINE)}
        self._closed = {
            rung for place, rung in enumerate(self.rungs[:-1]) if study.trials / study.reduction**place >= self.MANY
        }

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        if not super().goes_on(trial, step, value):
            return False
        if step not in self._closed or trial.number in self._free:
            return True
        scores = self.scheduler.rungs[step]
        rank = sum(other > scores[trial.trial_id] for other in scores.values()) + 1
        return rank <= len(scores) // self.plan.study.reduction


class Extrapolating(ASHA):
    """ASHA on what a power law a + b t^-c of the curve so far says of its end, no further off than twice what the
    curve has moved.
    """

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        return super().goes_on(trial, step, self._end(trial, value)) if np.isfinite(value) else False

    def _end(self, trial: Trial, value: float) -> float:
        t = self.table.steps[: trial.done].astype(float)
        y = self.table.means[trial.row, : trial.done]
        if len(t) < 3:
            return value
        fits = []
        for c in (0.25, 0.5, 1.0, 2.0):
            x = np.stack([np.ones_like(t), t**-c], 1)
            (a, b), *_ = np.linalg.lstsq(x, y, rcond=None)
            fits.append((float(((x @ (a, b) - y) ** 2).sum()), a + b * float(self.table.steps[-1]) ** -c))
        reach = 2 * abs(y[-1] - y[0])
        return float(np.clip(min(fits)[1], y[-1] - reach, y[-1] + reach))


def median(table: Table, plan: Plan) -> Full:
    """Ray's median stopping rule, from the plan's first rung on."""
    metric = table.metric
    rule = MedianStoppingRule(
        time_attr="outer_steps", metric=f"val_{metric.name}", mode=metric.mode, grace_period=plan.study.first_rung
    )
    return OfRay(table, plan, rule, plan.rungs)


def hyperband(table: Table, plan: Plan) -> Full:
    """Ray's asynchronous hyperband with three brackets."""
    metric = table.metric
    scheduler = AsyncHyperBandScheduler(
        time_attr="outer_steps",
        metric=f"val_{metric.name}",
        mode=metric.mode,
        max_t=plan.base.budget.outer_steps,
        grace_period=plan.study.first_rung,
        reduction_factor=plan.study.reduction,
        brackets=3,
    )
    return OfRay(table, plan, scheduler, plan.rungs)


class Promoting(Full):
    """ASHA as Li et al. write it: a trial waits at each rung until it is among the best in `reduction` there."""

    pauses = True

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self.rungs = plan.rungs
        self.sign = 1 if table.metric.mode == "max" else -1
        self.scores: list[dict[Trial, float]] = [{} for _ in self.rungs]
        self.waiting: dict[Trial, int] = {}  # to the rung, by its place

    @property
    def top(self) -> int:
        """The rung that no trial leaves."""
        return len(self.rungs) - 1

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        if not np.isfinite(value):
            return False
        if step not in self.rungs:
            return True
        rung = self.waiting[trial] = self.rungs.index(step)
        self.scores[rung][trial] = self.sign * value
        return False

    def paused(self) -> Trial | None:
        trial = promoted(dict(enumerate(self.scores[: self.top])), self.waiting, self.plan.study.reduction)
        if trial is not None:
            del self.waiting[trial]
        return trial


class Growing(Promoting):
    """PASHA (Bohdal et al. 2023): the highest rung is the second, and one more whenever the two highest so far order
    their trials differently, by more than a standard error of their paired difference.
    """

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self._top = min(1, len(self.rungs) - 1)

    @property
    def top(self) -> int:
        return self._top

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        goes_on = super().goes_on(trial, step, value)
        if step == self.rungs[self._top] and self._top < len(self.rungs) - 1 and self._crossed():
            self._top += 1
        return goes_on

    def _crossed(self) -> bool:
        upper, lower = self.scores[self._top], self.scores[self._top - 1]
        place = int(np.flatnonzero(self.table.steps == self.rungs[self._top - 1])[0])
        order = sorted(upper, key=upper.__getitem__, reverse=True)
        for better, worse in pairwise(order):
            apart = self.table.validation[worse.row, place] - self.table.validation[better.row, place]
            if lower[worse] > lower[better] and abs(apart.mean()) > apart.std(ddof=1) / len(apart) ** 0.5:
                return True
        return False


SCHEDULERS = {
    "none": Full,
    "ASHA": ASHA,
    "lenient ASHA": Lenient,
    "strict ASHA": Strict,
    "opening ASHA": Opening,
    "extrapolating ASHA": Extrapolating,
    "promoting ASHA": Promoting,
    "PASHA-like": Growing,
    "median": median,
    "hyperband": hyperband,
}
