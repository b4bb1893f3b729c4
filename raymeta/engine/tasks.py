"""The tasks of an outer step or of an evaluation: what they are made of, and how they are computed, one after the other
or batched by vmap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from raymeta.engine.transfer import sent

T = TypeVar("T")


def of_task(values: Tensor, task: int | Tensor) -> Tensor:
    """A task's own of the values of all tasks, [T, ...] to [...]; under vmap `task` is its batched index."""
    if isinstance(task, int):
        return values[task]
    return values.index_select(0, task.reshape(1)).squeeze(0)


def for_each(function: Callable[..., T], *arguments: Any, vectorized: bool) -> list[T] | T:
    """Call a function for every task.

    Args:
        function: takes the number of a task (int; under vmap a tensor []), then its own of each argument.
        arguments: tensors [T, ...], or tuples of them, nested at will.
        vectorized: batch the tasks with vmap.

    Returns:
        What it gave, task after task; batched: one result whose tensors are [T, ...].
    """
    leaves = tree_leaves(arguments)
    count, device = len(leaves[0]), leaves[0].device
    if vectorized:
        return torch.vmap(function)(torch.arange(count, device=device), *arguments)
    return [function(task, *tree_map(lambda values, task=task: values[task], arguments)) for task in range(count)]


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
        return self.map(lambda tensor: sent(tensor, torch.device(device)))
