"""The tasks of an outer step or of an evaluation: one after the other, or batched by vmap."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

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
