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


def tail(z: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None, how: Tail) -> Tensor:
    """pool(act(z_hat * scale + shift)) of maps z. Twice differentiable.

    Args:
        z: [n, C, H, W], float32 or float64 on the CPU; fastest with channels last in memory.
        scale: [C].
        shift: [C].
        bias: [C], of the convolution before it, which was not added since a norm by the maps' own mean takes it out
            again: its gradient is 0.
        how: the rest.

    Returns:
        [n, C, H, W], with pooling [n, C, H // 2, W // 2], channels last in memory.
    """
    found: Tensor = _Tail.apply(how, z, scale, shift, bias)
    return found


class _Tail(Function):
    @staticmethod
    def forward(ctx: Any, how: Tail, z: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.how, ctx.bias, given = how, bias is not None, (z, scale)
        z, scale, shift = channels_last(z), scale.contiguous(), shift.contiguous()
        shape = _sizes(z, how)
        if how.eps is None:
            mean, inverse = torch.zeros_like(scale), torch.ones_like(scale)
        else:
            mean, inverse = torch.empty_like(scale), torch.empty_like(scale)
            call("statistics", z, shape, how.eps, z, mean, inverse)
        side = 2 if how.pool else 1
        y = torch.empty(
            (*z.shape[:2], *(size // side for size in z.shape[2:])), dtype=z.dtype, memory_format=torch.channels_last
        )
        codes, picked = None, None
        if any(ctx.needs_input_grad):
            codes, picked = torch.empty_like(y, dtype=torch.uint8), torch.empty_like(y)
        call("tail", z, shape, how.slope, z, mean, inverse, scale, shift, y, codes, picked)
        ctx.save_for_backward(*given, codes, picked, mean, inverse)  # as given, or the graph would end here
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        if dy is None:
            return (None,) * 5
        z, scale, *state = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1]
        back = _TailBack.apply if torch.is_grad_enabled() else _tail_back
        dz, of_scale, of_shift = back(ctx.how, wanted, dy, z, scale, *state)
        return None, dz, of_scale, of_shift, torch.zeros_like(scale) if ctx.bias else None


Gradients = tuple[Tensor | None, Tensor, Tensor]


def _tail_back(how: Tail, wanted: bool, dy: Tensor, z: Tensor, scale: Tensor, *state: Tensor) -> Gradients:
    """The gradients of z, if it is wanted, scale and shift."""
    dy, z, scale = channels_last(dy), channels_last(z), scale.contiguous()
    of_shift, of_scale = torch.empty_like(scale), torch.empty_like(scale)
    dz = torch.empty_like(z) if wanted else None
    call("tail_back", z, _sizes(z, how), how.slope, dy, z, scale, *state, of_shift, of_scale, dz)
    return dz, of_scale, of_shift


class _TailBack(Function):
    @staticmethod
    def forward(ctx: Any, how: Tail, wanted: bool, dy: Tensor, z: Tensor, scale: Tensor, *state: Tensor) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.how = how
        dz, of_scale, of_shift = _tail_back(how, wanted, dy, z, scale, *state)
        ctx.save_for_backward(channels_last(dy), channels_last(z), scale.contiguous(), *state, of_shift, of_scale)
        return dz, of_scale, of_shift

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, us: Tensor | None, ut: Tensor | None) -> Any:
        refuse_third_order()
        dy, z, scale, *state = ctx.saved_tensors
        of_dy, of_z, of_scale = torch.empty_like(dy), torch.empty_like(z), torch.empty_like(scale)
        u = None if u is None else channels_last(u)
        us, ut = (None if one is None else one.contiguous() for one in (us, ut))
        call(
            "tail_twice", z, _sizes(z, ctx.how), ctx.how.slope,
            u, us, ut, dy, z, scale, *state, of_dy, of_z, of_scale,
        )  # fmt: skip
        return None, None, of_dy, of_z, of_scale, None, None, None, None


def _sizes(z: Tensor, how: Tail) -> Any:
    n, channels, height, width = z.shape
    return sizes(n, height, width, channels, int(how.pool), int(how.eps is not None))
