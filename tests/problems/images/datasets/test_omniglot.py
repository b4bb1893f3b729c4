"""Omniglot on small trees in the published layout, and on the real archives where the machine has them."""

import json
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raymeta.errors import UserError
from raymeta.problem import SPLITS, open_problem
from raymeta.problems.images.check import check_dataset
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.datasets import omniglot
from raymeta.problems.images.reading.packing import Packed, build_store
from raymeta.problems.images.task import ImagesTask

REAL = Path(__file__).parents[4].parent / "shared" / "data" / "omniglot"
PARTS = {"images_background": 3, "images_evaluation": 2}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five characters of three alphabets, unpacked: black strokes on white, one bit, 105x105."""
    generator = np.random.default_rng(0)
    characters = [
        ("images_background", "Aleph", 1), ("images_background", "Aleph", 2), ("images_background", "Beth", 1),
        ("images_evaluation", "Gimel", 1), ("images_evaluation", "Gimel", 2),
    ]  # fmt: skip
    for part, alphabet, number in characters:
        folder = tmp_path / "tree" / part / alphabet / f"character{number:02d}"
        folder.mkdir(parents=True)
        for drawer in range(1, 21):
            pixels = np.full((105, 105), 255, np.uint8)
            top, left = generator.integers(10, 60, 2)
            pixels[top : top + 30, left : left + 5] = 0
            Image.fromarray(pixels).convert("1").save(folder / f"{number:04d}_{drawer:02d}.png")
    return tmp_path / "tree"


def zipped(tree: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for part in PARTS:
        shutil.make_archive(str(target / part), "zip", root_dir=tree, base_dir=part)
    return target


def pack(root: Path) -> tuple[list[str], np.ndarray]:
    return omniglot.pack(root, PARTS, lambda done, total: None)


def test_zips_trees_and_torchvisions_layout_are_the_same(tree: Path, tmp_path: Path) -> None:
    names, images = pack(tree)
    assert names == [
        "images_background/Aleph/character01", "images_background/Aleph/character02",
        "images_background/Beth/character01", "images_evaluation/Gimel/character01",
        "images_evaluation/Gimel/character02",
    ]  # fmt: skip
    assert images.shape == (100, 1, 28, 28)
    shutil.copytree(tree, tmp_path / "torchvision" / "omniglot-py")
    for root in (
        zipped(tree, tmp_path / "zips"),
        zipped(tree, tmp_path / "both" / "omniglot-py").parent,
        tmp_path / "torchvision",
    ):
        other_names, other = pack(root)
        assert other_names == names
        assert (other == images).all()


def test_drawings_are_grey_with_ink_high_in_drawers_order(tree: Path) -> None:
    _, images = pack(tree)
    assert images.max() > 200
    assert np.median(images) == 0
    assert len(np.unique(images)) > 10  # nearest-neighbour scaling would leave two
    with Image.open(tree / "images_background" / "Beth" / "character01" / "0001_07.png") as image:
        ink = np.argwhere(~np.asarray(image)).mean(0) * 28 / 105
    drawn = images[2 * 20 + 6, 0].astype(float)
    centre = np.array([(np.indices((28, 28))[axis] * drawn).sum() / drawn.sum() for axis in (0, 1)])
    assert abs(centre - ink).max() < 0.6


def merged(tree: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All alphabets in one folder, and a list of other people's beside it."""
    monkeypatch.setattr(omniglot, "EVALUATED", {"Gimel"})
    for part in PARTS:
        shutil.copytree(tree / part, target / "data", dirs_exist_ok=True)
    (target / "splits" / "vinyals").mkdir(parents=True)
    (target / "splits" / "vinyals" / "train.txt").write_text("Aleph/character01/rot000\n")
    return target


def test_merged_alphabets_and_other_folders_are_the_same(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, images = pack(tree)
    together = merged(tree, tmp_path / "omniglot", monkeypatch)
    shutil.copytree(tree, tmp_path / "repository" / "python")
    shutil.copytree(tree / "images_background", tmp_path / "repository" / "python" / "images_background_small1")
    shutil.make_archive(str(tmp_path / "all"), "zip", together)
    for root in (
        together,
        together / "data",
        tmp_path / "all.zip",
        tmp_path / "repository",
        zipped(tree, tmp_path / "zips" / "python").parent,
    ):
        other_names, other = pack(root)
        assert other_names == names
        assert (other == images).all()
    shutil.rmtree(together / "data" / "Gimel" / "character01")
    with pytest.raises(UserError, match=r"omniglot/data: 4 characters, Omniglot has 5$"):
        pack(together)


def _cut_off(tree: Path) -> None:
    root = zipped(tree, tree.parent / "zips")
    archive = root / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    shutil.rmtree(tree)
    root.rename(tree)


def _damaged(tree: Path) -> None:
    root = zipped(tree, tree.parent / "zips")
    archive = root / "images_evaluation.zip"
    with zipfile.ZipFile(archive) as zip_file:
        member = zip_file.getinfo("images_evaluation/Gimel/character01/0001_03.png")
    data = bytearray(archive.read_bytes())
    middle = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    data[middle : middle + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(data)
    shutil.rmtree(tree)
    root.rename(tree)


def _drawing_missing(tree: Path) -> None:
    (tree / "images_background" / "Beth" / "character01" / "0001_07.png").unlink()


def _character_missing(tree: Path) -> None:
    shutil.rmtree(tree / "images_background" / "Beth")


def _no_png(tree: Path) -> None:
    (tree / "images_background" / "Beth" / "character01" / "0001_07.png").write_bytes(b"hello")


def _two_no_png(tree: Path) -> None:
    _no_png(tree)
    (tree / "images_background" / "Beth" / "character01" / "0001_09.png").write_bytes(b"")


def _part_missing(tree: Path) -> None:
    shutil.rmtree(tree / "images_evaluation")


@pytest.mark.parametrize(("damage", "message"), [
    (_cut_off, "images_evaluation.zip: not a zip file, or one that is cut off or damaged"),
    (_damaged, "images_evaluation.zip: not a zip file, or one that is cut off or damaged"),
    (_drawing_missing, "images_background: images_background/Beth/character01 has 19 drawings, 20 are expected"),
    (_character_missing, "images_background: 2 characters, images_background has 3"),
    (_no_png, "images_background/Beth/character01/0001_07.png is not an image that can be read"),
    (_two_no_png, "2 pictures are not images that can be read: images_background/Beth/character01/0001_07.png, i"),
    (_part_missing, "neither images_evaluation.zip nor a folder images_evaluation is in it"),
    (shutil.rmtree, "tree: no such folder"),
])  # fmt: skip
def test_damage_is_one_sentence(tree: Path, damage: Any, message: str) -> None:
    damage(tree)
    with pytest.raises(UserError) as caught:
        pack(tree)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tree))
    assert "\n" not in str(caught.value)


def test_a_failed_download_names_data_root(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: str, *, background: bool, download: bool) -> None:
        assert download
        assert Path(root).is_relative_to(cache)
        raise OSError("<urlopen error no route>")

    module = types.ModuleType("torchvision.datasets")
    module.Omniglot = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    with pytest.raises(UserError, match=r"could not be downloaded .*no route.*--data-root$"):
        open_problem(ImagesTask(dataset="omniglot")).prepare()


@pytest.fixture
def full(cache: Path) -> Path:
    """A store of as many characters as the published one, with two blank drawings each, in the splits that it lists."""
    dataset = open_problem(ImagesTask(dataset="omniglot"))
    assert isinstance(dataset, ImageDataset)
    splits = {name: omniglot._split(omniglot._shuffled(1623), omniglot.SIZES[name]) for name in omniglot.PACKED}
    content = Packed(np.zeros((3246, 1, 28, 28), np.uint8), [f"{i}" for i in range(1623)], [2] * 1623, splits)
    build_store(dataset.folder, dataset._about(), lambda scratch: content, rebuild=False)
    return dataset.folder


def test_class_splits_by_name(full: Path) -> None:
    kept = json.loads((full / "meta.json").read_text())
    assert list(kept["splits"]) == ["finn", "vinyals"]  # others would change the fingerprint
    fingerprints = {}
    for name, sizes in {"finn": (1100, 100, 423), "vinyals": (1028, 172, 423), "mamlpp": (1150, 50, 423)}.items():
        dataset = open_problem(ImagesTask(dataset="omniglot", split=name))
        assert isinstance(dataset, ImageDataset)
        members = [dataset.store.classes(split) for split in SPLITS]
        assert tuple(map(len, members)) == sizes
        assert sorted(np.concatenate(members)) == list(range(1623))
        fingerprints[name] = dataset.fingerprint
        assert dataset.describe()["fingerprint"] == dataset.fingerprint
        if name == "mamlpp":
            order = np.random.RandomState(0).permutation(1623)
            assert [sorted(order[:1150]), sorted(order[1150:1200])] == [sorted(one) for one in members[:2]]
    assert fingerprints["finn"] == fingerprints["vinyals"] == kept["fingerprint"]
    assert fingerprints["mamlpp"] != kept["fingerprint"]
    assert len(fingerprints["mamlpp"]) == 64


@pytest.mark.parametrize(("split", "classes"), [("train", 4112), ("validation", 688), ("test", 1692)])
def test_turned_characters_of_vinyals_and_snell(full: Path, split: Any, classes: int) -> None:
    task = ImagesTask(dataset="omniglot", split="vinyals", rotations="classes", queries=1, ways=classes)
    assert open_problem(task).bank(split, 0, final=True).draw(0, 1).support.x.shape[1] == classes
    with pytest.raises(UserError, match=f"of omniglot \\(vinyals\\) has {classes} classes"):
        open_problem(task.model_copy(update={"ways": classes + 1})).bank(split, 0, final=True)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the Omniglot archives are not in {REAL}")
def test_the_real_archives(cache: Path) -> None:
    task = ImagesTask(dataset="omniglot", rotations="always")
    dataset = open_problem(task)
    dataset.prepare(REAL)
    assert isinstance(dataset, ImageDataset)
    assert dataset.describe()["classes"] == {"train": 1100, "validation": 100, "test": 423}
    assert dataset.store.images.shape == (32460, 1, 28, 28)
    assert (dataset.store.sizes == 20).all()
    assert sorted(np.concatenate([dataset.store.classes(split) for split in SPLITS])) == list(range(1623))
    vinyals = open_problem(task.model_copy(update={"split": "vinyals"}))
    assert vinyals.describe()["classes"] == {"train": 1028, "validation": 172, "test": 423}
    assert vinyals.fingerprint == dataset.fingerprint
    mamlpp = open_problem(task.model_copy(update={"split": "mamlpp"}))
    assert mamlpp.describe()["classes"] == {"train": 1150, "validation": 50, "test": 423}
    assert all(finding.ok for finding in check_dataset(dataset))
    episodes = dataset.bank("train", 0).draw(0, 20)
    assert 0.02 < float(episodes.query.x.mean()) < 0.2  # ink is high and sparse
    assert float(episodes.query.x.max()) == 1
