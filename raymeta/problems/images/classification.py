"""Few-shot classification of images: loss and score."""

from typing import ClassVar

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from raymeta.metric import Metric
from raymeta.problem import Tasks
from raymeta.problems.images.reading.pictures import WHITE, Colour, plain, squeezed
from raymeta.problems.images.seen import ImageProblem


class ImageClassification(ImageProblem):
    """What problems whose examples are images of classes have in common."""

    metric: ClassVar[Metric] = Metric("accuracy", "max", unit="%", scale=100.0, digits=2)

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
        return squeezed(self.input_shape[-1])(plain(image, self.input_shape[0] == 1, self.background))

    @property
    def background(self) -> Colour:
        """What is behind transparent pictures."""
        return WHITE
