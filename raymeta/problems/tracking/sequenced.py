"""What all problems of tracking are: their tasks are cut out of sequences, and their learners make trackers."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymeta.problem import Bank, Problem, Split
from raymeta.problems.examples import DrawsExamples
from raymeta.problems.images.reading.given import pixels
from raymeta.problems.images.reading.pictures import plain, squeezed
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.frames import GREY, pixels_of
from raymeta.problems.tracking.moments import Moments

if TYPE_CHECKING:
    from raymeta.learner import Learner


class Tracker(Protocol):
    """What follows a target, once it has seen it in a first frame."""

    def follow(self, frame: Image.Image) -> tuple[Array, float]:
        """The box [4] in the next frame, and how sure that is: at most 0 where the target was not found."""
        ...


class Sequenced(Problem, DrawsExamples):
    """A problem of tracking, whose examples are pictures of `task.side` pixels."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Sequences of a split.

        Raises:
            UserError: they are not there or damaged.
        """

    @abstractmethod
    def clip(self, split: Split, number: int) -> Clip:
        """A sequence of a split."""

    @abstractmethod
    def tracker(self, learner: "Learner", first: Image.Image, box: Array, seed: int) -> Tracker:
        """A tracker of the target that a box marks in a first frame, made by a learner's adaptation to it.

        Args:
            learner: trained on this problem.
            first: the frame.
            box: x, y, w, h, some of it in the frame.
            seed: of what the tracker draws.

        Raises:
            UserError: the learner or its network is of another kind, or the frame has too little beside the box.
        """

    def pixels(self, x: Tensor) -> Tensor:
        return (x * GREY + GREY).clamp(0, 255) / 255

    def inputs(self, given: Any) -> Tensor:
        """Pictures of any size, squeezed; see `raymeta.problems.images.reading.given.pixels`."""
        found = pixels(given, self.input_shape, lambda image: squeezed(self.task.side)(plain(image)))
        return pixels_of(list(found.transpose(0, 2, 3, 1)))

    def given(self, x: Tensor) -> NDArray[np.uint8]:
        """As pictures, uint8 [n, side, side, 3]."""
        return (255 * self.pixels(x)).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def called(self, bank: Bank, number: int) -> str:
        """The sequence."""
        return bank.clip(number).name if isinstance(bank, Moments) else ""

    def picture(self, path: Path) -> None:
        from raymeta.problems.tracking.drawing import draw_clips  # imported here: it needs matplotlib

        draw_clips(self, path)
