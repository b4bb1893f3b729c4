"""Small problems of policies, in float64."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.schema import merge
from raymeta.training.trainer import Trainer
from raymeta.training.trpo import TRPO

SMALL: dict[str, Any] = {
    "method": "maml",
    "maml": {"inner_steps": 1, "inner_lr": 0.1},
    "task": {"problem": "navigation2d", "trajectories": 3, "horizon": 8},
    "model": {"name": "policy", "hidden": [4]},
    "outer": {"optimizer": "trpo", "tasks_per_step": 2},
    "budget": {"outer_steps": 4, "validate_every": 2, "validation_tasks": 3, "test_tasks": 3, "ensemble": 2},
}
NOISE: dict[str, Any] = {"regularizers": {"dropgrad": {"rate": 0.3}}}


def trained(*sections: dict[str, Any]) -> Trainer:
    """A trainer that has done nothing yet, its learner in float64."""
    data = merge(SMALL, *sections)
    left = {key: value for key, value in data.items() if key != "maml" or data["method"] == "maml"}
    trainer = Trainer(parse_trial(left))
    trainer.learner.double()
    return trainer


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def learned(trainer: Trainer) -> Tensor:
    return flat(list(trainer.update.learned.values())).detach().clone()


def move(trainer: Trainer, values: Tensor) -> None:
    assert isinstance(trainer.update, TRPO)
    trainer.update._move(values)
