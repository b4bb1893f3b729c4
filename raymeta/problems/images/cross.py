"""Tests on another data set than the one trained on (`task.test_dataset`): what its images are made to be.

Training, validation and selection know the task's own data set only; a final run's tasks are of the other's test split,
in the other's default class split. As in ALFA and CxGrad grey channels are replicated and images resized to what the
model was trained on. Pixels are then scaled and standardised as the *training* images are, with the training data set's
mean and deviation or without any: a model sees the scaling that it was trained with. From miniImageNet to CUB that is
what ALFA's code does, which has ImageNet's numbers for both; CxGrad's trains on plain [0, 1] and standardises CIFAR-FS
in the test. Everything else of `task` holds as it stands: ways, shots, queries, rotations.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
