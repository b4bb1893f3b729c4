"""Systems that people would use instead, on the same recorded trainings: as their own documentation has them used.

They know the ranges, the starting points, the rungs and the validation scores, as raymeta does. None of Syne Tune's and
Ray's knows conditional keys the way the space has them: Syne Tune proposes all keys, of which the idle ones are left
out.
"""

import shutil
import tempfile
from typing import Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, TrialState

from raymeta.study.plan.param import Param, Point
from raymeta.study.plan.plan import Plan
from simulated.samplers import OfOptuna, Proposer
from simulated.schedulers import Full, Trial
from simulated.table import Table


class RaysOptuna(OfOptuna):
    """Ray Tune's `OptunaSearch`: TPE as it comes, to which a trial that was cut is one that has ended with its last
    score.
    """

    def __init__(self, table: Table, plan: Plan) -> None:
        super().__init__(table, plan, lasting=optuna.samplers.TPESampler(seed=plan.study.seed))
        self._last: dict[int, float] = {}

    def report(self, number: int, step: int, value: float) -> None:
        super().report(number, step, value)
        if np.isfinite(value):
            self._last[number] = value

    def end(self, number: int, value: float | None) -> None:
        last = self._last.get(number)
        state = TrialState.COMPLETE if last is not None else TrialState.PRUNED
        self.study.tell(self._open.pop(number), last, state)


class SyneTune(Proposer):
    """Syne Tune's conformal quantile regression on the last score of each trial, the searcher of its `ASHACQR`."""

    searcher = "cqr"

    def __init__(self, table: Table, plan: Plan) -> None:
        from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (
            LastValueMultiFidelitySearcher,
        )

        super().__init__(table, plan)
        self._sign = 1 if table.metric.mode == "min" else -1
        self._defaults = {key: _default(param) for key, param in plan.space.params.items()}
        self._configs: dict[int, dict[str, Any]] = {}
        self._searcher = LastValueMultiFidelitySearcher(
            config_space={key: _domain(param) for key, param in plan.space.params.items()},
            random_seed=plan.study.seed,
            points_to_evaluate=[{**self._defaults, **point} for point in plan.space.start_from],
            searcher=self.searcher,
        )

    def ask(self, number: int) -> int:
        config = self._searcher.suggest()
        row = self.lookup.take(self.plan.space.sample(FixedTrial(config)))  # type: ignore[arg-type]
        self._configs[number] = {**config, **self.table.points[row]}  # it was proposed as the row from the start
        return row

    def report(self, number: int, step: int, value: float) -> None:
        if np.isfinite(value):
            self._searcher.on_trial_result(number, self._configs[number], self._sign * value, step)

    def end(self, number: int, value: float | None) -> None:
        if number not in self._searcher.trial_results:
            self._searcher.on_trial_error(number)


class SyneTunesASHA(Full):
    """Syne Tune's stopping rule."""

    def __init__(self, table: Table, plan: Plan) -> None:
        from syne_tune.optimizer.schedulers.asha import Bracket

        super().__init__(table, plan)
        self.rungs = plan.rungs
        self._sign = 1 if table.metric.mode == "min" else -1
        self._bracket = Bracket(plan.study.first_rung, self.rungs[-1], plan.study.reduction, 0)

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        if not np.isfinite(value):
            return False
        return bool(self._bracket.on_result(trial.number, step, {"score": self._sign * value}) == "CONTINUE")


class SMAC(Proposer, Full):
    """SMAC's multi-fidelity facade: hyperband with a random forest, which pauses trials and promotes the best.

    A promoted trial goes on from where it was, as if its user had written checkpoints.
    """

    pauses = True

    def __init__(self, table: Table, plan: Plan) -> None:
        from smac import MultiFidelityFacade, Scenario

        Proposer.__init__(self, table, plan)
        Full.__init__(self, table, plan)
        self.rungs = plan.rungs
        self._sign = 1 if table.metric.mode == "min" else -1
        self._space = _config_space(plan.space.params)
        self._folder = tempfile.mkdtemp(prefix="smac-")
        scenario = Scenario(
            self._space, deterministic=True, n_trials=100_000, seed=plan.study.seed, output_directory=self._folder,
            min_budget=self.rungs[0], max_budget=self.rungs[-1],
        )  # fmt: skip
        starts = [self._configuration(point) for point in plan.space.start_from]
        design = MultiFidelityFacade.get_initial_design(scenario, n_configs=5, additional_configs=starts)
        intensifier = MultiFidelityFacade.get_intensifier(scenario, eta=plan.study.reduction)
        self._smac = MultiFidelityFacade(
            scenario, _nothing, initial_design=design, intensifier=intensifier, logging_level=False, overwrite=True
        )
        self._trials: dict[Any, Trial] = {}  # by their configuration
        self._asked: dict[Trial, Any] = {}  # what SMAC waits for
        self._next: Any = None
        self._worst = 0.0  # cost of what has ended so far

    def __del__(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def paused(self) -> Trial | None:
        self._next = self._smac.ask()
        trial = self._trials.get(self._next.config)
        if trial is not None:
            self._asked[trial] = self._next
        return trial

    def ask(self, number: int) -> int:
        return self.lookup.take(dict(self._next.config))

    def begin(self, trial: Trial) -> None:
        self._trials[self._next.config], self._asked[trial] = trial, self._next

    def goes_on(self, trial: Trial, step: int, value: float) -> bool:
        from smac.runhistory import StatusType, TrialValue

        info = self._asked[trial]
        if not np.isfinite(value):  # its forest takes no infinite costs
            told = TrialValue(self._worst, status=StatusType.CRASHED)
        elif step < info.budget:
            return True
        else:
            told = TrialValue(self._sign * value)
            self._worst = max(self._worst, told.cost)
        self._smac.tell(info, told, save=False)
        return False

    def report(self, number: int, step: int, value: float) -> None: ...

    def end(self, number: int, value: float | None) -> None: ...

    def _configuration(self, point: Point) -> Any:
        from ConfigSpace import Configuration

        return Configuration(self._space, values=dict(point))


def _nothing(config: Any, seed: int = 0, budget: float = 0.0) -> float:
    """What SMAC would call, did it run the trials itself."""
    raise AssertionError("the simulation runs the trials")


def _domain(param: Param) -> Any:
    """A range as Syne Tune has it."""
    from syne_tune import config_space as cs

    if param.choice is not None:
        return cs.choice(list(param.choice))
    if param.int_ is not None:
        return (cs.lograndint if param.log else cs.randint)(*param.int_)
    return (cs.loguniform if param.log else cs.uniform)(*(param.float_ or (0.0, 1.0)))


def _default(param: Param) -> Any:
    """Of a key that a starting point has not got: anything in its range."""
    return param.choice[0] if param.choice is not None else (param.float_ or param.int_ or (0.0, 0.0))[0]


def _config_space(params: dict[str, Param]) -> Any:
    """A space with its conditions as ConfigSpace has it."""
    from ConfigSpace import (
        AndConjunction,
        CategoricalHyperparameter,
        ConfigurationSpace,
        GreaterThanCondition,
        InCondition,
        UniformFloatHyperparameter,
        UniformIntegerHyperparameter,
    )

    space = ConfigurationSpace()
    for key, param in params.items():
        if param.choice is not None:
            space.add(CategoricalHyperparameter(key, list(param.choice)))
        elif param.int_ is not None:
            space.add(UniformIntegerHyperparameter(key, *param.int_, log=param.log))
        else:
            low, high = param.float_ or (0.0, 1.0)
            space.add(UniformFloatHyperparameter(key, low, high, log=param.log))
    for key, param in params.items():
        conditions = [
            GreaterThanCondition(space[key], space[other], when.above)
            if (choices := params[other].choice) is None
            else InCondition(space[key], space[other], [choice for choice in choices if when.holds(choice)])
            for other, when in param.when.items()
        ]
        if conditions:
            space.add(conditions[0] if len(conditions) == 1 else AndConjunction(*conditions))
    return space
