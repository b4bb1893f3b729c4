"""3x3 convolution with stride 1, differentiable as often as one likes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from raymeta.ops.library import call, sizes

Gradients = tuple[Tensor | None, Tensor | None]


class Geometry(NamedTuple):
    """How a 3x3 weight goes over maps.

    Attributes:
        padding: zeros around the maps, 0 or 1.
        tile: side of the tiles of results that are computed at once, 2 or 4. Those of 4 take 36 products for 16 results
            in place of 64, and have two to four times the error in float32; they are used where they take fewer.
    """

    padding: int = 1
    tile: int = 2


def conv3x3(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Maps convolved with a 3x3 weight.

    Args:
        x: [n, C, H, W], float32 or float64 on the CPU; fastest with channels last in memory.
        weight: [width, C, 3, 3]; fastest where `kernel_layout` put it.
        geometry: how it goes over them.

    Returns:
        [n, width, H + 2 padding - 2, W + 2 padding - 2], channels last in memory.
    """
    found: Tensor = _Convolution.apply(geometry, x, weight, None, None)
    return found


def kernel_layout(weight: Tensor) -> Tensor:
    """A weight [width, C, 3, 3] with its memory in the order in which the kernels read it, [3, 3, C, width]."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def channels_last(x: Tensor) -> Tensor:
    """Maps [n, C, H, W] with their memory in the order [n, H, W, C]."""
    return x.contiguous(memory_format=torch.channels_last)


class _Convolution(Function):
    """x * w, plus x2 * w2 if they are there."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry, x: Tensor, w: Tensor, x2: Tensor | None, w2: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.geometry = geometry
        ctx.save_for_backward(x, w, x2, w2)
        return convolve(geometry, x, w, x2, w2)

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None) -> Any:
        x, w, x2, w2 = ctx.saved_tensors
        found: list[Any] = [None] * 5
        if dz is not None:
            for place, left, right in ((1, x, w), (3, x2, w2)):
                wanted = ctx.needs_input_grad[place : place + 2]
                if any(wanted):
                    back = _ConvolutionBack.apply if torch.is_grad_enabled() else convolve_back
                    found[place : place + 2] = back(ctx.geometry, wanted, dz, left, right)
        return tuple(found)


class _ConvolutionBack(Function):
    """The gradients of x and w, those that are wanted. They are bilinear again."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry, wanted: tuple[bool, bool], dz: Tensor, x: Tensor, w: Tensor) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.geometry = geometry
        ctx.save_for_backward(dz, x, w)
        return convolve_back(geometry, wanted, dz, x, w)

    @staticmethod
    def backward(ctx: Any, ux: Tensor | None, uw: Tensor | None) -> Any:
        dz, x, w = ctx.saved_tensors
        of_dz, of_x, of_w = None, None, None
        terms = ([ux, w] if ux is not None else []) + ([x, uw] if uw is not None else [])
        if ctx.needs_input_grad[2] and terms:
            of_dz = _Convolution.apply(ctx.geometry, *terms, *[None] * (4 - len(terms)))
        # <uw, gradient of w> is <dz, x * uw>, and <ux, gradient of x> is <dz, ux * w>.
        wanted = (ctx.needs_input_grad[3] and uw is not None, ctx.needs_input_grad[4] and ux is not None)
        if any(wanted):
            of_x, of_w = _ConvolutionBack.apply(ctx.geometry, wanted, dz, ux, uw)
        return None, None, of_dz, of_x, of_w


def _sizes(geometry: Geometry, x: Tensor, width: int) -> Any:
    n, channels, height, across = x.shape
    return sizes(n, height, across, channels, width, *geometry)


def convolve(geometry: Geometry, x: Tensor, w: Tensor, x2: Tensor | None = None, w2: Tensor | None = None) -> Tensor:
    """Without a graph: x * w, plus x2 * w2 if they are there."""
    x, w, width = channels_last(x), kernel_layout(w), len(w)
    z = torch.empty(
        (len(x), width, *(side + 2 * geometry.padding - 2 for side in x.shape[2:])),
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )
    second = () if x2 is None or w2 is None else (channels_last(x2), kernel_layout(w2))
    call("convolve", x, _sizes(geometry, x, width), x, w, *(second or (None, None)), z)
    return z


def convolve_back(
    geometry: Geometry, wanted: tuple[bool, bool], dz: Tensor, x: Tensor | None, w: Tensor | None
) -> Gradients:
    """Without a graph: the gradients of x and w, those that are wanted; each needs the other one."""
    dz = channels_last(dz)
    n, width, *size = dz.shape
    (channels,) = {one.shape[1] for one in (x, w) if one is not None}
    shape = (n, channels, *(side - 2 * geometry.padding + 2 for side in size))
    dx = torch.empty(shape, dtype=dz.dtype, memory_format=torch.channels_last) if wanted[0] else None
    dw = torch.empty((3, 3, channels, width), dtype=dz.dtype).permute(3, 2, 0, 1) if wanted[1] else None
    x = channels_last(x) if wanted[1] and x is not None else None
    w = kernel_layout(w) if wanted[0] and w is not None else None
    call("convolve_back", dz, sizes(n, shape[2], shape[3], channels, width, *geometry), dz, x, w, dx, dw)
    return dx, dw
