"""CIFAR-100 (Krizhevsky, 2009) under the two class splits of the field: 100 classes of 600 colour images, 32x32.

    cifarfs   64 / 16 / 20 classes (Bertinetto, Henriques, Torr, Vedaldi, 2019)
    fc100     60 / 20 / 20 classes, of 12 / 4 / 4 superclasses (Oreshkin, Rodriguez, Lacoste, 2018)

The training and the test images of a class are put together, as both do. The pixels are standardised with the mean and
deviation that ALFA's and CxGrad's code have. The two data sets share one store, but for pickles of the splits
(CIFAR_FS_train.pickle, FC100_train.pickle and so on: {data: [n, 32, 32, 3], labels: [n]}), which name no classes.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta import registry
from raymeta.errors import UserError, shown
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.plan import Plan, tree_at
from raymeta.problems.images.layouts.words import said
from raymeta.problems.images.reading.caches import Cache, mini_cache, pack_caches, plan_of
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import NotPlain, Why, decode, plain, unreadable
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.reading.sources import Published, check_counts, downloading, reason
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.images.reading.trios import trio
from raymeta.storage.files import cache_folder

SIDE = 32
PER_CLASS = 600
FOLDER = "cifar100"
TORCHVISION_FOLDER = "cifar-100-python"

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASS = {name: one for one, names in SUPERCLASSES.items() for name in names.split()}
CLASSES = sorted(SUPERCLASS)
CIFAR_FS = {
    "validation": "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea"
    " shark television tractor",
    "test": "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table"
    " telephone wardrobe whale woman worm",
}
FC100 = {
    split: " ".join(SUPERCLASSES[name] for name in names.split())
    for split, names in {
        "validation": "large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
        "test": "aquatic_mammals insects medium_mammals people",
    }.items()
}


class Cifar100(ImageDataset):
    """The images; a subclass names the split."""

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.5071, 0.4847, 0.4408)
    std: ClassVar[tuple[float, ...] | None] = (0.2675, 0.2565, 0.2761)
    store_name: ClassVar[str | None] = "cifar100"
    fitted: ClassVar[str] = "as published"

    pickles: ClassVar[tuple[str, ...]]
    _own: bool = False

    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        self._own = isinstance(root, Path) and bool(trio(root, self.pickles))
        super().prepare(root, progress, rebuild=rebuild)

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images.

        Args:
            root: a folder or an archive with class folders, wherever they lie in it; a folder with torchvision's
                `cifar-100-python`, or with pickles of the data set's splits; None: downloaded with torchvision, once,
                to the cache.
            progress: called per class, or of pickles per image.
        """
        if self._own and root is not None:
            caches, plan = self._caches(root)
            check_counts(root, plan.counts, self.published[self.split])
            packed = pack_caches(caches, SIDE, progress)
            return packed._replace(splits={self.split: packed.splits["standard"]}, about=plan.about())
        images = np.empty((len(CLASSES), PER_CLASS, 3, SIDE, SIDE), np.uint8)
        for number, pixels in enumerate(_classes(root)):
            images[number] = pixels
            progress(number + 1, len(CLASSES))
        splits = {"cifar-fs": _split(CIFAR_FS), "fc100": _split(FC100)}
        return Packed(images.reshape(-1, 3, SIDE, SIDE), CLASSES, [PER_CLASS] * len(CLASSES), splits)

    def plan(self, root: Path | None) -> Plan | None:
        if root is None or trio(root, self.pickles):
            return None if root is None else self._caches(root)[1]
        found = _find(root)
        if found is None:
            return None
        tree, files = found
        held_out = CIFAR_FS if self.split == "cifar-fs" else FC100
        members = {split: [CLASSES[number] for number in numbers] for split, numbers in _split(held_out).items()}
        classes = {split: {name: files[name] for name in members[split] if files[name]} for split in SPLITS}
        return Plan(tree.source, Layout(classes, f"split as {self.split}", {}), tree)

    @property
    def _stored_as(self) -> str:
        """Images whose classes have no names are those of one data set; with names, of both."""
        shared, own = (cache_folder() / f"{name}-{self.version}" for name in (str(self.store_name), self.name))
        return self.name if not shared.exists() and (self._own or own.exists()) else str(self.store_name)

    def _caches(self, root: Path) -> tuple[dict[Split, Cache], Plan]:
        caches = {split: mini_cache(path, SIDE) for split, path in trio(root, self.pickles).items()}
        return caches, plan_of(root, caches)


@registry.dataset("cifarfs")
class CifarFS(Cifar100):
    """See the module's docstring."""

    splits: ClassVar[tuple[str, ...]] = ("cifar-fs",)
    pickles = tuple(f"CIFAR{sign}FS{other}{{}}.{e}" for sign in "_-" for other in "_-" for e in ("pickle", "pkl"))
    published: ClassVar[Mapping[str, Published]] = {
        "cifar-fs": Published({"train": 64, "validation": 16, "test": 20}, (600, 600), 60_000)
    }


@registry.dataset("fc100")
class FC100Dataset(Cifar100):
    """See the module's docstring."""

    splits: ClassVar[tuple[str, ...]] = ("fc100",)
    pickles = tuple(f"FC100{sign}{{}}.{e}" for sign in "_-" for e in ("pickle", "pkl"))
    published: ClassVar[Mapping[str, Published]] = {
        "fc100": Published({"train": 60, "validation": 20, "test": 20}, (600, 600), 60_000)
    }


def _split(held_out: dict[str, str]) -> dict[str, list[int]]:
    """Indices of the classes of each split; the training split has those that the others have not."""
    split = {name: [CLASSES.index(one) for one in sorted(classes.split())] for name, classes in held_out.items()}
    taken = {one for classes in split.values() for one in classes}
    return {"train": [one for one in range(len(CLASSES)) if one not in taken], **split}


def _classes(root: Path | None) -> Iterator[NDArray[np.uint8]]:
    """Images of each class in the order of `CLASSES`, [600, 3, 32, 32]: the test images first, as their names sort."""
    found = None if root is None else _find(root)
    yield from _from_torchvision(root) if found is None else _from_folders(*found)


def _find(root: Path) -> tuple[Tree, dict[str, list[str]]] | None:
    """Class folders with their images, those of train and test folders put together; None: torchvision's files.

    Raises:
        UserError: neither is there.
    """
    tree = tree_at(root, [FOLDER])
    places: dict[str, dict[str, list[str]]] = {}  # what is before a class folder -> class -> images
    for path in tree.pictures:
        folder, _, _ = path.rpartition("/")
        before, _, name = folder.rpartition("/")
        if name in SUPERCLASS:
            places.setdefault(before, {}).setdefault(name, []).append(path)
    if not places:
        if tree.source == root and _torchvision(root).is_dir():
            return None
        raise UserError(
            f"{root}: neither {FOLDER}.zip nor a folder {FOLDER} or {TORCHVISION_FOLDER} is in it, nor CIFAR-100's "
            "class folders apple, aquarium_fish and so on"
        )
    splits = [before for before in places if said(before.rpartition("/")[2])]
    chosen = sorted(splits) if len(splits) > 1 else [max(places, key=lambda before: len(places[before]))]
    return tree, {name: [path for before in chosen for path in places[before].get(name, ())] for name in CLASSES}


def _from_folders(tree: Tree, files: dict[str, list[str]]) -> Iterator[NDArray[np.uint8]]:
    for name, paths in files.items():
        if len(paths) != PER_CLASS:
            raise UserError(f"{tree.source}: {name} has {len(paths)} images, {PER_CLASS} are expected")
    contents, broken = tree.read_in_order(path for paths in files.values() for path in paths), dict[str, Why]()
    for _ in CLASSES:
        yield _decode(list(islice(contents, PER_CLASS)), broken)
    if broken:
        raise UserError(f"{shown(tree.source)}: {unreadable(broken)}")


def _torchvision(root: Path) -> Path:
    """The folder of torchvision, in a folder or named itself."""
    return root if root.name == TORCHVISION_FOLDER else root / TORCHVISION_FOLDER


def _decode(files: list[tuple[str, bytes]], broken: dict[str, Why]) -> NDArray[np.uint8]:
    """Images of a class, [600, 3, 32, 32]; those that can't be taken as they are go to `broken`."""
    pixels = np.zeros((PER_CLASS, 3, SIDE, SIDE), np.uint8)
    for row, (path, content) in enumerate(files):
        try:
            pixels[row] = decode(content, path, _whole)
        except NotPlain as error:
            broken[path] = error.why
    return pixels


def _whole(image: Image.Image) -> Image.Image:
    if image.size != (SIDE, SIDE):
        expected = f"{SIDE}x{SIDE}"
        raise NotPlain(Why(f"is {image.width}x{image.height}, {expected} is expected", f"are not {expected}"))
    return plain(image)


def _from_torchvision(root: Path | None) -> Iterator[NDArray[np.uint8]]:
    from torchvision.datasets import CIFAR100 as Published  # imported here: torchvision costs every worker seconds

    if root is None:
        folder = cache_folder() / "downloads"
        with downloading("CIFAR-100", TORCHVISION_FOLDER):
            parts = [Published(str(folder), train=train, download=True) for train in (False, True)]
    else:
        try:
            parts = [Published(str(_torchvision(root).parent), train=train, download=False) for train in (False, True)]
        except (OSError, RuntimeError) as error:
            raise UserError(f"{_torchvision(root)}: incomplete or damaged ({reason(error)})") from error
    for name in CLASSES:
        yield np.concatenate(
            [part.data[np.array(part.targets) == part.class_to_idx[name]].transpose(0, 3, 1, 2) for part in parts]
        )
