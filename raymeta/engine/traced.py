"""Functions of tensors as the flat lists of operations that they come to."""

import torch
from torch import Tensor

from raymeta.engine.prepared import Flat, Prepared

AFTER = 100  # calls, which is about what tracing costs


class Traced(Prepared):
    """A function that is traced once that pays.

    Where operations are small most of the time goes to the transforms around them: vmap over vmap, gradients of
    gradients. Tracing leaves the operations alone: the same ones in the same order, so the numbers are the same bits.
    """

    def _before(self) -> int:
        return AFTER

    def _made(self, flat: Flat, tensors: list[Tensor], resident: int) -> Flat:
        return torch.no_grad()(operations(flat, tensors))


def operations(flat: Flat, tensors: list[Tensor]) -> Flat:
    """The operations that a function comes to; gradients are among them."""
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to come

    graph = make_fx(flat)(tensors)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
