"""Photographs that never were, for small trees in the layouts of published data sets."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask

GENERATOR = np.random.default_rng(0)


def photo(width: int = 84, height: int = 84) -> Image.Image:
    """Noise of a size."""
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3), np.uint8))


def write_photo(path: Path, width: int = 84, height: int = 84) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(width, height).save(path)


def class_tree(folder: Path, classes: Iterable[str], images: int, suffix: str = ".png") -> None:
    """Class folders with images `1.png` and so on."""
    for name in classes:
        for number in range(1, images + 1):
            write_photo(folder / name / f"{number}{suffix}")


def dataset(name: str, **task: object) -> ImageDataset:
    """A data set, as a task opens it."""
    found = open_problem(ImagesTask.model_validate({"dataset": name, **task}))
    assert isinstance(found, ImageDataset)
    return found
