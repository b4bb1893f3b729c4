"""Tasks of two moments of a sequence: what is learned from a frame, and a later one that it is judged on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from raymeta.problem import Examples, Split, Tasks
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.uniforms import Uniforms


class Moments(ABC):
    """A bank whose task i is a function of (data, split, seed, i): its sequence, the frame, how much later the others
    are (1 to `gap`), and whatever a subclass draws for what it cuts out of them.

    Args:
        clips: the split's sequences, one after the other, by their number.
        count: how many there are.
        gap: frames at most from the one that is learned to one that is judged.
        split: of the data.
        uniforms: the stream that the tasks are drawn from.

    Attributes:
        split, count: the same.
    """

    def __init__(self, clips: Callable[[int], Clip], count: int, gap: int, split: Split, uniforms: Uniforms) -> None:
        self._clips, self._gap, self._uniforms = clips, gap, uniforms
        self.split, self.count = split, count

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`."""
        made = [self._drawn(number) for number in range(first, first + count)]
        sides = [Examples(*map(torch.stack, zip(*side, strict=True))) for side in zip(*made, strict=True)]
        return Tasks(*sides)

    def clip(self, number: int) -> Clip:
        """The sequence of a task."""
        return self._clips(int(self._uniforms.generator(number).random() * self.count))

    @abstractmethod
    def cut(self, chance: np.random.Generator, clip: Clip, frame: int) -> tuple[Examples, Examples]:
        """Support and query set of a task whose first moment is a frame that has a box and another after it."""

    def later(self, chance: np.random.Generator, clip: Clip, frame: int) -> int:
        """A frame after that one, drawn from those within the gap; the next with a box if there is none."""
        after = clip.there[clip.there > frame]
        within = after[after <= frame + self._gap]
        after = within if len(within) else after[:1]
        return int(after[int(chance.random() * len(after))])

    def _drawn(self, number: int) -> tuple[Examples, Examples]:
        chance = self._uniforms.generator(number)
        clip = self._clips(int(chance.random() * self.count))
        starts = clip.there[:-1]
        return self.cut(chance, clip, int(starts[int(chance.random() * len(starts))]))
