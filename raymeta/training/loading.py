"""Trained weights read back from a checkpoint, as a learner that is used."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Problem
from raymeta.storage import checkpoints
from raymeta.storage.places import AnyPath
from raymeta.training.trainer import CHECKPOINT_VERSION


def read_weights(path: AnyPath, device: torch.device) -> tuple[TrialConfig, list[dict[str, Any]]]:
    """The config in a checkpoint, and its best validated weights: entries as in `Trainer.top`.

    Raises:
        UserError: it is not there, damaged, or of another version.
    """
    state = checkpoints.read(path, device)
    try:
        version, config, top = state["version"], state["config"], list(state["top"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint of a trial") from error
    if version != CHECKPOINT_VERSION:
        raise UserError(f"{path}: has version {version}, this raymeta reads {CHECKPOINT_VERSION}")
    return parse_trial(config, str(path)), top


def learner_with(
    weights: Mapping[str, Tensor], config: TrialConfig, problem: Problem, device: torch.device, path: AnyPath
) -> Learner:
    """The learner of a config with the weights that a checkpoint, at `path`, has of it.

    Raises:
        UserError: they are those of another config.
    """
    learner = build_learner(config, problem).to(device)
    try:
        learner.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its weights are not those of its config") from error
    return learner.eval()
