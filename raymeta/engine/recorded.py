"""What CUDA graphs do, as far as a CPU can do it: by it capturing is tested, and tried, without a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from raymeta.engine.prepared import Flat
from raymeta.engine.traced import operations


class RecordedGraphs:
    """Operations that are done again on the memory that was there when they were recorded.

    Whatever else varied is not seen by a replay; and a replay spoils the results of all others, as those of one pool
    may lie in the same memory.

    Attributes:
        early_calls, recorded, replays: how many there were.
    """

    def __init__(self) -> None:
        self.early_calls = self.recorded = self.replays = 0
        self._results: list[Tensor] = []

    def early(self, call: Callable[[], Any]) -> Any:
        """See `raymeta.engine.graphs.Graphs`."""
        self.early_calls += 1
        return call()

    def record(self, flat: Flat, tensors: list[Tensor]) -> Callable[[], Any]:
        """See `raymeta.engine.graphs.Graphs`."""
        graph = torch.no_grad()(operations(flat, tensors))
        leaves, form = tree_flatten(graph(tensors))
        own = [leaf.clone() for leaf in leaves]
        self._results += own
        self.recorded += 1

        def again() -> Any:
            self.replays += 1
            for result in self._results:
                result.fill_(torch.nan if result.is_floating_point() else -1)
            for mine, value in zip(own, tree_flatten(graph(tensors))[0], strict=True):
                mine.copy_(value)
            return tree_unflatten(own, form)

        return again
