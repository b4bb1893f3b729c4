"""The first block, which sees images: convolution, norm, pooling, activation in one pass that writes nothing else."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from raymeta.ops.convolution import channels_last
from raymeta.ops.library import call, refuse_third_order, sizes

Made = TypeVar("Made")


class Images:
    """What passes over the same images share.

    A patch is the 3x3 neighbourhood of a place, 9*C numbers in the order row, column, channel.

    Args:
        x: [n, C, H, W], float32 or float64 on the CPU, without a gradient.
        padding: zeros around them, 0 or 1.

    Attributes:
        x: the images.
        size: (h, w) of the convolution's result.
    """

    def __init__(self, x: Tensor, padding: int) -> None:
        self.x, self.padding = x, padding
        self.device, self.dtype = x.device, x.dtype
        self.size = (x.shape[-2] + 2 * padding - 2, x.shape[-1] + 2 * padding - 2)
        self._made: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.x)

    def once(self, make: Callable[[Tensor], Made]) -> Made:
        """What a function makes of the images, kept."""
        if make not in self._made:
            self._made[make] = make(self.x)
        found: Made = self._made[make]
        return found

    @cached_property
    def padded(self) -> Tensor:
        """The images with their zeros."""
        return F.pad(self.x, (self.padding,) * 4).contiguous()

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the patches over all places, [9*C] and [9*C, 9*C]."""
        # Centred first, or what is left after the product is rounding.
        centre = self.x.mean((0, 2, 3), keepdim=True)
        taps = 9 * self.x.shape[1]
        total, products = (torch.empty(shape, dtype=torch.float64) for shape in ((taps,), (taps, taps)))
        call("moments", self.x, sizes(*self.padded.shape), self.padded - centre, total, products)
        places = len(self.x) * self.size[0] * self.size[1]
        mean = total / places
        covariance = products / places - mean[:, None] * mean
        return (mean + centre.flatten().repeat(9)).to(self.x.dtype), covariance.to(self.x.dtype)


def first(images: Images, matrix: Tensor, shift: Tensor, pool: bool, slope: float) -> Tensor:
    """pool(act(patches @ matrix + shift)). Differentiable as often as one likes.

    Args:
        images: n of them.
        matrix: [9*C, width]: a convolution's weight, with a norm's scale.
        shift: [width].
        pool: 2x2 max pooling, before the activation, which keeps the order.
        slope: of the activation below 0.

    Returns:
        [n, width, h, w], with pooling [n, width, h // 2, w // 2], channels last in memory.
    """
    found: Tensor = _First.apply((images.padded, pool, slope), matrix, shift)
    return found


def folded(
    images: Images, weight: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """A norm by the convolution's own moments, as part of its weight: what `first` takes. Twice differentiable.

    A linear map of the patches has mean w.m and variance w.C.w, for their mean m and covariance C.

    Args:
        images: n of them.
        weight: [9*C, width].
        scale: [width], of the norm.
        shift: [width], of the norm.
        bias: [width], of the convolution, which the norm takes out again, as in `block`: its gradient is 0.
        eps: added to variances.
    """
    found: tuple[Tensor, Tensor] = _Fold.apply(images.moments, eps, weight, scale, shift, bias)
    return found


How = tuple[Tensor, bool, float]
Moments = tuple[Tensor, Tensor]


class _First(Function):
    @staticmethod
    def forward(ctx: Any, how: How, matrix: Tensor, shift: Tensor) -> Tensor:
        images, pool, _ = how
        side = 2 if pool else 1
        y = torch.empty(
            (len(images), len(shift), *((size - 2) // side for size in images.shape[2:])),
            dtype=images.dtype,
            memory_format=torch.channels_last,
        )
        codes = torch.empty_like(y, dtype=torch.uint8) if any(ctx.needs_input_grad) else None
        _call("first", how, len(shift), matrix.contiguous(), shift.contiguous(), y, codes)
        ctx.how = how
        ctx.save_for_backward(codes)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        back: Any = _FirstBack.apply if torch.is_grad_enabled() else _first_back
        return None, *back(ctx.how, *ctx.saved_tensors, dy)


def _first_back(how: How, codes: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of matrix and shift."""
    width = dy.shape[1]
    matrix, shift = dy.new_empty(9 * how[0].shape[1], width), dy.new_empty(width)
    _call("first_back", how, width, channels_last(dy), codes, matrix, shift)
    return matrix, shift


class _FirstBack(Function):
    """Linear in dy: what `_Picked` is the transpose of."""

    @staticmethod
    def forward(ctx: Any, how: How, codes: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        ctx.how = how
        ctx.save_for_backward(codes)
        return _first_back(how, codes, dy)

    @staticmethod
    def backward(ctx: Any, matrix: Tensor, shift: Tensor) -> Any:
        return None, None, _Picked.apply(ctx.how, *ctx.saved_tensors, matrix, shift)


class _Picked(Function):
    """What the block gives if codes say what is picked and which slope it has: linear in matrix and shift."""

    @staticmethod
    def forward(ctx: Any, how: How, codes: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
        y = torch.empty_like(codes, dtype=how[0].dtype)
        _call("first_picked", how, len(shift), matrix.contiguous(), shift.contiguous(), y, codes)
        ctx.how = how
        ctx.save_for_backward(codes)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return None, None, *_FirstBack.apply(ctx.how, *ctx.saved_tensors, dy)


class _Fold(Function):
    @staticmethod
    def forward(
        ctx: Any, moments: Moments, eps: float, weight: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.bias = bias is not None
        matrix, offset = torch.empty(weight.shape, dtype=weight.dtype), torch.empty_like(shift)
        inverse = torch.empty(len(shift), dtype=torch.float64)
        inputs = (weight.contiguous(), scale.contiguous(), shift.contiguous())
        call("fold", weight, sizes(*weight.shape), eps, *moments, *inputs, matrix, offset, inverse)
        ctx.moments, ctx.eps = moments, eps
        ctx.save_for_backward(weight, scale, inverse)
        return matrix, offset

    @staticmethod
    def backward(ctx: Any, p: Tensor | None, q: Tensor | None) -> Any:
        weight, scale, inverse = ctx.saved_tensors
        p = torch.zeros(weight.shape, dtype=weight.dtype) if p is None else p
        q = torch.zeros_like(scale) if q is None else q
        of_weight, of_scale = _FoldBack.apply(ctx.moments, ctx.eps, weight, scale, inverse, p, q)
        return None, None, of_weight, of_scale, q, torch.zeros_like(scale) if ctx.bias else None


class _FoldBack(Function):
    @staticmethod
    def forward(
        ctx: Any, moments: Moments, eps: float, weight: Tensor, scale: Tensor, inverse: Tensor, p: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        given = (weight.contiguous(), scale.contiguous(), inverse, p.contiguous(), q.contiguous())
        of_weight, of_scale = torch.empty(weight.shape, dtype=weight.dtype), torch.empty_like(scale)
        call("fold_back", weight, sizes(*weight.shape), eps, *moments, *given, of_weight, of_scale)
        ctx.moments, ctx.eps = moments, eps
        ctx.save_for_backward(*given)
        return of_weight, of_scale

    @staticmethod
    def backward(ctx: Any, uw: Tensor | None, us: Tensor | None) -> Any:
        refuse_third_order()
        weight, scale, _, p, q = ctx.saved_tensors
        found = [torch.empty_like(one) for one in (p, q, weight, scale)]
        given = [None if one is None else one.contiguous() for one in (uw, us)]
        where = sizes(*weight.shape)
        call("fold_twice", weight, where, ctx.eps, *ctx.moments, *ctx.saved_tensors, *given, *found)
        of_p, of_q, of_weight, of_scale = found
        return None, None, of_weight, of_scale, None, of_p, of_q


def _call(name: str, how: How, width: int, *tensors: Tensor | None) -> None:
    images, pool, slope = how
    call(name, images, sizes(*images.shape, width, int(pool)), slope, images, *tensors)
