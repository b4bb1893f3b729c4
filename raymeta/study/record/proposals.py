"""How a search proposes: what samples a trial's values, key by key, from the trials so far."""

import warnings
from collections.abc import Callable, Collection
from copy import copy
from hashlib import sha256
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raymeta.study.plan.layers import StudyConfig
from raymeta.study.plan.plan import Plan

SamplerOf = Callable[[StudyConfig, str], optuna.samplers.BaseSampler]


def sampler_of(study: StudyConfig, name: str) -> optuna.samplers.BaseSampler:
    """The sampler of one value.

    Args:
        study: settings of the study.
        name: of the value; with the trials so far it decides what is proposed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna 4, of constant_liar
        return optuna.samplers.TPESampler(
            seed=seed_of(name),
            n_startup_trials=study.startup_trials,
            multivariate=False,  # univariate with ASHA was best or tied in simulation
            constant_liar=True,
        )


def seed_of(name: str) -> int:
    """A seed that a name stands for."""
    return int.from_bytes(sha256(name.encode()).digest()[:4])


class _Seen:
    """A study as a sampler is to see it: a trial that waits at a rung is what it would be had it been cut there.

    To Optuna it runs, and of a running trial TPE takes the worst for granted, however good its score is.
    """

    def __init__(self, study: optuna.Study, waiting: Collection[int]) -> None:
        self._study, self._waiting = study, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Collection[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        every = map(self._as_cut, self._study._get_trials(deepcopy, use_cache=use_cache))
        return [trial for trial in every if states is None or trial.state in states]

    def _as_cut(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.number not in self._waiting:
            return trial
        trial = copy(trial)
        trial.state = TrialState.PRUNED
        return trial


class _Seeing(optuna.samplers.BaseSampler):
    """A sampler that is shown the study so."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, waiting: Collection[int]) -> None:
        self._sampler, self._waiting = sampler, waiting

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        return self._sampler.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._sampler.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def _seen(self, study: optuna.Study) -> Any:
        return _Seen(study, self._waiting)


def propose(
    plan: Plan,
    study: optuna.Study,
    number: int,
    trial: optuna.Trial,
    of: SamplerOf = sampler_of,
    waiting: Collection[int] = (),
) -> None:
    """Draw the values that a trial has not got yet.

    The sampler is made anew for each value from (study seed, number, key), so that values depend on the history alone:
    a driver may die between two of them.

    Args:
        plan: with the space and the settings.
        study: with the trials so far, whose sampler this changes.
        number: of the trial.
        trial: which is open.
        of: makes the sampler of a value.
        waiting: trials that wait at a rung.
    """

    def sampler_for(key: str) -> None:
        sampler = of(plan.study, f"{plan.study.seed}/{number}/{key}")
        study.sampler = _Seeing(sampler, waiting) if waiting else sampler

    plan.space.sample(trial, sampler_for)
