"""What tasks are made of."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.engine.tasks import of_task


class Examples(NamedTuple):
    """Inputs x [n, ...] and what they should give, y [n, ...]: labels (int64), or values."""

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One task. A query label may be soft: probabilities [n, N] instead of labels [n]."""

    support: Examples
    query: Examples


class Tasks(NamedTuple):
    """T tasks of one shape: every tensor is [T, n, ...]."""

    support: Examples
    query: Examples

    @property
    def size(self) -> int:
        """T. (`len` of a named tuple is the number of its fields.)"""
        return len(self.support.x)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.support.x.device

    def task(self, number: int | Tensor) -> Task:
        """One of them; under vmap `number` is its batched index."""
        return Task(*(Examples(*(of_task(tensor, number) for tensor in part)) for part in self))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Tasks":
        """The same tasks with each of their tensors changed."""
        return Tasks(*(Examples(*map(change, part)) for part in self))

    def to(self, device: torch.device | str) -> "Tasks":
        """The same tasks on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
