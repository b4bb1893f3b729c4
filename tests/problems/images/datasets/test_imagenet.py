"""miniImageNet and tieredImageNet on small trees in each published layout, whole and damaged."""

import io
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photos import class_tree, dataset
from PIL import Image

from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.datasets.imagenet import MiniImageNet, TieredImageNet
from raymeta.problems.images.reading.sources import Published

MINI = {"train": ["n01", "n04", "n05"], "val": ["n02", "n06"], "test": ["n03", "n07"]}
PER_CLASS = 4
SMALL = {"standard": Published({"train": 3, "validation": 2, "test": 2}, (PER_CLASS, PER_CLASS), 7 * PER_CLASS)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for kind in (MiniImageNet, TieredImageNet):
        monkeypatch.setattr(kind, "published", SMALL)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders in train, val and test."""
    for split, classes in MINI.items():
        class_tree(tmp_path / "folders" / split, classes, PER_CLASS)
    return tmp_path / "folders"


def pixels(folders: Path) -> dict[str, list[np.ndarray]]:
    """Class to its images, [84, 84, 3], in the order of their names."""
    return {
        name: [np.asarray(Image.open(path)) for path in sorted((folders / split / name).iterdir())]
        for split, classes in MINI.items() for name in classes
    }  # fmt: skip


def as_csv(folders: Path, root: Path) -> Path:
    """The split of Ravi and Larochelle: all images in one folder, a list for each split."""
    for split, classes in MINI.items():
        rows = ["filename,label"]
        for name in classes:
            for path in sorted((folders / split / name).iterdir()):
                rows.append(f"{name}0000{path.name},{name}")
                (root / "images").mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / "images" / f"{name}0000{path.name}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


def as_caches(folders: Path, root: Path, protocol: int = 2) -> Path:
    """Pickles of arrays, as Ren et al. published them from Python 2."""
    root.mkdir()
    for split, classes in MINI.items():
        images = np.stack([image for name in classes for image in pixels(folders)[name]])
        places = {name: list(range(i * PER_CLASS, (i + 1) * PER_CLASS)) for i, name in enumerate(classes)}
        content = pickle.dumps({"image_data": images, "class_dict": places}, protocol)
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(content)
    return root


def as_category_split(folders: Path, root: Path) -> Path:
    """Pickles of arrays and labels, as Gidaris and Komodakis; images of a class aren't together."""
    root.mkdir()
    for number, (split, classes) in enumerate(MINI.items()):
        images = np.stack([pixels(folders)[name][i] for i in range(PER_CLASS) for name in classes])
        labels = [10 * number + i for i in range(len(classes))] * PER_CLASS
        names = {name: 10 * number + i for i, name in enumerate(classes)}
        part = "train_phase_train" if split == "train" else split
        content = {"data": images, "labels": labels, "catname2label": names}
        (root / f"miniImageNet_category_split_{part}.pickle").write_bytes(pickle.dumps(content))
    return root


def zipped(folders: Path, root: Path) -> Path:
    """MAML++'s archive: one folder with train, val and test in it."""
    shutil.copytree(folders, root / "mini_imagenet_full_size")
    shutil.make_archive(str(root / "mini_imagenet_full_size"), "zip", root, "mini_imagenet_full_size")
    shutil.rmtree(root / "mini_imagenet_full_size")
    return root


def tarred(folders: Path, root: Path) -> Path:
    """The same as a compressed tape, itself given as the root."""
    root.mkdir()
    with tarfile.open(root / "mini.tar.gz", "w:gz") as tape:
        tape.add(folders, "anything")
    return root / "mini.tar.gz"


def tiered(folders: Path, root: Path, as_npz: bool = False) -> Path:
    """Labels and PNG files, or pixels, of each split; the labels are numbers of the split's own list of names."""
    root.mkdir()
    for split, classes in MINI.items():
        images = [pixels(folders)[name][i] for i in range(PER_CLASS) for name in reversed(classes)]
        labels = np.array(list(reversed(range(len(classes)))) * PER_CLASS)
        about = {"label_specific": labels, "label_specific_str": classes, "label_general": labels * 0}
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(about, 2))
        if as_npz:
            np.savez_compressed(root / f"{split}_images.npz", images=np.stack(images))
        else:
            pngs = [np.frombuffer(png(image), np.uint8)[:, None] for image in images]
            (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps(pngs, 2))
    return root


def tiered_npz(folders: Path, root: Path) -> Path:
    return tiered(folders, root, as_npz=True)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def in_class_folders(folders: Path, root: Path) -> Path:
    """The lists beside class folders, as images unpacked from ImageNet are kept."""
    for path in as_csv(folders, root).glob("images/*"):
        (root / path.name[:3]).mkdir(exist_ok=True)
        path.rename(root / path.name[:3] / path.name)
    (root / "images").rmdir()
    return root


def in_a_split_folder(folders: Path, root: Path) -> Path:
    """The lists in a folder of their own, with other names, and the images as an archive."""
    as_csv(folders, root)
    (root / "splits").mkdir()
    for name, new in {"train": "Train", "val": "validation", "test": "Test"}.items():
        (root / f"{name}.csv").rename(root / "splits" / f"{new}.csv")
    shutil.make_archive(str(root / "images"), "zip", root, "images")
    shutil.rmtree(root / "images")
    return root


def in_capitals(folders: Path, root: Path) -> Path:
    """Train, Val and Test in two folders."""
    for split in MINI:
        shutil.copytree(folders / split, root / "archive" / "mini" / split.title())
    return root


def only_archive(folders: Path, root: Path) -> Path:
    """An archive of any name."""
    root.mkdir()
    shutil.make_archive(str(root / "download-1"), "zip", folders)
    return root


def wrapped_caches(folders: Path, root: Path) -> Path:
    """Pickles in a folder, with `validation` in the name of one."""
    as_caches(folders, root)
    (root / "some name").mkdir()
    for path in root.glob("*.pkl"):
        path.rename(root / "some name" / path.name.replace("-val", "-validation"))
    return root


Layout = Callable[[Path, Path], Path]
LAYOUTS = [
    ("miniimagenet", in_class_folders), ("miniimagenet", in_a_split_folder), ("miniimagenet", in_capitals),
    ("miniimagenet", only_archive), ("miniimagenet", wrapped_caches),
    ("miniimagenet", as_csv), ("miniimagenet", as_caches), ("miniimagenet", as_category_split),
    ("miniimagenet", zipped), ("miniimagenet", tarred), ("miniimagenet", lambda folders, root: folders),
    ("tieredimagenet", tiered), ("tieredimagenet", tiered_npz), ("tieredimagenet", lambda folders, root: folders),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_layout_gives_the_same_images_and_classes(
    folders: Path, tmp_path: Path, name: str, layout: Layout
) -> None:
    found, steps = dataset(name), []
    found.prepare(layout(folders, tmp_path / "root"), lambda done, total: steps.append((done, total)))
    assert steps == [(i, 28) for i in range(1, 29)]
    store, images = found.store, pixels(folders)
    assert [[store.class_names[c] for c in store.classes(split)] for split in SPLITS] == list(MINI.values())
    assert store.meta["layout"].startswith("3 / 2 / 2 classes, 4 images each, split by ")
    for number, one in enumerate(store.class_names):
        packed = store.images[store.starts[number] : store.starts[number] + PER_CLASS]
        assert (packed == np.stack(images[one]).transpose(0, 3, 1, 2)).all()


def test_pixels_are_standardised_as_imagenets(folders: Path) -> None:
    found = dataset("miniimagenet", ways=2, shots=1, queries=2)
    found.prepare(folders)
    raw = found.store.images[:1]
    expected = (torch.tensor(raw) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    torch.testing.assert_close(torch.from_numpy(found.store.scaled(raw)), expected)
    assert found.bank("train", 0).draw(0, 3).support.x.shape == (3, 2, 3, 84, 84)


def test_photographs_of_any_size_and_kind_are_squeezed(folders: Path) -> None:
    for path in (folders / "val" / "n02").iterdir():
        path.unlink()
    for number, (mode, suffix) in enumerate([("RGB", ".JPEG"), ("L", ".jpg"), ("P", ".gif"), ("RGBA", ".webp")]):
        image = Image.new("RGB", (300, 90), "red")
        image.paste("blue", (150, 0, 300, 90))
        image.convert(mode).save(folders / "val" / "n02" / f"{number}{suffix}")
    found = dataset("miniimagenet")
    found.prepare(folders)
    first = found.store.starts[found.store.class_names.index("n02")]
    for image in found.store.images[[first, first + 2, first + 3]]:
        assert np.abs(image[:, :, :38].mean((1, 2)) - [255, 0, 0]).max() < 3
        assert np.abs(image[:, :, 46:].mean((1, 2)) - [0, 0, 255]).max() < 3


def test_a_class_with_too_few_images_for_an_episode_is_named(folders: Path) -> None:
    found = dataset("miniimagenet", ways=2, shots=1, queries=4)
    found.prepare(folders)
    with pytest.raises(UserError, match=r"1 shots and 4 queries are 5 images per class, but class 'n01' .* has 4$"):
        found.bank("train", 0)


# What can be wrong


class Evil:
    """Writes a file when a plain pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the content of a pickle in the root."""

    def damage(root: Path) -> None:
        content = pickle.loads((root / name).read_bytes())
        (root / name).write_bytes(pickle.dumps(change(content)))

    return damage


def cut(name: str, end: int = -200) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:end])

    return damage


def text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_text(change((root / name).read_text()))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return damage


def move(name: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).rename(root / new)

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_bytes(content)

    return damage


def unnamed(root: Path) -> None:
    with zipfile.ZipFile(root / "train_images.npz", "w") as archive:
        archive.writestr("other.npy", b"")


def cut_npz(root: Path) -> None:
    """A sound archive around an array that is not whole."""
    file = io.BytesIO()
    np.save(file, np.zeros((12, 84, 84, 3), np.uint8))
    with zipfile.ZipFile(root / "train_images.npz", "w") as archive:
        archive.writestr("images.npy", file.getvalue()[:-100])


def copied(folders: Path, root: Path) -> Path:
    return Path(shutil.copytree(folders, root))


TRAIN, MINI_TRAIN = "mini-imagenet-cache-train.pkl", "miniImageNet_category_split_train_phase_train.pickle"
WRONG: list[tuple[str, Layout, Callable[[Path], None], str]] = [
    ("miniimagenet", as_csv, remove("val.csv"), "train.csv and test.csv name no validation class: put folders"),
    ("miniimagenet", as_csv, remove("images"), "miniimagenet is not in it, which is images and the lists train.csv"),
    ("miniimagenet", as_csv, remove("images/n0400002.png"), "line 7 names n0400002.png, which is not there"),
    ("miniimagenet", as_csv, text("val.csv", lambda t: t.replace(",n", ",").replace(".png", "")[:-9] + "9"),
     "val.csv: line 9 names n069, which is not there"),
    ("miniimagenet", as_csv, text("val.csv", lambda t: t + t.splitlines()[-1]), "names n0600004.png a second time"),
    ("miniimagenet", as_csv, text("val.csv", lambda t: t.replace(",n06", ",n01")),
     "class 'n01' is in the train split and the validation split: a split for few-shot"),
    ("miniimagenet", as_csv, write("val.csv", b"\xff\xfe\x00"), "val.csv says splits by its name, but it is no text"),
    ("miniimagenet", as_caches, cut(TRAIN), f"{TRAIN}: not a pickle, or one that is cut off or damaged ("),
    ("miniimagenet", as_caches, write(TRAIN, b"hello"), f"{TRAIN}: not a pickle, or one that is cut off or damaged ("),
    ("miniimagenet", as_caches, remove("mini-imagenet-cache-test.pkl"),
     "mini-imagenet-cache-val.pkl is there, but no mini-imagenet-cache-test.pkl"),
    ("miniimagenet", as_caches, write(TRAIN, pickle.dumps([1])), f"{TRAIN}: expected a mapping, found list"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: {"x": 1}), "no 'class_dict' and no 'labels' in it, but x"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: {"class_dict": c["class_dict"]}), "no 'image_data' in it"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: c | {"image_data": c["image_data"][:, :80]}),
     "its images are uint8 [12, 80, 84, 3], uint8 [n, 84, 84, 3] is expected"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: c | {"image_data": c["image_data"] / 255}),
     "its images are float64 [12, 84, 84, 3], uint8 [n, 84, 84, 3] is expected"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: c | {"image_data": c["image_data"][1:]}),
     "its 3 classes don't have each of its 11 images once"),
    ("miniimagenet", as_caches, edit(TRAIN, lambda c: c | {"class_dict": {"n01": ["a"]}}),
     "its labels are no list of whole numbers"),
    ("miniimagenet", as_category_split, edit(MINI_TRAIN, lambda c: c | {"labels": c["labels"][1:]}),
     "its 3 classes don't have each of its 12 images once"),
    ("miniimagenet", copied, remove("train/n04"), "the train split has 2 classes, 3 are expected"),
    ("miniimagenet", copied, remove("test/n07/2.png"), "class 'n07' has 3 images, 4 are expected"),
    ("miniimagenet", copied, move("val/n06", "val/n01"), "class 'n01' is in train/ and val/: a split for few"),
    ("miniimagenet", copied, write("val/n06/1.png", b"hello"), "val/n06/1.png is not an image that can be read"),
    ("miniimagenet", copied, cut("val/n06/1.png"), "val/n06/1.png is not an image that can be read"),
    ("miniimagenet", zipped, cut("mini_imagenet_full_size.zip"), "full_size.zip: not a zip file, or one that is cut"),
    ("miniimagenet", zipped, remove("mini_imagenet_full_size.zip"), "miniimagenet is not in it, which is images and"),
    ("miniimagenet", copied, shutil.rmtree, "root: no such folder"),
    ("tieredimagenet", tiered, edit("val_labels.pkl", lambda c: {}), "no 'label_specific' and no 'labels' in it"),
    ("tieredimagenet", tiered, edit("val_labels.pkl", lambda c: c | {"label_specific_str": ["x", "x"]}),
     "val_labels.pkl: two labels have one name"),
    ("tieredimagenet", tiered, edit("val_images_png.pkl", lambda c: c[:-1]), "7 images, but labels of 8"),
    ("tieredimagenet", tiered, edit("val_images_png.pkl", lambda c: [*c, c[0]]), "9 images, but labels of 8"),
    ("tieredimagenet", tiered, edit("val_images_png.pkl", lambda c: [c[0], c[1][:90], *c[2:]]),
     "val_images_png.pkl: image 1 is not an image that can be read"),
    ("tieredimagenet", tiered, edit("val_images_png.pkl", lambda c: "x"), "expected a list of PNG files, found str"),
    ("tieredimagenet", tiered_npz, cut("test_images.npz"), "test_images.npz: not a zip file, or one that is cut off"),
    ("tieredimagenet", tiered_npz, cut_npz, "train_images.npz: cut off within image 11"),
    ("tieredimagenet", tiered_npz, unnamed, "train_images.npz: no array 'images' in it"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "damage", "message"), WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_damage_is_one_sentence(
    folders: Path, tmp_path: Path, name: str, layout: Layout, damage: Callable[[Path], None], message: str
) -> None:
    root = layout(folders, tmp_path / "root")
    damage(root)
    with pytest.raises(UserError) as caught:
        dataset(name).prepare(root)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(root))
    assert "\n" not in str(caught.value)
    assert not dataset(name).ready


def test_a_cut_off_tape_is_one_sentence(folders: Path, tmp_path: Path) -> None:
    tape = tarred(folders, tmp_path / "root")
    tape.write_bytes(tape.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"mini.tar.gz: not a tar file, or one that is cut off or damaged"):
        dataset("miniimagenet").prepare(tape)


def test_there_is_no_download() -> None:
    with pytest.raises(UserError) as caught:
        dataset("miniimagenet").prepare()
    assert str(caught.value).startswith("miniimagenet can't be downloaded by raymeta: get miniImageNet in the split of")
    assert "yourself and name by --data-root a folder with images and" in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_executes_nothing(folders: Path, tmp_path: Path, protocol: int) -> None:
    root, victim = as_caches(folders, tmp_path / "root"), tmp_path / "written"
    evil = pickle.dumps({"image_data": Evil(victim), "class_dict": {}}, protocol)
    pickle.loads(evil)
    assert victim.exists()
    victim.unlink()
    (root / TRAIN).write_bytes(evil)
    with pytest.raises(UserError, match=r"train.pkl: it names \w+.open; a pickle may hold arrays and plain containers"):
        dataset("miniimagenet").prepare(root)
    assert not victim.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(folders: Path, tmp_path: Path, protocol: int) -> None:
    found = dataset("miniimagenet")
    found.prepare(as_caches(folders, tmp_path / "root", protocol))
    assert (found.store.images[0] == pixels(folders)["n01"][0].transpose(2, 0, 1)).all()
