"""Functions of tensors as CUDA graphs: hundreds of kernels that a GPU is given at once.

A replay reads and writes the memory that was there at the capture. So what stays where it is (parameters, moments) is
read in place, everything else is copied into tensors of the graph's own, and so are its results the graph's own.
"""

import gc
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from raymeta.engine.prepared import Flat, Prepared

BEFORE = 3  # calls of a kind before its capture, so that libraries and allocators are warm, as torch has it
CHECKED = 2  # replays of a kind that are compared with the function itself
OFF = 0.1  # relative; what is rounded otherwise can go another way at a tie, but is far below


class Graphs(Protocol):
    """What records and replays."""

    def early(self, call: Callable[[], Any]) -> Any:
        """A call as it is, before its capture."""
        ...

    def record(self, flat: Flat, tensors: list[Tensor]) -> Callable[[], Any]:
        """Record what a function of these tensors does.

        Returns:
            Does it again on what is in the tensors then; its results are overwritten by any later replay.
        """
        ...


class CudaGraphs:
    """Those of CUDA, as `torch.cuda.make_graphed_callables` makes them. All have one pool of memory."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def early(self, call: Callable[[], Any]) -> Any:
        """See `Graphs`; on the stream of the captures, so that what libraries keep for a stream is there."""
        now = torch.cuda.current_stream()
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            found = call()
        now.wait_stream(self._stream)
        return found

    def record(self, flat: Flat, tensors: list[Tensor]) -> Callable[[], Any]:
        """See `Graphs`."""
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.collect()  # a graph that is freed while another is captured spoils that one
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                found = flat(tensors)
        finally:
            if collects:
                gc.enable()

        def again() -> Any:
            graph.replay()
            return found

        return again


class Captured(Prepared):
    """A function that is captured once it was called some times.

    The tensors of its first tree stay where they are between calls; one that was moved is another kind of call. Its
    results are to be used before the next call, of whatever kind: they are overwritten then. The first replays of a
    kind are compared with the function itself, and if they differ it is not captured.

    Args:
        function: what is called; its results are tensors.
        graphs: what records it.
    """

    def __init__(self, function: Callable[..., Any], graphs: Graphs) -> None:
        super().__init__(function)
        self._graphs = graphs

    def _before(self) -> int:
        return BEFORE

    def _about(self, tensor: Tensor) -> Hashable:
        return tensor.shape, tensor.dtype, tensor.stride()

    def _more(self, trees: tuple[Any, ...]) -> Hashable:
        return tuple(leaf.data_ptr() for leaf in tree_leaves(trees[0]) if isinstance(leaf, Tensor))

    def _early(self, call: Callable[[], Any]) -> Any:
        return self._graphs.early(call)

    def _made(self, flat: Flat, tensors: list[Tensor], resident: int) -> Flat:
        for tensor in tensors:  # what a graph reads on the host is what was there at its capture
            if tensor.device != tensors[0].device:
                raise ValueError(f"a tensor is on {tensor.device}, others are on {tensors[0].device}")
        inputs = [tensor.detach().clone() for tensor in tensors[resident:]]
        again = self._graphs.record(flat, [*tensors[:resident], *inputs])
        unchecked, wrong = CHECKED, False

        def replayed(given: list[Tensor]) -> Any:
            nonlocal unchecked, wrong
            if wrong:
                return flat(given)
            for mine, new in zip(inputs, given[resident:], strict=True):
                mine.copy_(new, non_blocking=True)
            found = again()
            if not unchecked:
                return found
            unchecked, expected = unchecked - 1, flat(given)
            if wrong := not alike(found, expected):
                self.problem = RuntimeError("a replay gives other numbers than its operations")
            return expected

        return replayed


def alike(found: Any, expected: Any) -> bool:
    """Results are the same, but for what rounding can do."""
    pair = []
    for tree in (found, expected):
        floating = [leaf.detach().double().flatten() for leaf in tree_leaves(tree) if leaf.is_floating_point()]
        pair.append(torch.cat(floating))
    finite = [values.isfinite() for values in pair]
    if not torch.equal(*finite):
        return False
    mine, theirs = (values[finite[0]] for values in pair)
    return bool((mine - theirs).norm() <= OFF * theirs.norm())
