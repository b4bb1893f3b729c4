from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from traced import Traced

from raymeta.config import TaskConfig
from raymeta.data.gallery import draw_classes
from raymeta.data.sinusoid import Sinusoid
from raymeta.data.store import open_dataset
from raymeta.errors import UserError


def test_pictures_of_images_and_of_curves(traced: type[Traced], tmp_path: Path) -> None:
    sinusoid = open_dataset(TaskConfig(dataset="sinusoid", **Sinusoid.task_defaults))
    for dataset in (traced(TaskConfig()), sinusoid):
        path = tmp_path / "new" / f"{dataset.name}.png"
        draw_classes(dataset, path, classes=4, examples=3)
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10


def test_the_test_split_is_not_drawn(traced: type[Traced], tmp_path: Path) -> None:
    dataset = traced(TaskConfig())
    draw_classes(dataset, tmp_path / "before.png")
    images = np.array(dataset.store.images)
    images[dataset.store.starts[18] :] = 128
    dataset.store.images = images
    draw_classes(dataset, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()
    images[: dataset.store.starts[18]] = 128
    draw_classes(dataset, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() != (tmp_path / "after.png").read_bytes()


def test_unprepared_data_are_one_sentence(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raymeta data prepare traced"):
        draw_classes(Traced(TaskConfig()), tmp_path / "x.png")
