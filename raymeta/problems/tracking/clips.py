"""Sequences of frames with a box in each, read from folders as OTB and VOT are distributed.

    OTB   NAME/img/0001.jpg and NAME/groundtruth_rect.txt: x, y, w, h of every frame, from 1, with commas, tabs or
          blanks; groundtruth_rect.1.txt and .2.txt where there are two targets, which are two sequences here
    VOT   NAME/00000001.jpg (or NAME/color/) and NAME/groundtruth.txt: x, y, w, h, or the 8 numbers of a polygon, whose
          bounding box is taken; NaN where the target is absent

Sequences that begin late are those of OTB's own list.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.files import is_picture
from raymeta.problems.images.reading.pictures import plain
from raymeta.problems.images.reading.sources import UNREADABLE
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.tracking.boxes import Array, within

BOXES = re.compile(r"groundtruth(_rect)?(\.\d+)?\.txt")
LATE = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}  # the number of the first frame with a box
KEPT = 64  # decoded frames


@dataclass(frozen=True)
class Clip:
    """A sequence.

    Attributes:
        name: its own.
        size: width and height of every frame.
        boxes: x, y, w, h of the target in every frame, from 0, [T, 4]; NaN where it is absent.
        read: number of a frame to the frame.
        remark: what is to be said of how it was read; "": nothing.
        files: of its frames, if it is of files.
    """

    name: str
    size: tuple[int, int]
    boxes: Array
    read: Callable[[int], Image.Image]
    remark: str = ""
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def there(self) -> NDArray[np.int64]:
        """Numbers of the frames that have a box."""
        return np.flatnonzero(~np.isnan(self.boxes).any(1))


def clips_of(tree: Tree) -> list[Clip]:
    """The sequences of a folder or an archive, by name.

    Raises:
        UserError: there is none, or one is damaged.
    """
    lists = [path for path in tree.paths if BOXES.fullmatch(path.rsplit("/", 1)[-1])]
    if not lists:
        raise UserError(
            f"{shown(tree.source)}: no sequence is in it: expected NAME/groundtruth_rect.txt beside NAME/img (OTB), or "
            "NAME/groundtruth.txt beside the frames (VOT)"
        )
    texts = dict(tree.read(lists))
    return [_clip(tree, path, texts[path].decode("utf-8", "replace")) for path in sorted(lists)]


def frames_of(tree: Tree, base: str = "") -> list[str]:
    """The pictures of a sequence, in the order of the numbers in their names."""
    for below in ("img/", "color/", ""):
        folder = base + below
        found = [
            path
            for path in tree.paths
            if path.startswith(folder) and "/" not in path[len(folder) :] and is_picture(path)
        ]
        if found:
            return sorted(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path[len(folder) :])], path))
    return []


def read_frame(tree: Tree, path: str, size: tuple[int, int] | None) -> Image.Image:
    """A frame in colour.

    Raises:
        UserError: it can't be read, or has another size than the sequence's.
    """
    found = _decoded(tree, path)
    if size is not None and found.size != size:
        wide, high = found.size
        raise UserError(
            f"{shown(tree.source)}: {path} is {wide}x{high}, and the first frame of its sequence {size[0]}x{size[1]}"
        )
    return found


@lru_cache(maxsize=KEPT)
def _decoded(tree: Tree, path: str) -> Image.Image:
    ((_, content),) = tree.read([path])
    try:
        with Image.open(io.BytesIO(content)) as image:
            return plain(image)
    except (*UNREADABLE, ValueError) as error:
        raise UserError(f"{shown(tree.source)}: {path} is not an image that can be read") from error


def _clip(tree: Tree, path: str, text: str) -> Clip:
    *above, file = path.split("/")
    base, one_based = "".join(f"{part}/" for part in above), file.startswith("groundtruth_rect")
    part = re.search(r"\.(\d+)\.txt$", file)
    name = (above[-1] if above else tree.source.stem) + (f".{part[1]}" if part else "")
    where = f"{shown(tree.source)}: {path}"
    boxes, polygons = _numbers(text, where)
    frames = frames_of(tree, base)
    first = LATE.get(above[-1], 1) - 1 if above and one_based else 0
    first = first if len(frames) >= first + len(boxes) else 0
    if len(boxes) < 2:
        raise UserError(f"{where}: found {len(boxes)} boxes: a sequence needs two frames or more")
    if len(frames) < first + len(boxes):
        raise UserError(f"{where}: has {len(boxes)} boxes, but only {len(frames)} frames are there")
    remarks = ["bounding boxes of polygons"] if polygons else []
    if len(frames) > first + len(boxes):
        remarks.append(f"{len(frames) - len(boxes)} of {len(frames)} frames have no box and are left out")
    frames = frames[first : first + len(boxes)]
    size = read_frame(tree, frames[0], None).size
    boxes = boxes - np.array([1.0, 1, 0, 0]) if one_based else boxes
    for number, box in enumerate(boxes, start=1):
        if np.isnan(box).any():
            continue
        if not (box[2:] > 0).all():
            raise UserError(f"{where}, line {number}: the box {_words(box)} has no area")
        if not within(box, size):
            raise UserError(
                f"{where}, line {number}: the box {_words(box)} lies outside its frame, which is {size[0]}x{size[1]}"
            )
    if np.isnan(boxes).any(1).sum() > len(boxes) - 2:
        raise UserError(f"{where}: fewer than two of its {len(boxes)} frames have a box")
    files = tuple(frames)
    return Clip(name, size, boxes, partial(_frame, tree, files, size), "; ".join(remarks), files)


def _frame(tree: Tree, frames: Sequence[str], size: tuple[int, int], number: int) -> Image.Image:
    return read_frame(tree, frames[number], size)


def _numbers(text: str, where: str) -> tuple[Array, bool]:
    """Boxes [T, 4], and whether they are of polygons."""
    rows, columns = [], 0
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), start=1):
        words = [word for word in re.split(r"[,;\s]+", line) if word]
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise UserError(f"{where}, line {number}: found '{line[:40]}': expected numbers") from None
        columns = columns or len(values)
        if len(values) not in (4, 8) or len(values) != columns:
            raise UserError(
                f"{where}, line {number}: found {len(values)} numbers: expected 4 (x, y, w, h) or 8 (a polygon), "
                "the same in every line"
            )
        if any(np.isinf(values)):
            raise UserError(f"{where}, line {number}: found a number that is not finite")
        rows.append(values)
    if not rows:
        raise UserError(f"{where}: is empty: expected a line for every frame")
    found = np.array(rows)
    if columns == 4:
        return found, False
    corners = found.reshape(-1, 4, 2)
    low = corners.min(1)
    return np.concatenate([low, corners.max(1) - low], 1), True


def _words(box: Array) -> str:
    return ", ".join(f"{one:g}" for one in box)
