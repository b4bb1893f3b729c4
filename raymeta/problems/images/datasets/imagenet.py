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
from raymeta.errors import UserError, shown
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.layouts.plan import Plan, needed, planned, tree_at
from raymeta.problems.images.reading.caches import Cache, mini_cache, pack_caches, plan_of, tiered_cache
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.sources import Published, check_counts
from raymeta.problems.images.reading.trees import ARCHIVES, Tree, pack_files
from raymeta.problems.images.reading.trios import trio

SIDE = 84
PICKLES = ("mini-imagenet-cache-{}.pkl", "mini-imagenet-cache-{}.pickle", "miniImageNet_category_split_{}.pickle")


class ImageNetSubset(ImageDataset):
    """What both have.

    Attributes:
        folders: names under which the class folders, or an archive of them, may lie in the root.
        layouts: what may be there, for a message.
        source: what is to be downloaded, likewise.
    """

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)
    folders: ClassVar[tuple[str, ...]]
    layouts: ClassVar[str]
    source: ClassVar[str]

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images; see `layouts` for what `root` may hold."""
        place = needed(root, self.name, self.source, self.layouts)
        if caches := self._caches(place):
            plan = plan_of(place, caches)
            check_counts(place, plan.counts, self.published.get("standard"))
            return pack_caches(caches, SIDE, progress)._replace(about=plan.about())
        tree, plan = self._files(place)
        check_counts(plan.source, plan.counts, self.published.get("standard"))
        about, left = plan.about(), plan.left()
        return pack_files(tree, plan.layout.classes, self.input_shape, self.fit, progress, about=about, left=left)

    def plan(self, root: Path | None) -> Plan:
        place = needed(root, self.name, self.source, self.layouts)
        caches = self._caches(place)
        return plan_of(place, caches) if caches else self._files(place)[1]

    @abstractmethod
    def _caches(self, root: Path) -> dict[Split, Cache]:
        """Arrays, if there are any."""

    def _files(self, root: Path) -> tuple[Tree, Plan]:
        """Class folders or images and lists: of an archive, of a folder of the usual name, or wherever in the root."""
        archives = [f"images{ending}" for ending in ARCHIVES]
        tree = tree_at(root, [*self.folders, *archives])
        if not tree.pictures:
            raise UserError(f"{shown(root)}: {self.name} is not in it, which is {self.layouts}")
        return tree, planned(tree, drawn=False, beside=None if tree.source == root else tree.source.parent)


@registry.dataset("miniimagenet")
class MiniImageNet(ImageNetSubset):
    """See the module's docstring."""

    published: ClassVar[Mapping[str, Published]] = {
        "standard": Published({"train": 64, "validation": 16, "test": 20}, (600, 600), 60_000)
    }
    folders = ("mini_imagenet_full_size", "mini-imagenet", "mini_imagenet", "miniimagenet", "miniImageNet")
    source = "miniImageNet in the split of Ravi and Larochelle"
    layouts = (
        "images and the lists train.csv, val.csv, test.csv; mini-imagenet-cache-train.pkl and so on; or class folders "
        "in train, val, test"
    )

    def _caches(self, root: Path) -> dict[Split, Cache]:
        return {split: mini_cache(path, SIDE) for split, path in trio(root, PICKLES).items()}


@registry.dataset("tieredimagenet")
class TieredImageNet(ImageNetSubset):
    """See the module's docstring."""

    published: ClassVar[Mapping[str, Published]] = {
        "standard": Published({"train": 351, "validation": 97, "test": 160}, (732, 1300), 779_165)
    }
    folders = ("tiered_imagenet", "tiered-imagenet", "tieredimagenet", "tieredImageNet")
    source = "tieredImageNet of Ren et al."
    layouts = (
        "train_images_png.pkl or train_images.npz with train_labels.pkl, and so on; or class folders in "
        "train, val, test"
    )

    def _caches(self, root: Path) -> dict[Split, Cache]:
        for kind in ("images_png.pkl", "images.npz"):
            images, labels = trio(root, [f"{{}}_{kind}"]), trio(root, ["{}_labels.pkl"])
            if images and labels:
                return {split: tiered_cache(images[split], labels[split], SIDE, self.fit) for split in SPLITS}
        return {}
