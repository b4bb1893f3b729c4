"""Tests on another data set than the one trained on (`task.test_dataset`): what its images are made to be.

Training, validation and selection know the task's own data set only; a final run's tasks are of the other's test split,
in the other's default class split. As in ALFA and CxGrad grey channels are replicated and images resized to what the
model was trained on. Pixels are then scaled and standardised as the *training* images are, with the training data set's
mean and deviation or without any: a model sees the scaling that it was trained with. From miniImageNet to CUB that is
what ALFA's code does, which has ImageNet's numbers for both; CxGrad's trains on plain [0, 1] and standardises CIFAR-FS
in the test. Everything else of `task` holds as it stands: ways, shots, queries, rotations.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta import registry
from raymeta.errors import UserError

if TYPE_CHECKING:
    from raymeta.problems.images.store import ImageDataset


def open_other(own: "ImageDataset", name: str) -> "ImageDataset":
    """The data set whose test split a final run is tested on. Nothing is read yet.

    Raises:
        UserError: there is none of that name, or models of the one can't be tested on the other.
    """
    from raymeta.problems.images.store import ImageDataset

    cls, problem = registry.find("dataset", name), ""
    if not issubclass(cls, ImageDataset):
        problem = "which is not made of images"
    elif cls.has_source:
        problem = "which is not named by itself but by a folder: only data sets without task.source can be tested on"
    elif name == own.name:
        problem = "which is the task's own data set: leave it out"
    elif cls.input_shape[0] not in (1, own.input_shape[0]):
        problem = f"whose images are colour: models of {own.name} take grey ones"
    if problem:
        raise UserError(f"task.test_dataset: found '{name}', {problem}")
    task = own.task.model_copy(update={"dataset": name, "split": None, "source": None, "test_dataset": None})
    other: ImageDataset = cls(task)
    if other.folder == own.folder:
        raise UserError(
            f"task.test_dataset: found '{name}', whose images are those of {own.name}: its test classes may be "
            "among those trained on"
        )
    return other


def fitted(pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images [..., c, h, w] as images [..., C, H, W]: resized by Pillow's bilinear filter, and grey ones replicated.

    The filter is a triangle as wide as a pixel of the smaller of the two images, so nothing aliases. Images of another
    aspect ratio are squeezed.

    Args:
        pixels: c is 1 or C.
        shape: (C, H, W).
    """
    channels, height, width = shape
    if pixels.shape[-2:] != (height, width):
        planes = pixels.reshape(-1, *pixels.shape[-2:])
        # Pillow and not torch: its whole-number arithmetic gives the same pixels on every machine.
        resized = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)) for plane in planes
        ]
        pixels = np.stack(resized).reshape(*pixels.shape[:-2], height, width)
    return pixels if pixels.shape[-3] == channels else pixels.repeat(channels, axis=-3)
