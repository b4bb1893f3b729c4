"""Functions of tensors as the flat lists of operations that they come to."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

AFTER = 100  # calls, which is about what tracing costs
MOST = 16  # kinds of calls that are told apart


class Traced:
    """A function that is called over and over with tensors of the same shapes, traced once that pays.

    Where operations are small most of the time goes to the transforms around them: vmap over vmap, gradients of
    gradients. Tracing leaves the operations alone: the same ones in the same order, so the numbers are the same bits.

    Args:
        function: of what is fixed, then of trees of tensors; all that it depends on is in its arguments, and nothing
            that it does depends on a tensor's values.

    Attributes:
        problem: why it can't be traced; None: it is, or will be.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.problem: Exception | None = None
        self._calls: Counter[Hashable] = Counter()
        self._traces: dict[Hashable, Callable[[list[Tensor]], Any]] = {}

    def __call__(self, fixed: Hashable, *trees: Any) -> Any:
        """What the function gives.

        Args:
            fixed: decides with the trees' form what is computed.
            trees: of tensors; what in them is none is fixed, too.
        """
        leaves, form = tree_flatten(trees)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        about = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        kind = (fixed, form, about)
        if kind not in self._traces:
            self._calls[kind] += 1
            if self._calls[kind] <= AFTER or self.problem or len(self._traces) >= MOST:
                return self._function(fixed, *trees)
            try:
                self._traces[kind] = self._trace(fixed, leaves, form)
            except Exception as error:
                self.problem = error.with_traceback(None)  # which would keep all tensors of the attempt
                self.problem.__context__ = self.problem.__cause__ = None
                return self._function(fixed, *trees)
        with torch.no_grad():  # the gradients are among the operations
            return self._traces[kind](tensors)

    def _trace(self, fixed: Hashable, leaves: list[Any], form: Any) -> Callable[[list[Tensor]], Any]:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to come

        def flat(tensors: list[Tensor]) -> Any:
            own = iter(tensors)
            filled = [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self._function(fixed, *tree_unflatten(filled, form))

        graph = make_fx(flat)([leaf for leaf in leaves if isinstance(leaf, Tensor)])
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph
