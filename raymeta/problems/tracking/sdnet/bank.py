"""Tasks of SDNet: crops of a frame with its target marked, and of a later one, to be told apart."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from raymeta.errors import UserError
from raymeta.problem import Examples, Split
from raymeta.problems.tracking.boxes import Draw, repeated, sampled
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.frames import crops
from raymeta.problems.tracking.moments import Moments
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.problems.tracking.sdnet.problem import TrackingTask

POSITIVE, NEGATIVE = Draw("gaussian", 0.1, 1.2, low=0.7), Draw("uniform", 1.0, 1.2, high=0.5)


class Crops(Moments):
    """Tasks of two frames each: x float32 [T, n, 3, side, side], y int64 [T, n], 1 for crops of the target.

    In training 0 and 1 swap in half of the tasks, in both frames alike, so that nothing can learn to know targets as
    such. See `Moments`.
    """

    def __init__(
        self, clips: Callable[[int], Clip], count: int, task: "TrackingTask", split: Split, uniforms: Uniforms
    ) -> None:
        super().__init__(clips, count, task.gap, split, uniforms)
        self._task, self._swaps = task, task.swap and split == "train"

    def cut(self, chance: np.random.Generator, clip: Clip, frame: int) -> tuple[Examples, Examples]:
        later = self.later(chance, clip, frame)
        swapped = bool(chance.random() < 0.5) and self._swaps
        return self._crops(chance, clip, frame, swapped), self._crops(chance, clip, later, swapped)

    def _crops(self, chance: np.random.Generator, clip: Clip, frame: int, swapped: bool) -> Examples:
        task, box = self._task, clip.boxes[frame]
        near = [box[None], sampled(chance, POSITIVE, box, clip.size, task.positives)]
        positive = near[1] if len(near[1]) else near[0]
        negative = sampled(chance, NEGATIVE, box, clip.size, task.negatives)
        if not len(negative):
            raise UserError(f"{clip.name}, frame {frame + 1}: its target leaves no room for crops of anything else")
        boxes = np.concatenate([repeated(positive, task.positives), repeated(negative, task.negatives)])
        y = torch.arange(len(boxes)) < task.positives
        return Examples(crops(clip.read(frame), boxes, task.side), (y ^ swapped).long())
