"""A 3x3 convolution, padded by 1, of each group's own weight, in Triton: forward, and both gradients.

The patches are never written: a block of places of a group is multiplied by the weights of one of the nine taps after
the other. Places beyond the border, and channels beyond the last, are loaded as 0. The gradient for the input is the
same convolution with the weight's channels exchanged and its taps in reverse; that for the weight sums over places.

Without a GPU it runs on Triton's interpreter, if TRITON_INTERPRET=1 stands in the environment before this is imported.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PLACES, INS, OUTS = 64, 32, 64  # of a block: places, channels that are summed over, channels that come out


@triton.jit
def _convolve(
    x, w, y, images, height, width, ins, outs, w_out, w_in, last_tap,
    precision: tl.constexpr, places: tl.constexpr, block_in: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """Program (group, block of places, block of channels): y [G, n, outs, H, W] of x [G, n, ins, H, W].

    The weight of (out, in, tap) is at w_out * out + w_in * in + |last_tap - tap|.
    """
    group, size = tl.program_id(0).to(tl.int64), height * width
    place = tl.program_id(1) * places + tl.arange(0, places)
    out = tl.program_id(2) * block_out + tl.arange(0, block_out)
    image, row, column = place // size, place % size // width, place % width
    x += group * images * ins * size
    w += group * outs * ins * 9
    y += group * images * outs * size
    total = tl.zeros((places, block_out), tl.float32)
    for tap in range(9):
        r, c = row + tap // 3 - 1, column + tap % 3 - 1
        inside = (image < images) & (r >= 0) & (r < height) & (c >= 0) & (c < width)
        start = image * ins * size + r * width + c
        at = tl.abs(last_tap - tap)
        for first in range(0, ins, block_in):
            channel = first + tl.arange(0, block_in)
            a = tl.load(
                x + start[:, None] + channel[None, :] * size,
                mask=inside[:, None] & (channel < ins)[None, :],
                other=0.0,
            )
            b = tl.load(
                w + w_out * out[None, :] + w_in * channel[:, None] + at,
                mask=(out < outs)[None, :] & (channel < ins)[:, None],
                other=0.0,
            )
            total = tl.dot(a, b, total, input_precision=precision)
    to = image * outs * size + row * width + column
    tl.store(y + to[:, None] + out[None, :] * size, total, mask=(image < images)[:, None] & (out < outs)[None, :])


@triton.jit
def _correlate(
    x, dy, dw, images, height, width, ins, outs,
    precision: tl.constexpr, places: tl.constexpr, block_in: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """Program (group, tap, block of channels): dw [G, outs, ins, 9], summed over all places, one block after the
    other: the same bits every time.
    """
    group, size, tap = tl.program_id(0).to(tl.int64), height * width, tl.program_id(1)
    blocks = tl.cdiv(ins, block_in)
    channel = tl.program_id(2) % blocks * block_in + tl.arange(0, block_in)
    out = tl.program_id(2) // blocks * block_out + tl.arange(0, block_out)
    x += group * images * ins * size
    dy += group * images * outs * size
    dw += group * outs * ins * 9
    total = tl.zeros((block_out, block_in), tl.float32)
    for first in range(0, images * size, places):
        place = first + tl.arange(0, places)
        image, row, column = place // size, place % size // width, place % width
        r, c = row + tap // 3 - 1, column + tap % 3 - 1
        there = image < images
        inside = there & (r >= 0) & (r < height) & (c >= 0) & (c < width)
        a = tl.load(
            dy + (image * outs * size + row * width + column)[None, :] + out[:, None] * size,
            mask=there[None, :] & (out < outs)[:, None],
            other=0.0,
        )
        b = tl.load(
            x + (image * ins * size + r * width + c)[:, None] + channel[None, :] * size,
            mask=inside[:, None] & (channel < ins)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=precision)
    to = (out[:, None] * ins + channel[None, :]) * 9 + tap
    tl.store(dw + to, total, mask=(out < outs)[:, None] & (channel < ins)[None, :])


def forward(x: Tensor, weight: Tensor, precision: str = "ieee", *, backward: bool = False) -> Tensor:
    """X [G, n, C, H, W], weight [G, C', C, 3, 3] to [G, n, C', H, W].

    Args:
        x: float32; with `backward` a gradient of the output, [G, n, C', H, W].
        weight: float32.
        precision: of products: `ieee` or `tf32`.
        backward: what comes out is the gradient for the input.
    """
    x, weight = x.contiguous(), weight.contiguous()
    groups, images, ins, height, width = x.shape
    outs = weight.shape[2] if backward else weight.shape[1]
    y = x.new_empty(groups, images, outs, height, width)
    grid = (groups, triton.cdiv(images * height * width, PLACES), triton.cdiv(outs, OUTS))
    strides = (9, 9 * outs, 8) if backward else (9 * ins, 9, 0)
    _convolve[grid](x, weight, y, images, height, width, ins, outs, *strides, precision, PLACES, INS, OUTS)
    return y


def for_weight(x: Tensor, dy: Tensor, precision: str = "ieee") -> Tensor:
    """The gradient for the weight, [G, C', C, 3, 3], from inputs and a gradient of the output."""
    x, dy = x.contiguous(), dy.contiguous()
    (groups, images, ins, height, width), outs = x.shape, dy.shape[2]
    dw = x.new_empty(groups, outs, ins, 3, 3)
    grid = (groups, 9, triton.cdiv(ins, INS) * triton.cdiv(outs, OUTS))
    _correlate[grid](x, dy, dw, images, height, width, ins, outs, precision, PLACES, INS, OUTS)
    return dw


class Convolution(torch.autograd.Function):
    """The convolution, once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, precision: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.precision = precision
        return forward(x, weight, precision)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        return forward(dy, weight, ctx.precision, backward=True), for_weight(x, dy, ctx.precision), None


def convolve(x: Tensor, weight: Tensor, precision: str = "ieee") -> Tensor:
    """See `forward`; with gradients."""
    found: Tensor = Convolution.apply(x, weight, precision)
    return found
