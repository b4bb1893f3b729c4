"""Few-shot classification of images: loss, score, and from pictures to what networks see and back."""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymeta.metric import Metric
from raymeta.problem import Problem, Tasks
from raymeta.problems.images.given import pixels
from raymeta.problems.images.reading.pictures import WHITE, Colour, plain, squeezed
from raymeta.problems.images.store import Channels, scaled, unscaled


class ImageClassification(Problem):
    """What problems whose examples are images of classes have in common.

    Attributes:
        mean, std: per channel, if pixels are to be standardised.
        fitted: how its files become images of its size, in words.
    """

    metric: ClassVar[Metric] = Metric("accuracy", "max", unit="%", scale=100.0, digits=2)
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None
    fitted: ClassVar[str] = "squeezed with Lanczos"

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits [n, N] with labels [n] or probabilities [n, N]."""
        return F.cross_entropy(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Accuracy of a task, 0 to 1."""
        return (outputs.argmax(-1) == y).double().mean()

    def outputs_of(self, tasks: Tasks) -> int | None:
        """Classes of a task, counted where tasks differ in them and are therefore alone; each has support images."""
        return None if self.one_shape else int(tasks.support.y.max()) + 1

    def fit(self, image: Image.Image) -> Image.Image:
        """An image file of any size and kind as `build` packs those of this data set: size and channels."""
        return squeezed(self.input_shape[-1])(plain(image, self.input_shape[0] == 1, self.background))

    def inputs(self, given: Any) -> Tensor:
        """Images; see `raymeta.problems.images.given.pixels`."""
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
    def background(self) -> Colour:
        """What is behind transparent pictures."""
        return WHITE

    @property
    def standard(self) -> tuple[Channels | None, Channels | None]:
        """Mean and deviation that pixels are standardised with, per channel."""
        return self.mean, self.std
