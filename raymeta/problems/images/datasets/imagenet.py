"""Subsets of ImageNet for few-shot learning, 84x84 colour (pixels are standardised with ImageNet's mean and deviation).

    miniimagenet     64 / 16 / 20 classes of 600 images (Vinyals et al., 2016; split of Ravi, Larochelle, 2017)
    tieredimagenet   351 / 97 / 160 classes of 20 / 6 / 8 super-categories, 779,165 images (Ren et al., 2018)

MAML++, ALFA and L2F standardise so, in training and evaluation; CxGrad's code, MAML's and MetaMix's leave pixels in
0..1. Files of another size are squeezed to 84x84 with Lanczos, as MAML's script does. Arrays are taken as they stand:
the npz of tieredImageNet comes from OpenCV, which puts blue first, and the field's loaders read it as if red were.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.caches import Cache, mini_cache, pack_caches, tiered_cache
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.sources import Published, check_counts, csv_rows, reading
from raymeta.problems.images.reading.trees import Tree, find, pack_files, split_folders

SIDE = 84
PARTS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}  # as the published files say
CACHES = {"mini-imagenet-cache-{}.pkl": PARTS, "miniImageNet_category_split_{}.pickle": {
    **PARTS, "train": "train_phase_train",
}}  # fmt: skip


class ImageNetSubset(ImageDataset):
    """What both have.

    Attributes:
        folders: names under which the class folders, or an archive of them, may lie in the root.
        layouts: what may be there, for a message.
    """

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)
    folders: ClassVar[tuple[str, ...]]
    layouts: ClassVar[str]

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images; see `layouts` for what `root` may hold."""
        if root is None:
            raise UserError(f"{self.name} can't be downloaded: name a folder with {self.layouts} by --data-root")
        published = self.published.get("standard")
        if caches := self._caches(root):
            sizes = {split: {name: len(p) for name, p in caches[split].classes.items()} for split in SPLITS}
            check_counts(root, sizes, published)
            return pack_caches(caches, SIDE, progress)
        tree, classes = self._files(root)
        found = {split: {name: len(paths) for name, paths in classes[split].items()} for split in SPLITS}
        check_counts(tree.source, found, published)
        return pack_files(tree, classes, self.input_shape, self.fit, progress)

    @abstractmethod
    def _caches(self, root: Path) -> dict[Split, Cache]:
        """Arrays, if there are any."""

    def _files(self, root: Path) -> tuple[Tree, dict[Split, dict[str, list[str]]]]:
        """Class folders, of the root itself or in it."""
        within = any((root / part).is_dir() for part in PARTS.values())
        tree = Tree(root if within else find(root, self.folders, f"{self.name} is not in it, which is {self.layouts}"))
        return tree, split_folders(tree)


@registry.dataset("miniimagenet")
class MiniImageNet(ImageNetSubset):
    """See the module's docstring."""

    published: ClassVar[Mapping[str, Published]] = {
        "standard": Published({"train": 64, "validation": 16, "test": 20}, (600, 600), 60_000)
    }
    folders = ("mini_imagenet_full_size", "mini-imagenet", "mini_imagenet", "miniimagenet", "miniImageNet")
    layouts = (
        "train.csv, val.csv, test.csv and images; mini-imagenet-cache-train.pkl and so on; or class folders in "
        "train, val, test"
    )

    def _caches(self, root: Path) -> dict[Split, Cache]:
        for name, parts in CACHES.items():
            if (root / name.format(parts["train"])).exists():
                return {split: mini_cache(root / name.format(part), SIDE) for split, part in parts.items()}
        return {}

    def _files(self, root: Path) -> tuple[Tree, dict[Split, dict[str, list[str]]]]:
        if not any((root / f"{part}.csv").exists() for part in PARTS.values()):
            return super()._files(root)
        tree = Tree(find(root, ("images",), "train.csv is there, but neither a folder nor an archive images"))
        places = {path.rsplit("/", 1)[-1]: path for path in tree.paths}
        return tree, {split: _csv(root / f"{part}.csv", places, tree.source) for split, part in PARTS.items()}


@registry.dataset("tieredimagenet")
class TieredImageNet(ImageNetSubset):
    """See the module's docstring."""

    published: ClassVar[Mapping[str, Published]] = {
        "standard": Published({"train": 351, "validation": 97, "test": 160}, (732, 1300), 779_165)
    }
    folders = ("tiered_imagenet", "tiered-imagenet", "tieredimagenet", "tieredImageNet")
    layouts = (
        "train_images_png.pkl or train_images.npz with train_labels.pkl, and so on; or class folders in "
        "train, val, test"
    )

    def _caches(self, root: Path) -> dict[Split, Cache]:
        for base in (root, *(root / name for name in self.folders)):
            for kind in ("images_png.pkl", "images.npz"):
                if (base / f"train_{kind}").exists():
                    return {
                        split: tiered_cache(base / f"{part}_{kind}", base / f"{part}_labels.pkl", SIDE, self.fit)
                        for split, part in PARTS.items()
                    }
        return {}


def _csv(path: Path, places: dict[str, str], source: Path) -> dict[str, list[str]]:
    """Classes and images of a published split: rows of `filename,label`."""
    with reading(path):
        content = path.read_bytes()
    classes: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, (name, label) in csv_rows(str(path), content, ("filename", "label")):
        if name not in places:
            raise UserError(f"{path}: line {number} names {name}, which is not in {source}")
        if name in seen:
            raise UserError(f"{path}: line {number} names {name} a second time")
        seen.add(name)
        classes.setdefault(label, []).append(places[name])
    return {label: sorted(paths) for label, paths in classes.items()}
