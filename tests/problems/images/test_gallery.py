from pathlib import Path

import numpy as np
import pytest
from photos import class_tree
from PIL import Image
from traced import Traced

from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.images import gallery
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.gallery import draw_classes
from raymeta.problems.images.task import ImagesTask
from raymeta.problems.sinusoid import SinusoidTask


def test_pictures_of_images_and_of_curves(traced: type[Traced], tmp_path: Path) -> None:
    small = tmp_path / "new" / "small.png"
    draw_classes(traced(ImagesTask()), small, classes=4, examples=3)
    for shown in (traced(ImagesTask()), open_problem(SinusoidTask())):
        shown.picture(tmp_path / "new" / f"{shown.name}.png")
    for path in (small, tmp_path / "new" / "traced.png", tmp_path / "new" / "sinusoid.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10


def test_the_test_split_is_not_drawn(traced: type[Traced], tmp_path: Path) -> None:
    shown = traced(ImagesTask())
    draw_classes(shown, tmp_path / "before.png")
    images = np.array(shown.store.images)
    images[shown.store.starts[18] :] = 128
    shown.store.images = images
    draw_classes(shown, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()
    images[: shown.store.starts[18]] = 128
    draw_classes(shown, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() != (tmp_path / "after.png").read_bytes()


def test_unprepared_data_are_one_sentence(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raymeta data prepare traced"):
        draw_classes(Traced(ImagesTask()), tmp_path / "x.png")


def test_the_task_beside_the_classes_is_a_training_episode(
    traced: type[Traced], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(
        gallery, "_draw_sheet", lambda axis, rows, title, columns, names=(): sheets.append((rows, title))
    )
    task = ImagesTask(ways=3, shots=2, queries=4)
    draw_classes(traced(task), tmp_path / "x.png")
    (*_, (rows, title)) = sheets
    assert title == "a training task: 2 support, 4 query"
    seen = np.stack(rows)[:, :, 0, 0]  # [ways, K + gap + Q, 2]: class and number of each image
    expected = traced(task).bank("train", 0).draw(0, 1)
    for columns, x in ((slice(0, 2), expected.support.x), (slice(3, 7), expected.query.x)):
        assert (seen[:, columns] == (x[0, :, 0, 0] * 255).round().reshape(3, -1, 2).numpy()).all()


def test_a_task_that_the_data_are_too_few_for_is_drawn_smaller(traced: type[Traced], tmp_path: Path) -> None:
    draw_classes(traced(ImagesTask(ways=50, shots=30, queries=30)), tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_classes_without_a_query_are_drawn_empty(cache: Path, tmp_path: Path) -> None:
    class_tree(tmp_path / "few", ["cat", "dog", "eel"], 1)
    found = open_problem(ImagesTask(dataset="folder", source=str(tmp_path / "few")))
    assert isinstance(found, ImageDataset)
    found.prepare()
    draw_classes(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
