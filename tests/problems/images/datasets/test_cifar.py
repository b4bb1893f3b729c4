"""CIFAR-FS and FC100 on small trees in each layout, and on all of CIFAR-100 where the machine has it."""

import csv
import pickle
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raymeta.errors import UserError
from raymeta.problem import SPLITS, open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.datasets import cifar
from raymeta.problems.images.reading.sources import Published as Published_
from raymeta.problems.images.task import ImagesTask

REAL = Path(__file__).parents[4].parent / "shared" / "data" / "cifar100"
SIZES = {"cifarfs": {"train": 64, "validation": 16, "test": 20}, "fc100": {"train": 60, "validation": 20, "test": 20}}


def dataset(name: str) -> ImageDataset:
    found = open_problem(ImagesTask(dataset=name))
    assert isinstance(found, ImageDataset)
    return found


def members(found: ImageDataset) -> dict[str, set[str]]:
    return {split: {found.store.class_names[c] for c in found.store.classes(split)} for split in SPLITS}


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Three images of each class, the first of them from the test part: [100, 3, 32, 32, 3]."""
    monkeypatch.setattr(cifar, "PER_CLASS", 3)
    return np.random.default_rng(0).integers(0, 256, (100, 3, 32, 32, 3), np.uint8)


@pytest.fixture
def tree(pixels: np.ndarray, tmp_path: Path) -> Path:
    """As class folders."""
    for name, images in zip(cifar.CLASSES, pixels, strict=True):
        folder = tmp_path / "tree" / "cifar100" / name
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            part = f"test_{number:03d}" if number < 1 else f"train_{number:03d}"
            Image.fromarray(image).save(folder / f"{part}.png")
    return tmp_path / "tree"


class Published:
    """torchvision's class, as far as it is used: parts of the images, shuffled over the classes."""

    def __init__(self, root: str, train: bool, download: bool) -> None:
        with open(Path(root) / "cifar-100-python" / ("train" if train else "test"), "rb") as file:
            self.data, self.targets = pickle.load(file)
        self.class_to_idx = {name: 99 - number for number, name in enumerate(cifar.CLASSES)}


def as_torchvision(pixels: np.ndarray, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part, chosen in {"test": pixels[:, :1], "train": pixels[:, 1:]}.items():
        targets = np.repeat(99 - np.arange(100), chosen.shape[1])
        data = chosen.reshape(-1, 32, 32, 3)
        order = np.argsort([f"{i % chosen.shape[1]} {i}" for i in range(len(data))])  # a class's images stay in order
        (folder / part).write_bytes(pickle.dumps((data[order], targets[order].tolist())))
    module = types.ModuleType("torchvision.datasets")
    module.CIFAR100 = Published  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    return root


def test_folders_zips_and_torchvisions_layout_are_the_same(
    pixels: np.ndarray, tree: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zip").mkdir()
    shutil.make_archive(str(tmp_path / "zip" / "cifar100"), "zip", root_dir=tree, base_dir="cifar100")
    expected = pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    found = dataset("cifarfs")
    for root in (tree, tmp_path / "zip", as_torchvision(pixels, tmp_path / "torchvision", monkeypatch)):
        found.prepare(root, rebuild=True)
        assert (found.store.images == expected).all()
        assert found.store.class_names == cifar.CLASSES


def as_published(tree: Path) -> Path:
    """As CIFAR-FS is published: the class folders in a folder, lists beside it."""
    (tree / "cifar100").rename(tree / "data")
    (tree / "cifar100").mkdir()
    (tree / "data").rename(tree / "cifar100" / "data")
    (tree / "cifar100" / "splits" / "bertinetto").mkdir(parents=True)
    (tree / "cifar100" / "splits" / "bertinetto" / "train.txt").write_text("apple\n")
    return tree


def in_parts(tree: Path) -> Path:
    """As exports of torchvision's: train/CLASS and test/CLASS."""
    for path in sorted((tree / "cifar100").glob("*/*.png")):
        place = tree / "export" / path.name[: path.name.index("_")] / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    shutil.rmtree(tree / "cifar100")
    return tree


@pytest.mark.parametrize("within", ["", "cifar100", "cifar100/data"])
def test_the_published_tree_is_found_by_any_of_its_folders(
    tree: Path, cache: Path, pixels: np.ndarray, within: str
) -> None:
    found = dataset("fc100")
    found.prepare(as_published(tree) / within)
    assert (found.store.images == pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)).all()


def test_train_and_test_folders_are_put_together(tree: Path, cache: Path, pixels: np.ndarray) -> None:
    found = dataset("cifarfs")
    found.prepare(in_parts(tree))
    assert (found.store.images == pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(("name", "file"), [
    ("cifarfs", "CIFAR_FS_{}.pickle"), ("fc100", "FC100_{}.pickle"), ("cifarfs", "CIFAR-FS-{}.pkl"),
])  # fmt: skip
def test_pickles_of_a_split_have_a_store_of_their_own(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    counts = {"train": 3, "validation": 2, "test": 2}
    kind = type(dataset(name))
    monkeypatch.setattr(kind, "published", {dataset(name).split: Published_(counts, (2, 2), 14)})
    generator, root = np.random.default_rng(0), tmp_path / "root" / "any"
    root.mkdir(parents=True)
    images = {split: generator.integers(0, 256, (2 * count, 32, 32, 3), np.uint8) for split, count in counts.items()}
    for split, word in {"train": "train", "validation": "val", "test": "test"}.items():
        content = {b"data": images[split], "labels": [7 + row // 2 for row in range(len(images[split]))]}
        (root / file.format(word)).write_bytes(pickle.dumps(content, 2))
    found = dataset(name)
    found.prepare(root.parent)
    assert found.describe()["classes"] == counts
    assert (found.store.images == np.concatenate(list(images.values())).transpose(0, 3, 1, 2)).all()
    assert dataset(name).ready
    other = dataset("fc100" if name == "cifarfs" else "cifarfs")
    assert not other.ready
    monkeypatch.undo()
    monkeypatch.setenv("RAYMETA_CACHE", str(cache))
    with pytest.raises(UserError, match=r"root: the train split has 3 classes, 6[04] are expected$"):
        dataset(name).prepare(root.parent, rebuild=True)


def test_both_data_sets_share_the_images_and_no_split_a_class(tree: Path, cache: Path) -> None:
    one, other = dataset("cifarfs"), dataset("fc100")
    one.prepare(tree)
    assert other.ready
    assert one.folder == other.folder
    for name, found in {"cifarfs": one, "fc100": other}.items():
        assert found.describe()["classes"] == SIZES[name]
        assert set.union(*members(found).values()) == set(cifar.CLASSES)
    parts = members(other)
    for classes in cifar.SUPERCLASSES.values():
        assert sum(bool(parts[split] & set(classes.split())) for split in SPLITS) == 1


def test_pixels_are_standardised(tree: Path, cache: Path, pixels: np.ndarray) -> None:
    found = open_problem(ImagesTask(dataset="cifarfs", shots=1, queries=2))
    found.prepare(tree)
    x = found.bank("train", 0).draw(0, 1).support.x[0, 0]
    raw = (x.numpy() * np.array(cifar.CifarFS.std)[:, None, None] + np.array(cifar.CifarFS.mean)[:, None, None]) * 255
    source = pixels.transpose(0, 1, 4, 2, 3).reshape(-1, 3, 32, 32)
    assert np.abs(source - raw).max(axis=(1, 2, 3)).min() < 1e-3


def _image_missing(tree: Path) -> None:
    (tree / "cifar100" / "wolf" / "test_000.png").unlink()


def _class_missing(tree: Path) -> None:
    shutil.rmtree(tree / "cifar100" / "apple")


def _not_an_image(tree: Path) -> None:
    (tree / "cifar100" / "sea" / "test_000.png").write_bytes(b"hello")


def _cut_off_image(tree: Path) -> None:
    path = tree / "cifar100" / "sea" / "test_000.png"
    path.write_bytes(path.read_bytes()[:200])


def _other_size(tree: Path) -> None:
    Image.new("RGB", (84, 32)).save(tree / "cifar100" / "bear" / "test_000.png")


def _cut_off_zip(tree: Path) -> None:
    shutil.make_archive(str(tree / "cifar100"), "zip", root_dir=tree, base_dir="cifar100")
    shutil.rmtree(tree / "cifar100")
    archive = tree / "cifar100.zip"
    archive.write_bytes(archive.read_bytes()[:-200])


def _nothing(tree: Path) -> None:
    shutil.rmtree(tree / "cifar100")


def _damaged_pickles(tree: Path) -> None:
    shutil.rmtree(tree / "cifar100")
    (tree / "cifar-100-python").mkdir()
    (tree / "cifar-100-python" / "train").write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # torchvision checks sums first


@pytest.mark.parametrize(("damage", "message"), [
    (_image_missing, "cifar100: wolf has 2 images, 3 are expected"),
    (_class_missing, "cifar100: apple has 0 images, 3 are expected"),
    (_not_an_image, "cifar100: sea/test_000.png is not an image that can be read"),
    (_cut_off_image, "cifar100: sea/test_000.png is not an image that can be read"),
    (_other_size, "cifar100: bear/test_000.png is 84x32, 32x32 is expected"),
    (_cut_off_zip, "cifar100.zip: not a zip file, or one that is cut off or damaged"),
    (_nothing, "neither cifar100.zip nor a folder cifar100 or cifar-100-python is in it"),
    (_damaged_pickles, "cifar-100-python: incomplete or damaged"),
    (shutil.rmtree, "tree: no such folder"),
])  # fmt: skip
def test_damage_is_one_sentence(tree: Path, cache: Path, damage: Any, message: str) -> None:
    damage(tree)
    with pytest.raises(UserError) as caught:
        dataset("cifarfs").prepare(tree)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tree))
    assert "\n" not in str(caught.value)
    assert not dataset("cifarfs").ready


def test_a_failed_download_names_data_root(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: str, *, train: bool, download: bool) -> None:
        assert download
        assert Path(root).is_relative_to(cache)
        raise OSError("<urlopen error no route>")

    module = types.ModuleType("torchvision.datasets")
    module.CIFAR100 = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    with pytest.raises(UserError, match=r"could not be downloaded .*no route.*--data-root$"):
        dataset("fc100").prepare()


def test_a_missing_store_names_the_data_set(cache: Path) -> None:
    with pytest.raises(UserError, match="run `raymeta data prepare fc100`"):
        dataset("fc100").bank("train", 0)


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"CIFAR-100 is not in {REAL}")


@needs_real
def test_the_splits_are_the_published_ones() -> None:
    with open(REAL / "splits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for column, held_out in {"cifar-fs": cifar.CIFAR_FS, "fc100": cifar.FC100}.items():
        for split, key in {"train": "train", "validation": "val", "test": "test"}.items():
            expected = [row["class"] for row in rows if row[column] == key]
            assert [cifar.CLASSES[c] for c in cifar._split(held_out)[split]] == sorted(expected)
    assert {row["class"]: row["superclass"] for row in rows} == {
        one: superclass for superclass, classes in cifar.SUPERCLASSES.items() for one in classes.split()
    }


@needs_real
@pytest.mark.slow
def test_all_of_cifar100(cache: Path) -> None:
    found = dataset("cifarfs")
    found.prepare(REAL)
    images = np.asarray(found.store.images).reshape(100, 600, 3, 32, 32)
    assert found.describe()["classes"] == SIZES["cifarfs"]
    train = images[:, 100:].astype(np.float64) / 255
    np.testing.assert_allclose(train.mean((0, 1, 3, 4)), [0.5071, 0.4865, 0.4409], atol=1e-4)  # published figures
    np.testing.assert_allclose(train.std((0, 1, 3, 4)), [0.2673, 0.2564, 0.2762], atol=1e-4)
