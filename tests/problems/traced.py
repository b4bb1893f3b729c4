"""A small data set whose pixels say where they come from."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress

CLASSES, IMAGES = 23, 20


class Traced(ImageDataset):
    """Images are [[class, number], [201, 202]]: class, image and turn can be read off an episode."""

    name: ClassVar[str] = "traced"
    input_shape: ClassVar[tuple[int, ...]] = (1, 2, 2)

    def build(self, root: Path | None, progress: Progress) -> Packed:
        images = np.empty((CLASSES, IMAGES, 1, 2, 2), np.uint8)
        images[:, :, 0, 0, 0] = np.arange(CLASSES)[:, None]
        images[:, :, 0, 0, 1] = np.arange(IMAGES)
        images[:, :, 0, 1] = 201, 202
        split = {"train": range(13), "validation": range(13, 18), "test": range(18, 23)}
        names = [f"class {i}" for i in range(CLASSES)]
        return Packed(images.reshape(-1, 1, 2, 2), names, [IMAGES] * CLASSES, {"standard": split})
