"""Sequences that are drawn: a textured polygon among others of its family, before a drifting background.

A sequence's family says the polygon and its colours; target and distractors differ in the angle and the width of their
stripes, in shade and a little in shape, so that what a target looks like must be learned from its first frame. All walk
smoothly, the target grows and shrinks by up to 5 % a frame, the light drifts, and in every second sequence a bar passes
over part of the target. Boxes are exact. The splits share no family.
"""

import colorsys
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from raymeta.problem import Split
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.uniforms import Uniforms

VERSION = 1
SIDE, FRAMES = 96, 40
CLIPS: dict[Split, int] = {"train": 120, "validation": 20, "test": 20}
MASTER = 48  # pixels of a sprite before it is scaled
COARSE = 14  # cells of the background
SMALLEST, LARGEST = 15.0, 30.0
OCCLUDED = 7  # frames


class Actor(NamedTuple):
    """A sprite and its way: what is pasted, and its boxes [T, 4] of whole numbers."""

    sprite: Image.Image
    boxes: Array


class Scene(NamedTuple):
    """All of a sequence: the background's cells, its drift [2], the distractors, the target, light [T], the bar."""

    behind: Image.Image
    drift: Array
    others: tuple[Actor, ...]
    target: Actor
    light: Array
    bar: tuple[int, float, tuple[int, int, int]] | None


def clip(split: Split, number: int) -> Clip:
    """Sequence `number` of a split."""
    scene = _scene(split, number)
    return Clip(f"{split} {number:03}", (SIDE, SIDE), scene.target.boxes, partial(_frame, split, number))


@lru_cache(maxsize=64)
def _frame(split: Split, number: int, time: int) -> Image.Image:
    scene = _scene(split, number)
    at = scene.drift * time + 40
    image = scene.behind.crop((int(at[0]), int(at[1]), int(at[0]) + SIDE, int(at[1]) + SIDE))
    for actor in (*scene.others, scene.target):
        x, y, wide, high = (int(one) for one in actor.boxes[time])
        image.paste(small := actor.sprite.resize((wide, high), Image.Resampling.BILINEAR), (x, y), small)
    if scene.bar is not None and 0 <= time - scene.bar[0] < OCCLUDED:
        first, share, colour = scene.bar
        x, y, wide, high = scene.target.boxes[time]
        left = x + wide * (share - 0.5) * (time - first) / OCCLUDED
        ImageDraw.Draw(image).rectangle((left, y - 4, left + wide * share, y + high + 4), fill=colour)
    return image.point([min(255, int(value * scene.light[time])) for value in range(256)] * 3)


@lru_cache(maxsize=256)
def _scene(split: Split, number: int) -> Scene:
    chance = Uniforms("sprites", VERSION, split).generator(number)
    radii, hue = 0.55 + 0.45 * chance.random(5 + int(4 * chance.random())), chance.random()
    cells = (40 + 150 * chance.random((COARSE, COARSE, 3))).astype(np.uint8)
    wide = SIDE + 80
    behind = Image.fromarray(cells).resize((wide, wide), Image.Resampling.BICUBIC)
    actors = [_actor(chance, radii, hue) for _ in range(2 + int(3 * chance.random()))]
    light = 1 + 0.25 * np.cumsum((chance.random(FRAMES) - 0.5) * 0.25)
    bar = None
    if chance.random() < 0.5:
        grey = int(30 + 180 * chance.random())
        bar = (5 + int((FRAMES - 20) * chance.random()), 0.4 + 0.25 * chance.random(), (grey, grey, grey))
    drift = 1.8 * (chance.random(2) - 0.5)
    return Scene(behind, drift, tuple(actors[1:]), actors[0], light.clip(0.7, 1.3), bar)


def _actor(chance: np.random.Generator, radii: Array, hue: float) -> Actor:
    """A sprite of a family, and where it goes."""
    jitter, angle, width, shade, tint = chance.random(len(radii)), *chance.random(4)
    corners = 2 * np.pi * np.arange(len(radii)) / len(radii)
    reach = radii * (0.9 + 0.2 * jitter) * MASTER / 2
    points = [(MASTER / 2 + r * np.cos(a), MASTER / 2 + r * np.sin(a)) for r, a in zip(reach, corners, strict=True)]
    mask = Image.new("L", (MASTER, MASTER), 0)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    light, dark = (
        np.array(colorsys.hsv_to_rgb((hue + 0.12 * (tint - 0.5)) % 1, s, v)) * 255
        for s, v in ((0.55, 0.7 + 0.3 * shade), (0.9, 0.25 + 0.3 * shade))
    )
    rows, columns = np.mgrid[:MASTER, :MASTER] / MASTER
    wave = np.sin(2 * np.pi * (2 + 3 * width) * (columns * np.cos(np.pi * angle) + rows * np.sin(np.pi * angle)))
    pixels = np.where((wave > 0)[..., None], light, dark).astype(np.uint8)
    sprite = Image.fromarray(pixels).convert("RGBA")
    sprite.putalpha(mask)
    return Actor(sprite.crop(mask.getbbox()), _way(chance, sprite.crop(mask.getbbox()).size))


def _way(chance: np.random.Generator, size: tuple[int, int]) -> Array:
    """Boxes along a smooth random walk that stays in the frame."""
    scale = (SMALLEST + (LARGEST - SMALLEST) * chance.random()) / max(size)
    at, speed = 0.15 * SIDE + 0.7 * SIDE * chance.random(2), 3 * (chance.random(2) - 0.5)
    boxes = np.empty((FRAMES, 4))
    for time in range(FRAMES):
        wide, high = (max(8.0, round(side * scale)) for side in size)
        low = at - np.array([wide, high]) / 2
        boxes[time] = [*low.round().clip(0, [SIDE - wide, SIDE - high]), wide, high]
        speed = 0.85 * speed + 1.6 * (chance.random(2) - 0.5)
        at = at + speed
        edge = (at < LARGEST / 2) | (at > SIDE - LARGEST / 2)
        speed, at = np.where(edge, -speed, speed), at.clip(LARGEST / 2, SIDE - LARGEST / 2)
        grown = scale * (1 + 0.1 * (chance.random() - 0.5))
        scale = float(np.clip(grown, SMALLEST / max(size), LARGEST / max(size)))
    return boxes
