"""How a search proposes: what samples a trial's values, key by key, from the trials so far."""

import warnings
from collections.abc import Callable
from hashlib import sha256

import optuna

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


def propose(plan: Plan, study: optuna.Study, number: int, trial: optuna.Trial, of: SamplerOf = sampler_of) -> None:
    """Draw the values that a trial has not got yet.

    The sampler is made anew for each value from (study seed, number, key), so that values depend on the history alone:
    a driver may die between two of them.

    Args:
        plan: with the space and the settings.
        study: with the trials so far, whose sampler this changes.
        number: of the trial.
        trial: which is open.
        of: makes the sampler of a value.
    """

    def sampler_for(key: str) -> None:
        study.sampler = of(plan.study, f"{plan.study.seed}/{number}/{key}")

    plan.space.sample(trial, sampler_for)
