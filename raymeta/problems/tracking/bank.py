"""Tasks of tracking: crops of a frame with its target marked, and of a later one, to be told apart."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raymeta.errors import UserError
from raymeta.problem import Examples, Split, Tasks
from raymeta.problems.tracking.boxes import Array, Draw, repeated, sampled
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.net import GREY
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.problems.tracking.tracking import TrackingTask

POSITIVE, NEGATIVE = Draw("gaussian", 0.1, 1.2, low=0.7), Draw("uniform", 1.0, 1.2, high=0.5)
MARGIN = 16 / 107  # of a box, seen on each side of it


class Moments:
    """Tasks of two frames each: x float32 [T, n, 3, side, side], y int64 [T, n], 1 for crops of the target.

    Task i is a function of (data, split, seed, i): its sequence, the frame t, how much later the other is (1 to `gap`),
    the boxes in both and, in training, whether 0 and 1 swap, in both frames alike, so that nothing can learn to know
    targets as such.

    Args:
        clips: the split's sequences, one after the other, by their number.
        count: how many there are.
        task: how many crops.
        split: of the data; the labels swap in training only.
        uniforms: the stream that the tasks are drawn from.

    Attributes:
        split, count: the same.
    """

    def __init__(
        self, clips: Callable[[int], Clip], count: int, task: "TrackingTask", split: Split, uniforms: Uniforms
    ) -> None:
        self._clips, self._task, self._uniforms = clips, task, uniforms
        self.split, self.count = split, count
        self._swaps = task.swap and split == "train"

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`."""
        made = [self._drawn(number) for number in range(first, first + count)]
        sides = [Examples(*map(torch.stack, zip(*side, strict=True))) for side in zip(*made, strict=True)]
        return Tasks(*sides)

    def clip(self, number: int) -> Clip:
        """The sequence of a task."""
        return self._clips(int(self._uniforms.generator(number).random() * self.count))

    def _drawn(self, number: int) -> tuple[Examples, Examples]:
        chance = self._uniforms.generator(number)
        clip = self._clips(int(chance.random() * self.count))
        starts = clip.there[:-1]
        start = starts[int(chance.random() * len(starts))]
        later = clip.there[clip.there > start]
        within = later[later <= start + self._task.gap]
        later = within if len(within) else later[:1]
        end = later[int(chance.random() * len(later))]
        swapped = bool(chance.random() < 0.5) and self._swaps
        return self._crops(chance, clip, int(start), swapped), self._crops(chance, clip, int(end), swapped)

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


def crops(frame: Image.Image, boxes: Array, side: int, margin: float = MARGIN) -> Tensor:
    """Boxes [n, 4] cut out of a frame with a margin, as far as it goes, and squeezed: float32 [n, 3, side, side].

    Pixels are less 128, over 128.
    """
    low = (boxes[:, :2] - margin * boxes[:, 2:]).clip(min=0)
    high = np.minimum(boxes[:, :2] + (1 + margin) * boxes[:, 2:], np.array(frame.size, float))
    low = np.minimum(low, high - 1).clip(min=0)
    made = [
        np.asarray(frame.resize((side, side), Image.Resampling.BILINEAR, box=(*one, *other)))
        for one, other in zip(low.tolist(), high.tolist(), strict=True)
    ]
    return pixels_of(made)


def pixels_of(pictures: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """uint8 [H, W, 3] each as models see them."""
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (x - GREY) / GREY
