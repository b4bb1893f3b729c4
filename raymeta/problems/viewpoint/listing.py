"""Views of things in pictures: what lists of them say, and how they become a store.

A list names, for every view, a picture, the category, the box of the thing in pixels (x0, y0, x1, y1, the right and
lower edges outside) and the angles in degrees (azimuth, elevation, tilt). The box is cut out, padded with grey to a
square and scaled with Lanczos.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta.errors import UserError, shown, some
from raymeta.problems.images.reading.packing import Packed, Progress, Stream
from raymeta.problems.images.reading.pictures import decode, plain
from raymeta.problems.images.reading.trees import Tree

GREY = (124, 116, 104)  # ImageNet's mean


class View(NamedTuple):
    """A thing in a picture.

    Attributes:
        path: of the picture in its tree.
        box: x0, y0, x1, y1 in pixels from 0.
        angles: azimuth, elevation, tilt in degrees.
        where: what names the line or the object in a sentence.
    """

    path: str
    category: str
    box: tuple[float, float, float, float]
    angles: tuple[float, float, float]
    where: str


class Listing(NamedTuple):
    """What a folder says of its pictures.

    Attributes:
        views: that are used.
        skipped: why others are not, with how many.
        layout: a phrase: where this was read.
        splits: category to its split, if the folder says that; else {}.
    """

    views: Sequence[View]
    skipped: Mapping[str, int]
    layout: str
    splits: Mapping[str, str] = {}

    def refuse_damaged(self, tree: Tree) -> None:
        """Say what is wrong with the list, before a picture is read.

        Raises:
            UserError: no view is left, a picture is missing, a box is empty, or a number is not finite.
        """
        if not self.views:
            why = f"; skipped: {self.words}" if self.skipped else ""
            raise UserError(f"{shown(tree.source)}: no view of a thing is in it ({self.layout}){why}")
        there = set(tree.paths)
        for view in self.views:
            if view.path not in there:
                raise UserError(f"{shown(tree.source)}: {view.where} names the picture {view.path}, which is not there")
            if not all(map(math.isfinite, (*view.box, *view.angles))):
                raise UserError(f"{shown(tree.source)}: {view.where}: found a number that is not finite")
            x0, y0, x1, y1 = view.box
            if not (x1 > x0 and y1 > y0):
                raise UserError(
                    f"{shown(tree.source)}: {view.where}: the box {_words(view.box)} has no area; expected x0 < x1 and "
                    "y0 < y1"
                )

    @property
    def words(self) -> str:
        """`3 occluded, 2 coarse only`."""
        return ", ".join(f"{count:,} {why}" for why, count in sorted(self.skipped.items()))

    @property
    def counts(self) -> Counter[str]:
        """Views of each category."""
        return Counter(view.category for view in self.views)


def packed(tree: Tree, found: Listing, splits: Mapping[str, Sequence[str]], side: int, progress: Progress) -> Packed:
    """The views of a listing as a store, category after category.

    Args:
        tree: with its pictures.
        found: of it.
        splits: train, validation and test to their categories; those of none of them are left out.
        side: of a view, in pixels.
        progress: called per picture.

    Raises:
        UserError: a picture can't be read, or a box lies outside it.
    """
    names = sorted(name for part in splits.values() for name in part)
    places = {name: number for number, name in enumerate(names)}
    views = sorted((view for view in found.views if view.category in places), key=lambda view: places[view.category])
    counts = Counter(view.category for view in views)
    left = sorted(set(found.counts) - set(names))
    notes = {"skipped": found.words} if found.skipped else {}
    if left:
        notes["categories left out"] = f"{some(left)}: in no split"
    about: dict[str, Any] = {"layout": found.layout, "notes": notes}
    return Packed(
        Stream((len(views), 3, side, side), _crops(tree, views, side, progress)),
        names,
        [counts[name] for name in names],
        {"standard": {split: [places[name] for name in part] for split, part in splits.items()}},
        about=about,
        angles=[view.angles for view in views],
    )


def _crops(tree: Tree, views: Sequence[View], side: int, progress: Progress) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Rows of a store and what is in them; a picture is read once for all of its views."""
    rows: dict[str, list[int]] = {}
    for row, view in enumerate(views):
        rows.setdefault(view.path, []).append(row)
    for done, (path, content) in enumerate(tree.read(rows)):
        pixels = decode(content, f"{shown(tree.source)}: {path}", plain)
        for row in rows[path]:
            yield row, cut(pixels, views[row], side, str(tree.source))[None]
        progress(done + 1, len(rows))


def cut(pixels: NDArray[np.uint8], view: View, side: int, source: str) -> NDArray[np.uint8]:
    """A view out of a picture uint8 [3, H, W]: uint8 [3, side, side].

    Raises:
        UserError: its box lies outside.
    """
    height, width = pixels.shape[1:]
    x0, y0 = (max(0, round(low)) for low in view.box[:2])
    x1, y1 = min(width, round(view.box[2])), min(height, round(view.box[3]))
    if x1 <= x0 or y1 <= y0:
        raise UserError(
            f"{shown(source)}: {view.where}: the box {_words(view.box)} lies outside {view.path}, which is "
            f"{width}x{height}"
        )
    return squared(Image.fromarray(np.ascontiguousarray(pixels[:, y0:y1, x0:x1].transpose(1, 2, 0))), side)


def squared(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """A colour picture padded to a square and scaled, uint8 [3, side, side]."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), GREY)
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    scaled = square.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(scaled, np.uint8).transpose(2, 0, 1)


def _words(box: Sequence[float]) -> str:
    return ", ".join(f"{one:g}" for one in box)
