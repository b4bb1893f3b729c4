"""From pictures to what networks see, and back."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymeta.problem import Problem
from raymeta.problems.images.reading.given import pixels
from raymeta.problems.images.store import Channels, scaled, unscaled


class ImageProblem(Problem):
    """What problems whose examples are images have in common.

    Attributes:
        mean, std: per channel, if pixels are to be standardised.
        fitted: how its files become images of its size, in words.
    """

    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None
    fitted: ClassVar[str] = "squeezed with Lanczos"

    @abstractmethod
    def fit(self, image: Image.Image) -> Image.Image:
        """An image file of any size and kind as those of this problem are: size and channels."""

    def inputs(self, given: Any) -> Tensor:
        """Images; see `raymeta.problems.images.reading.given.pixels`."""
        return torch.from_numpy(scaled(pixels(given, self.input_shape, self.fit), *self.standard))

    def given(self, x: Tensor) -> NDArray[np.uint8]:
        """Pictures as files have them, uint8 [n, H, W, C]."""
        return unscaled(x.cpu().numpy(), *self.standard).transpose(0, 2, 3, 1)

    def pixels(self, x: Tensor) -> Tensor:
        mean, std = (None if given is None else x.new_tensor(given)[:, None, None] for given in self.standard)
        return x if mean is None or std is None else (x * std + mean).clamp(0, 1)

    def changed(self, x: Tensor, change: Tensor) -> Tensor:
        _, std = self.standard
        return x + (change if std is None else change / change.new_tensor(std)[:, None, None])

    @property
    def standard(self) -> tuple[Channels | None, Channels | None]:
        """Mean and deviation that pixels are standardised with, per channel."""
        return self.mean, self.std
