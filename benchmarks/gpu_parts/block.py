"""A 3x3 convolution of each lane's and task's own weight: ways to compute it."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.child import Here
from gpu_parts.works import attempt, medians, peak

SECONDS = 4.0  # for each way
Way = Callable[[Tensor, Tensor], Tensor]


def block(here: Here) -> None:
    """A row for each way, forward and with both gradients."""
    groups, images, channels, side = (2, 3, 4, 6) if here.small else (64, 75, 64, 14)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups, images, channels, side, side, generator=generator).to(here.device)
    weight = torch.randn(groups, channels, channels, 3, 3, generator=generator).to(here.device)
    ways: dict[str, Way] = {
        "one after the other": one_by_one, "grouped convolution": grouped, "unfolded, bmm": unfolded,
    }  # fmt: skip
    if here.small:
        os.environ["TRITON_INTERPRET"] = "1"  # which is read as its kernels are defined
    kernel, note = attempt(lambda: import_module("gpu_parts.triton_block").convolve)
    if note:
        here.report("block", way="Triton", note=note)
    else:
        ways["Triton"] = kernel
        if not here.small:  # which its interpreter does not round to
            ways["Triton, TF32"] = partial(kernel, precision="tf32")
    double, base = (x.double(), weight.double()), None
    expected = (one_by_one(*double), *gradients(one_by_one, *double))
    for name, way in ways.items():
        found, note = attempt(partial(way, x, weight))
        if note:
            here.report("block", way=name, note=note)
            continue
        steps = {"forward": partial(way, x, weight), "gradients": partial(gradients, way, x, weight)}
        taken, note = attempt(partial(medians, here, steps, 0.0 if here.small else SECONDS))
        times = {what: 1e3 * middle for what, (middle, _) in (taken or {}).items()}
        base = base or times.get("gradients")
        ratio = base / times["gradients"] if base and "gradients" in times else None
        memory, _ = attempt(partial(peak, here, steps["gradients"]))
        errors, why = attempt(lambda way=way, found=found: off((found, *gradients(way, x, weight)), expected))
        here.report("block", way=name, off=errors, **times, ratio=ratio, peak_MiB=memory, note=note or why)


def off(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of the output and of both gradients."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def gradients(way: Way, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Of the sum of squares, for both."""
    leaves = (x.detach().requires_grad_(), weight.detach().requires_grad_())
    return torch.autograd.grad(way(*leaves).square().sum(), leaves)


def one_by_one(x: Tensor, weight: Tensor) -> Tensor:
    """X [G, n, C, H, W], weight [G, C', C, 3, 3] to [G, n, C', H, W], group after group."""
    return torch.stack([F.conv2d(*pair, padding=1) for pair in zip(x, weight, strict=True)])


def grouped(x: Tensor, weight: Tensor) -> Tensor:
    """The same as one convolution in G groups."""
    count = len(x)
    found = F.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), padding=1, groups=count)
    return found.unflatten(1, (count, -1)).transpose(0, 1)


def unfolded(x: Tensor, weight: Tensor) -> Tensor:
    """The same as products of matrices: weights times the patches of all images of a group."""
    count, images, _, height, width = x.shape
    patches = F.unfold(x.flatten(0, 1), 3, padding=1).unflatten(0, (count, images))
    found = torch.bmm(weight.flatten(2), patches.transpose(1, 2).flatten(2))
    return found.unflatten(2, (images, height, width)).transpose(1, 2)
