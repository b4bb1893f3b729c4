"""Tasks of CREST: a window around the target of a frame, and windows of later frames, in which it is to be found."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from raymeta.problem import Examples, Split
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.crest.maps import WINDOW
from raymeta.problems.tracking.frames import window
from raymeta.problems.tracking.moments import Moments
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.problems.tracking.crest.problem import CrestTask


class Windows(Moments):
    """Tasks of one window to learn from and some of later frames: x float32 [T, n, 3, side, side], y float32 [T, n, 4].

    y are the target's place (x, y), from the window's middle, and size (w, h) in shares of its side. All windows of a
    task have the size that the first frame's target gives, and so have all its y, as in Meta-Tracker's code. There the
    target is in the middle of later windows, too; here it is off by up to `shift` of its longer side, else a map with
    its peak in the middle would be right always. See `Moments`.
    """

    def __init__(
        self, clips: Callable[[int], Clip], count: int, task: "CrestTask", split: Split, uniforms: Uniforms
    ) -> None:
        super().__init__(clips, count, task.gap, split, uniforms)
        self._side = task.side
        training = split == "train"
        self._queries, self._shift = (task.queries, task.shift) if training else (task.eval_queries, task.eval_shift)

    def cut(self, chance: np.random.Generator, clip: Clip, frame: int) -> tuple[Examples, Examples]:
        box = clip.boxes[frame]
        longer = float(box[2:].max())

        def seen(number: int, shift: Array) -> tuple[torch.Tensor, torch.Tensor]:
            there = clip.boxes[number]
            middle, extent = there[:2] + there[2:] / 2 - shift * longer, WINDOW * longer
            y = np.concatenate([shift * longer, box[2:]]) / extent
            return window(clip.read(number), middle, extent, self._side), torch.from_numpy(y).float()

        first = [seen(frame, np.zeros(2))]
        others = [
            seen(self.later(chance, clip, frame), self._shift * (2 * chance.random(2) - 1))
            for _ in range(self._queries)
        ]
        support, query = (Examples(*map(torch.stack, zip(*side, strict=True))) for side in (first, others))
        return support, query
