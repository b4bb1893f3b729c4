"""A whole block on maps: convolution, norm by the result's own moments, pooling and activation as one operation.

It is `conv3x3` and `tail` in one node of the graph: at these sizes autograd and Python cost as much as a kernel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from raymeta.ops.convolution import Geometry, convolve, convolve_back
from raymeta.ops.library import refuse_third_order
from raymeta.ops.tail import Tail, tail_back, tail_forward, tail_twice


def block(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None, geometry: Geometry, how: Tail
) -> Tensor:
    """pool(act(norm(x * weight))). Twice differentiable.

    Args:
        x: [n, C, H, W], float32 or float64 on the CPU; fastest with channels last in memory.
        weight: [width, C, 3, 3]; fastest where `kernel_layout` put it.
        scale: [width], of the norm.
        shift: [width], of the norm.
        bias: [width], of the convolution. It is not added: z + bias less its own mean is z less its own, so no result
            depends on it, and its gradient is 0 exactly. Torch adds it, and finds 0 but for rounding.
        geometry: how the weight goes over the maps.
        how: the rest.

    Returns:
        What `tail` gives for `conv3x3`'s result.
    """
    found: Tensor = _Block.apply(how, geometry, x, weight, scale, shift, bias)[0]
    return found


class _Block(Function):
    """Its second output is the convolution's result: what a second derivative finds for it joins what the first
    output's gradient becomes, and the convolution is differentiated once.
    """

    @staticmethod
    def forward(
        ctx: Any, how: Tail, geometry: Geometry, x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None
    ) -> tuple[Any, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.how, ctx.geometry, ctx.bias = how, geometry, bias is not None
        z = convolve(geometry, x, w)
        y, *state = tail_forward(how, z, scale, shift, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, w, z, scale, *state)
        return y, z

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dz: Tensor | None) -> Any:
        if dy is None and dz is None:
            return (None,) * 7
        x, w, z, scale, *state = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:4]
        if torch.is_grad_enabled():
            if dz is not None:
                refuse_third_order()
            found = _BlockBack.apply(ctx.how, ctx.geometry, wanted, dy, x, w, z, scale, *state)
        else:
            found = _block_back(ctx.how, ctx.geometry, wanted, dy, dz, x, w, z, scale, *state)[:4]
        return None, None, *found, torch.zeros_like(scale) if ctx.bias else None


def _block_back(
    how: Tail,
    geometry: Geometry,
    wanted: tuple[bool, bool],
    dy: Tensor | None,
    more: Tensor | None,
    x: Tensor,
    w: Tensor,
    z: Tensor,
    scale: Tensor,
    *state: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of x and w, those that are wanted, of scale and shift, and of z."""
    dz, of_scale, of_shift = more, None, None
    if dy is not None:
        dz, of_scale, of_shift = tail_back(how, any(wanted), dy, z, scale, *state)
        if dz is not None and more is not None:
            dz += more
    dx, dw = convolve_back(geometry, wanted, dz, x, w) if dz is not None and any(wanted) else (None, None)
    return dx, dw, of_scale, of_shift, dz


class _BlockBack(Function):
    @staticmethod
    def forward(
        ctx: Any, how: Tail, geometry: Geometry, wanted: tuple[bool, bool], dy: Tensor, x: Tensor, w: Tensor, z: Tensor,
        scale: Tensor, *state: Tensor,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.how, ctx.geometry = how, geometry
        *found, dz = _block_back(how, geometry, wanted, dy, None, x, w, z, scale, *state)
        ctx.save_for_backward(dy, x, w, z, scale, *state, *found[2:], dz)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, ux: Tensor | None, uw: Tensor | None, us: Tensor | None, ut: Tensor | None) -> Any:
        refuse_third_order()
        dy, x, w, z, scale, *state, dz = ctx.saved_tensors
        terms = ([ux, w] if ux is not None else []) + ([x, uw] if uw is not None else [])
        u = convolve(ctx.geometry, *terms) if terms else None
        # <uw, gradient of w> is <dz, x * uw>, and <ux, gradient of x> is <dz, ux * w>.
        wanted = (ctx.needs_input_grad[4] and uw is not None, ctx.needs_input_grad[5] and ux is not None)
        of_x, of_w = convolve_back(ctx.geometry, wanted, dz, ux, uw) if any(wanted) else (None, None)
        of_dy, of_z, of_scale = tail_twice(ctx.how, u, us, ut, dy, z, scale, *state)
        return None, None, None, of_dy, of_x, of_w, of_z, of_scale, None, None, None, None
