"""Trials as lanes of one program on the device, and the block operation of many lanes and tasks at once."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.child import Here
from gpu_parts.works import Work, attempt, config, launches, medians, peak, works
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

COUNTS = (1, 4, 16, 64, 128)
SECONDS = 6.0  # for each row
TRIAL = 1000  # outer steps of the trials that are counted by the hour


def lanes(here: Here) -> None:
    """Outer steps of W1: a trial by itself, then L lanes; launches last, as a profiler slows down what comes after."""
    work = works(here)[0]
    alone = Trainer(config(here, work, "vmap"))
    programs: dict[int, Callable[[], object]] = {0: alone.outer_update}
    base = None
    for count in (0, *(COUNTS[:2] if here.small else COUNTS)):
        if count:
            made, note = attempt(partial(program, here, work, count))
            if note:
                here.report("lanes", lanes=count, note=note)
                continue
            programs[count] = made
        step, trials = programs[count], max(count, 1)
        found, note = attempt(partial(medians, here, {"": step}, 0.0 if here.small else SECONDS))
        if note:
            here.report("lanes", lanes=count or "none", note=note)
            del programs[count]
            continue
        middle, spread = found[""]
        rate = trials / middle
        base = base or rate
        taken, note = attempt(partial(peak, here, step))
        here.report(
            "lanes", lanes=count or "none", trials_per_hour=3600 * rate / TRIAL, spread=f"{spread / middle:.0%}",
            against_one=rate / base, peak_MiB=taken, note=note,
        )  # fmt: skip
    for count, step in programs.items():
        seen, note = attempt(partial(launches, here, step))
        here.report("launches of a step of all lanes", lanes=count or "none", launches=seen and seen[0], note=note)


def program(here: Here, work: Work, count: int) -> Callable[[], object]:
    """An outer step of so many lanes."""
    together = [Trainer(config(here, work, "vmap", seed)) for seed in range(count)]
    beside = Lanes(together[0], count)
    for one in together:
        beside.join(one)
    return lambda: beside.step(range(count))


def block(here: Here) -> None:
    """A convolution of each lane's and task's own weight, forward and with both gradients: ways to compute it."""
    groups, images, channels, side = (2, 3, 4, 6) if here.small else (64, 75, 64, 14)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups, images, channels, side, side, generator=generator).to(here.device)
    weight = torch.randn(groups, channels, channels, 3, 3, generator=generator).to(here.device)
    ways: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "one after the other": one_by_one, "grouped convolution": grouped, "unfolded, bmm": unfolded,
    }  # fmt: skip
    expected, base = one_by_one(x.double(), weight.double()), None
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
        off = float((found.double() - expected).norm() / expected.norm())
        here.report("block", way=name, off=off, **times, ratio=ratio, peak_MiB=memory, note=note)


def gradients(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
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
