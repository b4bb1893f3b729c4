"""A small data set whose pixels say where they come from, and the embedded one, built once a session."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from raymeta.config import TaskConfig
from raymeta.data.packing import Packed, Progress
from raymeta.data.store import ImageDataset, open_dataset

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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that stays for the session; don't damage what is in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RAYMETA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def traced(session_cache: Path) -> type[Traced]:
    """`traced(task)` is a prepared data set."""
    Traced(TaskConfig()).prepare()
    return Traced


@pytest.fixture(scope="session")
def glyphs(session_cache: Path) -> ImageDataset:
    """The embedded data set, prepared."""
    dataset = open_dataset(TaskConfig(dataset="glyphs"))
    assert isinstance(dataset, ImageDataset)
    dataset.prepare()
    return dataset
