"""Boxes (x, y, w, h) in pixels: how far two overlap, and random ones around a box.

How MetaSDNet's code draws them (Park and Berg, ECCV 2018, after MDNet): around (cx, cy, w, h) with m = (w + h)/2

    aspect    w *= 1.1^r, h *= 1.1^-r,  r ~ U[-1, 1]
    gaussian  centre += f m clip(z/2, -1, 1) on each axis, size *= g^clip(z/2, -1, 1),  z ~ N(0, 1)
    uniform   centre += f m r, size *= g^r
    whole     centres on a grid over the image, size *= g^r

Sizes are kept within 10 pixels and the image less 10, boxes inside the image. Of twice, four times, eight times as many
as are still lacking those are taken whose overlap is within bounds; then there may be too few.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Way = Literal["gaussian", "uniform", "whole"]
LEAST, ASPECT, TRIES = 10.0, 1.1, (2, 4, 8)


class Draw(NamedTuple):
    """How boxes are drawn: the way, f and g; a box counts if its overlap with the target is in [low, high]."""

    way: Way
    spread: float
    grow: float
    low: float = 0.0
    high: float = 1.0


def overlap(first: Array, second: Array) -> Array:
    """Intersection over union of boxes [..., 4], [...]; 0 where a box has no area."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    both = (high - low).clip(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - both
    found: Array = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found


def drawn(chance: np.random.Generator, how: Draw, box: Array, size: tuple[int, int], count: int) -> Array:
    """So many boxes around one, whatever their overlap, [count, 4]; only uniform numbers are asked of the generator."""
    width, height = size
    r = 2 * chance.random((count, 4)) - 1
    if how.way == "gaussian":
        radius = np.sqrt(-2 * np.log1p(-chance.random((count, 3))))
        r[:, 1:] = (radius * np.cos(2 * np.pi * chance.random((count, 3))) / 2).clip(-1, 1)
    middle, side = box[:2] + box[2:] / 2, box[2:].mean()
    sizes = box[2:] * ASPECT ** np.stack([r[:, 0], -r[:, 0]], 1) * how.grow ** r[:, 3:]
    sizes = sizes.clip(LEAST, np.maximum(np.array([width, height]) - LEAST, LEAST))
    if how.way == "whole":
        places = int(np.ceil(2 * np.sqrt(count)))
        cells = chance.random(places * places).argsort()[:count]
        at = np.stack([cells % places, cells // places], 1) / max(places - 1, 1)
        middles = sizes / 2 + at * (np.array([width, height]) - sizes)
    else:
        middles = middle + how.spread * side * r[:, 1:3]
    middles = np.clip(middles, sizes / 2, np.maximum(np.array([width, height]) - sizes / 2, sizes / 2))
    return np.concatenate([middles - sizes / 2, sizes], 1)


def sampled(chance: np.random.Generator, how: Draw, box: Array, size: tuple[int, int], count: int) -> Array:
    """Up to so many boxes whose overlap with one is within bounds, [n, 4]."""
    found = np.empty((0, 4))
    for factor in TRIES:
        lacking = count - len(found)
        if lacking:
            tried = drawn(chance, how, box, size, lacking * factor)
            shared = overlap(tried, box)
            found = np.concatenate([found, tried[(shared >= how.low) & (shared <= how.high)][:lacking]])
    return found


def repeated(boxes: Array, count: int) -> Array:
    """So many of them, over and over where they are too few."""
    return boxes[np.arange(count) % len(boxes)]


def within(box: Array, size: tuple[int, int]) -> bool:
    """Whether any of a box lies in the image."""
    return bool(overlap(box, np.array([0.0, 0, *size])) > 0)
