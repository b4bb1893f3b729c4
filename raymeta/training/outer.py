"""The outer update: which optimizer, with which step size at which moment."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from raymeta.config.sections import OuterConfig


def optimizer_of(outer: OuterConfig, groups: Iterable[Sequence[nn.Parameter]]) -> torch.optim.Optimizer:
    """A new optimizer of these groups of parameters.

    `sgd` is PyTorch's: v <- momentum v + g, and lr (g + momentum v) is the step with Nesterov's momentum, lr v without.
    Weight decay is added to the gradient, weight_decay * parameter, for both (Adam's is not the decoupled one).
    """
    of_all = [{"params": list(group)} for group in groups]
    if outer.optimizer == "adam":
        return torch.optim.Adam(of_all, lr=outer.lr, weight_decay=outer.weight_decay)
    return torch.optim.SGD(
        of_all, lr=outer.lr, momentum=outer.momentum, nesterov=outer.nesterov, weight_decay=outer.weight_decay
    )


def rate(outer: OuterConfig, share: float) -> float:
    """The step size when a share of the full budget is done, 0 to 1."""
    if outer.schedule == "cosine":
        return outer.min_lr + (outer.lr - outer.min_lr) * (1 + math.cos(math.pi * share)) / 2
    if outer.schedule == "step":
        passed = sum(share >= milestone - EXACT for milestone in outer.milestones)
        return outer.lr * (1.0, *outer.factors)[passed]
    if outer.schedule == "exponential":
        return float(outer.lr * outer.decay ** math.floor(share / outer.every + EXACT))
    return outer.lr


EXACT = 1e-9  # shares are quotients of outer steps: 0.3 of ten steps is to begin with the fourth
