"""A target that is marked in the first of some frames, followed through the others by a trained learner."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta.api.studies import Study
from raymeta.api.using import load
from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.tracking.clips import frames_of, read_frame
from raymeta.problems.tracking.drawing import draw_strip, spread
from raymeta.problems.tracking.following import track as follow
from raymeta.problems.tracking.sequenced import Sequenced
from raymeta.report.style import PICTURES
from raymeta.storage.files import missing
from raymeta.storage.outputs import output, write_output
from raymeta.storage.places import AnyPath, expanded

SHOWN = 8  # frames of a strip


@dataclass(frozen=True)
class Followed:
    """Where a target was found.

    Attributes:
        frames: their files, in order.
        boxes: x, y, w, h of every frame, pixels from 0, [T, 4]; the first is the given one.
        scores: how sure that is, [T], in the tracker's own measure: at most 0 where the target was not found and the
            box is the last one; NaN for the first.
    """

    frames: list[str]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    _tree: Tree

    @property
    def lost(self) -> list[bool]:
        """Of every frame whether the target was not found."""
        return [bool(score <= 0) for score in self.scores]

    def as_dict(self) -> list[dict[str, Any]]:
        """Plain data, an entry for each frame."""
        scores = [None if np.isnan(score) else score for score in self.scores.tolist()]
        return [
            {"frame": frame, "box": box, "score": score, "found": not lost}
            for frame, box, score, lost in zip(self.frames, self.boxes.tolist(), scores, self.lost, strict=True)
        ]

    def write(self, path: str | Path) -> Path:
        """Write the boxes, a line `x,y,w,h` for every frame.

        Raises:
            UserError: `path` can't be written.
        """
        file = output(path)
        write_output(file, "".join(",".join(f"{one:.2f}" for one in box) + "\n" for box in self.boxes.tolist()))
        return file

    def picture(self, path: str | Path) -> Path:
        """Draw some of the frames with their boxes, red where the target was not found; the suffix says the format.

        Raises:
            UserError: `path` can't be written.
        """
        file = output(path, PICTURES)
        numbers = spread(len(self.frames), SHOWN)
        chosen = [(number, read_frame(self._tree, self.frames[number], None)) for number in numbers]
        draw_strip(file, chosen, self.boxes, self.lost)
        return file


def track(run: "str | Path | AnyPath | Study", frames: str | Path, box: Sequence[float], *, seed: int = 0) -> Followed:
    """Follow a target through frames with a learner that was trained on a task of tracking.

    Args:
        run: see `load`.
        frames: folder of them, in the order of the numbers in their names.
        box: x, y, w, h of the target in the first, pixels from 0.
        seed: of the boxes that are tried in each frame.

    Raises:
        UserError: there is no such run or folder, the run is of another problem, a frame can't be read or has another
            size, or the box lies outside the first one.
    """
    learner = load(run)
    if not isinstance(learner.problem, Sequenced):
        raise UserError(f"{run}: was trained on {learner.problem.name}, which is no task of tracking")
    folder = expanded(frames)
    if not folder.exists():
        raise missing(folder, "folder")
    tree = Tree(folder)
    files = frames_of(tree)
    if len(files) < 2:
        raise UserError(f"{shown(folder)}: found {len(files)} frames: two or more are needed, in it or in img/ in it")
    size = read_frame(tree, files[0], None).size

    def read(number: int) -> Image.Image:
        return read_frame(tree, files[number], size)

    found = follow(learner.learner, len(files), read, np.array(box, float), seed)
    return Followed(files, found.boxes, found.scores, tree)
