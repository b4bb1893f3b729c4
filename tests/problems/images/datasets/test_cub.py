"""CUB-200-2011 on small trees in the published layout, whole and damaged."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from photos import dataset, write_photo
from PIL import Image
from torchvision.transforms import v2

from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.datasets.cub import Cub
from raymeta.problems.images.reading.sources import Published

NAMES = [f"{number:03d}.Bird_{number}" for number in range(1, 9)]
SIZES = [3, 4, 3, 5, 4, 3, 4, 4]  # of each class


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    counts = Published({"train": 4, "validation": 2, "test": 2}, (3, 5), sum(SIZES))
    monkeypatch.setattr(Cub, "published", {"standard": counts})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Eight classes, unpacked; what else is in the published folder lies there too."""
    folder, lines = tmp_path / "tree" / "CUB_200_2011", []
    for name, size in zip(NAMES, SIZES, strict=True):
        for number in range(size):
            file = f"{name}/{name[4:]}_{number:04d}.jpg"
            lines.append(f"{len(lines) + 1} {file}")
            write_photo(folder / "images" / file, 100 + number, 90)
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(NAMES)))
    (folder / "bounding_boxes.txt").write_text("1 60.0 27.0 325.0 304.0\n")
    return tmp_path / "tree"


def packed(tree: Path, target: Path) -> Path:
    """The published archive; images are on the tape in no order."""
    target.mkdir()
    with tarfile.open(target / "CUB_200_2011.tgz", "w:gz") as tape:
        for path in sorted(tree.rglob("*"), key=lambda path: (path.name[::-1], path)):
            tape.add(path, path.relative_to(tree), recursive=False)
    return target


def test_archive_and_folders_are_the_same(tree: Path, tmp_path: Path) -> None:
    found, prints = dataset("cub"), set()
    archive = packed(tree, tmp_path / "archive")
    for root in (tree, tree / "CUB_200_2011", archive, archive / "CUB_200_2011.tgz"):
        found.prepare(root, rebuild=True)
        prints.add(found.fingerprint)
    assert len(prints) == 1


def test_splits_are_by_the_number_of_the_sorted_class(tree: Path) -> None:
    found = dataset("cub")
    found.prepare(tree)
    members = {split: [found.store.class_names[c] for c in found.store.classes(split)] for split in SPLITS}
    assert members == {"train": NAMES[::2], "validation": NAMES[1::4], "test": NAMES[3::4]}
    assert {name: int(size) for name, size in zip(found.store.class_names, found.store.sizes, strict=True)} == dict(
        zip(NAMES, SIZES, strict=True)
    )


def test_pixels_are_the_evaluation_transform(tree: Path) -> None:
    found = dataset("cub")
    found.prepare(tree)
    transform = v2.Compose([v2.Resize((96, 96)), v2.CenterCrop(84)])
    for number, name in enumerate(found.store.class_names):
        files = sorted((tree / "CUB_200_2011" / "images" / name).iterdir())
        for row, path in enumerate(files, start=found.store.starts[number]):
            with Image.open(path) as image:
                expected = np.asarray(transform(image.convert("RGB"))).transpose(2, 0, 1)
            assert (found.store.images[row] == expected).all()


def _no_list(folder: Path) -> None:
    (folder / "images.txt").unlink()


def _line_of_something_else(folder: Path) -> None:
    (folder / "images.txt").write_text("1 001.Bird_1/Bird_1_0000.jpg\nhello\n")


def _image_missing(folder: Path) -> None:
    (folder / "images" / NAMES[2] / "Bird_3_0001.jpg").unlink()


def _class_missing(folder: Path) -> None:
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(line for line in lines if NAMES[7] not in line))


def _images_unlisted(folder: Path) -> None:
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(lines[1:]))


def _not_an_image(folder: Path) -> None:
    (folder / "images" / NAMES[2] / "Bird_3_0001.jpg").write_bytes(b"GIF89a")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)


def _cut_off(folder: Path) -> None:
    archive = packed(folder.parent, folder.parents[1] / "archive") / "CUB_200_2011.tgz"
    shutil.rmtree(folder)
    (folder.parent / archive.name).write_bytes(archive.read_bytes()[:-3000])


def _not_a_tape(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder.parent / "CUB_200_2011.tgz").write_bytes(b"<html>quota exceeded</html>" * 99)


@pytest.mark.parametrize(("damage", "message"), [
    (_no_list, "CUB_200_2011: cub is not in it, which is CUB_200_2011.tgz or a folder CUB_200_2011: no images.txt"),
    (_line_of_something_else, "images.txt: line 2 is not a number and CLASS/IMAGE"),
    (_image_missing, "images.txt names 003.Bird_3/Bird_3_0001.jpg, which is not in images"),
    (_class_missing, "CUB_200_2011: the test split has 1 classes, 2 are expected"),
    (_images_unlisted, "CUB_200_2011: class '001.Bird_1' has 2 images, 3 to 5 are expected"),
    (_not_an_image, "CUB_200_2011: images/003.Bird_3/Bird_3_0001.jpg is not an image that can be read"),
    (_cut_off, "CUB_200_2011.tgz: not a tar file, or one that is cut off or damaged"),
    (_not_a_tape, "CUB_200_2011.tgz: not a tar file, or one that is cut off or damaged"),
    (_empty, "tree: cub is not in it, which is CUB_200_2011.tgz or a folder CUB_200_2011"),
])  # fmt: skip
def test_damage_is_one_sentence(tree: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(tree / "CUB_200_2011")
    with pytest.raises(UserError) as caught:
        dataset("cub").prepare(tree)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tree))
    assert "\n" not in str(caught.value)
    assert not dataset("cub").ready


def test_there_is_no_download() -> None:
    with pytest.raises(UserError) as caught:
        dataset("cub").prepare()
    assert str(caught.value).startswith("cub can't be downloaded by raymeta: get CUB-200-2011 (www.vision.caltech.edu/")
    assert str(caught.value).endswith("and name by --data-root a folder with CUB_200_2011.tgz or a folder CUB_200_2011")
