"""What follows a convolution in a block, in one pass over its result: norm, pooling and activation."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from raymeta.ops.convolution import channels_last
from raymeta.ops.library import call, refuse_third_order, sizes


class Tail(NamedTuple):
    """How a block ends.

    Attributes:
        pool: 2x2 max pooling, before the activation, which keeps the order.
        slope: of the activation below 0: 0 for ReLU; 1 for none.
        eps: added to the variance of the maps themselves, which normalise them; None: scale and shift are all.
    """

    pool: bool
    slope: float
    eps: float | None


Gradients = tuple[Tensor | None, Tensor, Tensor]


def tail(z: Tensor, scale: Tensor, shift: Tensor, how: Tail) -> Tensor:
    """pool(act(z_hat * scale + shift)) of maps z. Twice differentiable.

    Args:
        z: [n, C, H, W], float32 or float64 on the CPU; fastest with channels last in memory.
        scale: [C].
        shift: [C].
        how: the rest.

    Returns:
        [n, C, H, W], with pooling [n, C, H // 2, W // 2], channels last in memory.
    """
    found: Tensor = _Tail.apply(how, z, scale, shift)
    return found


class _Tail(Function):
    @staticmethod
    def forward(ctx: Any, how: Tail, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.how = how
        y, *state = tail_forward(how, z, scale, shift, any(ctx.needs_input_grad))
        ctx.save_for_backward(z, scale, *state)  # as given, or the graph would end here
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        if dy is None:
            return (None,) * 4
        z, scale, *state = ctx.saved_tensors
        back = _TailBack.apply if torch.is_grad_enabled() else tail_back
        return None, *back(ctx.how, ctx.needs_input_grad[1], dy, z, scale, *state)


class _TailBack(Function):
    @staticmethod
    def forward(ctx: Any, how: Tail, wanted: bool, dy: Tensor, z: Tensor, scale: Tensor, *state: Tensor) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.how = how
        dz, of_scale, of_shift = tail_back(how, wanted, dy, z, scale, *state)
        ctx.save_for_backward(dy, z, scale, *state, of_scale, of_shift)
        return dz, of_scale, of_shift

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, us: Tensor | None, ut: Tensor | None) -> Any:
        refuse_third_order()
        return None, None, *tail_twice(ctx.how, u, us, ut, *ctx.saved_tensors), None, None, None, None


def tail_forward(how: Tail, z: Tensor, scale: Tensor, shift: Tensor, kept: bool) -> tuple[Any, ...]:
    """Without a graph: the result; then codes and what was picked, if kept, else None, mean and 1 / deviation."""
    z, scale, shift = channels_last(z), scale.contiguous(), shift.contiguous()
    shape = _sizes(z, how)
    if how.eps is None:
        mean, inverse = torch.zeros_like(scale), torch.ones_like(scale)
    else:
        mean, inverse = torch.empty_like(scale), torch.empty_like(scale)
        call("statistics", z, shape, how.eps, z, mean, inverse)
    n, channels, height, width = z.shape
    side = 2 if how.pool else 1
    size = (n, channels, height // side, width // side)
    y = torch.empty(size, dtype=z.dtype, memory_format=torch.channels_last)
    codes = torch.empty_like(y, dtype=torch.uint8) if kept else None
    picked = torch.empty_like(y) if kept else None
    call("tail", z, shape, how.slope, z, mean, inverse, scale, shift, y, codes, picked)
    return y, codes, picked, mean, inverse


def tail_back(how: Tail, wanted: bool, dy: Tensor, z: Tensor, scale: Tensor, *state: Tensor) -> Gradients:
    """Without a graph: the gradients of z, if it is wanted, scale and shift."""
    dy, z, scale = channels_last(dy), channels_last(z), scale.contiguous()
    of_shift, of_scale = torch.empty_like(scale), torch.empty_like(scale)
    dz = torch.empty_like(z) if wanted else None
    call("tail_back", z, _sizes(z, how), how.slope, dy, z, scale, *state, of_shift, of_scale, dz)
    return dz, of_scale, of_shift


def tail_twice(
    how: Tail,
    u: Tensor | None,
    us: Tensor | None,
    ut: Tensor | None,
    dy: Tensor,
    z: Tensor,
    scale: Tensor,
    *state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Without a graph: the gradients of dy, z and scale for cotangents of what `tail_back` gave.

    Args:
        how: as it was.
        u: of z's gradient, us of the scale's and ut of the shift's; None: 0.
        us: see u.
        ut: see u.
        dy: as it was, like z, scale and what `tail_forward` kept.
        z: see dy.
        scale: see dy.
        state: what was kept, then the gradients of scale and shift.
    """
    *kept, of_scale, of_shift = state
    dy, z, scale = channels_last(dy), channels_last(z), scale.contiguous()
    found = torch.empty_like(dy), torch.empty_like(z), torch.empty_like(scale)
    u = None if u is None else channels_last(u)
    us, ut = (None if one is None else one.contiguous() for one in (us, ut))
    call("tail_twice", z, _sizes(z, how), how.slope, u, us, ut, dy, z, scale, *kept, of_shift, of_scale, *found)
    return found


def _sizes(z: Tensor, how: Tail) -> Any:
    n, channels, height, width = z.shape
    return sizes(n, height, width, channels, int(how.pool), int(how.eps is not None))
