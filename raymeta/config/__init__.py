"""The one schema of a trial, and how plain data becomes a config."""

from raymeta.config.sections import (
    BudgetConfig,
    EngineConfig,
    OuterConfig,
    PretrainingConfig,
    TaskConfig,
)
from raymeta.config.trial import CHOSEN, TrialConfig, parse_trial, split_settings, split_spec, trial_schema

__all__ = [
    "CHOSEN",
    "BudgetConfig",
    "EngineConfig",
    "OuterConfig",
    "PretrainingConfig",
    "TaskConfig",
    "TrialConfig",
    "parse_trial",
    "split_settings",
    "split_spec",
    "trial_schema",
]
