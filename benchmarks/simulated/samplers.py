"""What proposes the configs of a simulated search: raymeta's own way, Optuna's samplers, and some others."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, TrialState

from raymeta.study.plan.layers import StudyConfig
from raymeta.study.plan.param import Point
from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import Space
from raymeta.study.record.proposals import SamplerOf, propose, sampler_of, seed_of
from simulated.problems import point_at
from simulated.table import Table

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class Proposer(ABC):
    """Proposes rows of a table, each once."""

    def __init__(self, table: Table, plan: Plan) -> None:
        self.table, self.plan = table, plan
        self.lookup = table.lookup(plan.space.params)

    @abstractmethod
    def ask(self, number: int) -> int:
        """The row of a new trial."""

    @abstractmethod
    def report(self, number: int, step: int, value: float) -> None:
        """A validation of a trial."""

    @abstractmethod
    def end(self, number: int, value: float | None) -> None:
        """A trial's end: with its last value if it had the full budget, None if it was cut or diverged."""

    def waits(self, number: int, *, waiting: bool) -> None:  # noqa: B027
        """A trial is paused at a rung, or goes on from there."""


class OfOptuna(Proposer):
    """A study of Optuna's in memory.

    Values are proposed as a study on disk has them (`propose`), by the sampler of each value, or by one that lasts.
    """

    def __init__(
        self, table: Table, plan: Plan, of: SamplerOf = sampler_of, lasting: optuna.samplers.BaseSampler | None = None
    ) -> None:
        super().__init__(table, plan)
        self._of: SamplerOf = (lambda study, name: lasting) if lasting else of
        mode = table.metric.mode
        self.study = optuna.create_study(direction="maximize" if mode == "max" else "minimize", sampler=lasting)
        self._open: dict[int, optuna.Trial] = {}
        for point in plan.space.start_from:
            self.study.enqueue_trial(point)

    def ask(self, number: int) -> int:
        trial = self._open[number] = self.study.ask()
        propose(self.plan, self.study, number, trial, self._of)
        row = self.lookup.take(trial.params)
        kept, fixed = self.study.get_trials(deepcopy=False)[number], FixedTrial(self.table.points[row])
        kept.params = self.plan.space.sample(fixed)  # type: ignore[arg-type]
        kept.distributions = fixed.distributions  # it was proposed as the row from the start
        return row

    def report(self, number: int, step: int, value: float) -> None:
        if np.isfinite(value):
            self._open[number].report(value, step)

    def waits(self, number: int, *, waiting: bool) -> None:
        """One that waits is to TPE what it would be had it been cut; a running one counts as a bad one."""
        state = TrialState.PRUNED if waiting else TrialState.RUNNING
        self.study.get_trials(deepcopy=False)[number].state = state

    def end(self, number: int, value: float | None) -> None:
        trial = self._open.pop(number)
        self.study.tell(trial, value, TrialState.COMPLETE if value is not None else TrialState.PRUNED)


def multivariate(study: StudyConfig, name: str) -> optuna.samplers.BaseSampler:
    """Multivariate TPE: all values of a trial are drawn together."""
    seed = seed_of(name.rsplit("/", 1)[0])
    startup = study.startup_trials
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


class Drawn(Proposer):
    """Rows by lot, after the starting points: a random search without replacement."""

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self._random = np.random.default_rng(plan.study.seed)

    def ask(self, number: int) -> int:
        if number < len(self.plan.space.start_from):
            return self.lookup.take(self.plan.space.start_from[number])
        free = self.lookup.free
        return self.lookup.mark(int(self._random.choice(free))) if len(free) else self.lookup.take({})

    def report(self, number: int, step: int, value: float) -> None: ...

    def end(self, number: int, value: float | None) -> None: ...


class AroundStarts(Drawn):
    """PriorBand's proposals (Mallik et al. 2023) on the lowest bracket: half random, half from a density round the
    starting points or round the incumbent, weighed by how well either explains the best third of the trials so far.
    """

    SD = 0.25

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan)
        self._rows: dict[int, int] = {}
        self._last: dict[int, tuple[int, float]] = {}  # trial to its last step and score, larger is better
        self._sign = 1 if table.metric.mode == "max" else -1
        self._starts = self.lookup.cube.of(plan.space.start_from)

    def ask(self, number: int) -> int:
        if number < len(self._starts) or not self._last or self._random.random() < 0.5:
            row = super().ask(number)
        else:
            row = self.lookup.take(self._near(self._centre()))
        self._rows[number] = row
        return row

    def report(self, number: int, step: int, value: float) -> None:
        if np.isfinite(value):
            self._last[number] = step, self._sign * value

    def _centre(self) -> np.ndarray:
        """A starting point, or the best so far."""
        order = sorted(self._last, key=self._last.__getitem__, reverse=True)
        best = self.lookup.rows[[self._rows[number] for number in order[: max(1, len(order) // 3)]]]
        weights = np.arange(len(best), 0, -1)
        likely = [weights @ self._density(centres, best) for centres in (self._starts, best[:1])]
        if self._random.random() * sum(likely) < likely[0]:
            return self._starts[self._random.integers(len(self._starts))]
        return best[0]

    def _density(self, centres: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Of points [n, keys] under equal normal densities round some centres, [n], up to a factor."""
        apart = np.stack([self.lookup.cube.distances(points, centre) for centre in centres])
        found: np.ndarray = np.exp(-apart / (2 * self.SD**2)).mean(0)
        return found

    def _near(self, centre: np.ndarray) -> Point:
        """A point near another: numbers by a normal density within the range, one choice in four changed."""
        cube, unit = self.lookup.cube, self._random.random(len(centre))
        moved = centre + self.SD * self._random.standard_normal(len(centre))
        numbers = np.abs(moved - 2 * np.round(moved / 2))  # reflected at 0 and at 1
        sizes = np.array([len(param.choice or ()) or 1 for param in cube.params.values()])
        kept = (centre + 0.5) / sizes
        choices = np.where(np.isnan(kept) | (self._random.random(len(centre)) < 0.25), unit, kept)
        return point_at(dict(cube.params), np.where(cube.choices, choices, np.where(np.isnan(numbers), unit, numbers)))


def without_starts(plan: Plan) -> Plan:
    """The plan without starting points."""
    return replace(plan, space=Space(plan.space.params, [], []))


def gp(table: Table, plan: Plan) -> Proposer:
    """Optuna's Gaussian process, as it comes: it learns from whole trainings alone."""
    lasting = optuna.samplers.GPSampler(seed=plan.study.seed, n_startup_trials=plan.study.startup_trials)
    return OfOptuna(table, plan, lasting=lasting)


def cma(table: Table, plan: Plan) -> Proposer:
    """Optuna's CMA-ES, which has random values for choices and for keys that not all trials have."""
    lasting = optuna.samplers.CmaEsSampler(seed=plan.study.seed, n_startup_trials=1, warn_independent_sampling=False)
    return OfOptuna(table, plan, lasting=lasting)


def tpe(table: Table, plan: Plan) -> Proposer:
    """What raymeta does."""
    return OfOptuna(table, plan)


def tpe_multivariate(table: Table, plan: Plan) -> Proposer:
    """The same with multivariate TPE."""
    return OfOptuna(table, plan, multivariate)


MakesProposer = Callable[[Table, Plan], Proposer]
SAMPLERS: dict[str, MakesProposer | type[Any]] = {
    "random": Drawn,
    "TPE": tpe,
    "multivariate TPE": tpe_multivariate,
    "GP": gp,
    "CMA-ES": cma,
    "PriorBand-like": AroundStarts,
}
