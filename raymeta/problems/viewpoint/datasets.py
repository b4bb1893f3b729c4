"""Data sets of viewpoints: the embedded `shapes3d`; ObjectNet3D and Pascal3D+; `views`, one's own.

ObjectNet3D has 100 categories. Twenty are held out for the test as in the field's few-shot splits; the paper's 17
of them are not known. Of the 80 others, sorted, every eighth is for validation, which the paper does without.
Pascal3D+ has 12, of which two validate and three test here.
"""

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raymeta import registry
from raymeta.errors import UserError, shown, suggest
from raymeta.problems.images.layouts.plan import needed, tree_at
from raymeta.problems.images.reading.files import typed
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.viewpoint import shapes
from raymeta.problems.viewpoint.listing import Listing, packed
from raymeta.problems.viewpoint.matlab import read_records
from raymeta.problems.viewpoint.tables import NAME, read_table, splits_of
from raymeta.problems.viewpoint.viewpoint import SIDE, Viewpoint, ViewpointTask

NOVEL = (
    "bed", "bookshelf", "calculator", "cellphone", "computer", "door", "filing_cabinet", "guitar", "iron", "knife",
    "microwave", "pen", "pot", "rifle", "shoe", "slipper", "stove", "toilet", "tub", "wheelchair",
)  # fmt: skip
OBJECTNET = (
    "aeroplane", "ashtray", "backpack", "basket", "bed", "bench", "bicycle", "blackboard", "boat", "bookshelf",
    "bottle", "bucket", "bus", "cabinet", "calculator", "camera", "can", "cap", "car", "cellphone", "chair",
    "clock", "coffee_maker", "comb", "computer", "cup", "desk_lamp", "diningtable", "dishwasher", "door", "eraser",
    "eyeglasses", "fan", "faucet", "filing_cabinet", "fire_extinguisher", "fish_tank", "flashlight", "fork",
    "guitar", "hair_dryer", "hammer", "headphone", "helmet", "iron", "jar", "kettle", "key", "keyboard", "knife",
    "laptop", "lighter", "mailbox", "microphone", "microwave", "motorbike", "mouse", "paintbrush", "pan", "pen",
    "pencil", "piano", "pillow", "plate", "pot", "printer", "racket", "refrigerator", "remote_control", "rifle",
    "road_pole", "satellite_dish", "scissors", "screwdriver", "shoe", "shovel", "sign", "skate", "skateboard",
    "slipper", "sofa", "speaker", "spoon", "stapler", "stove", "suitcase", "teapot", "telephone", "toaster",
    "toilet", "toothbrush", "train", "trash_bin", "trophy", "tub", "tvmonitor", "vending_machine",
    "washing_machine", "watch", "wheelchair",
)  # fmt: skip
PASCAL_OBJECTS = (
    "aeroplane", "bicycle", "boat", "bottle", "bus", "car", "chair", "diningtable", "motorbike", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
EVERY = 8
PASCAL = {"validation": ("bottle", "sofa"), "test": ("bicycle", "chair", "train")}
Splits = dict[str, list[str]]


@registry.dataset("shapes3d")
class Shapes3D(Viewpoint):
    """Things made of ellipsoids, drawn; see `shapes.py`. By default their front is drawn per task."""

    input_shape: tuple[int, ...] = (3, shapes.SIDE, shapes.SIDE)
    fitted: ClassVar[str] = "drawn"
    version: ClassVar[int] = shapes.VERSION
    task_defaults: ClassVar[dict[str, Any]] = {"front": "task"}

    def __init__(self, task: ViewpointTask) -> None:
        super().__init__(task)
        if task.size not in (None, shapes.SIDE):
            raise UserError(f"task.size: found {task.size}, but shapes3d is drawn at {shapes.SIDE}: leave it out")

    def build(self, root: Path | None, progress: Progress) -> Packed:
        if root is not None:
            raise UserError(f"{root}: shapes3d is drawn and reads no data: leave out --data-root")
        total = sum(shapes.CATEGORIES.values())
        images, angles = [], []
        for number in range(total):
            drawn, seen = shapes.pictures(number)
            images.append(drawn)
            angles += seen.tolist()
            progress(number + 1, total)
        ends = np.cumsum(list(shapes.CATEGORIES.values()))
        splits = {
            split: list(range(end - count, end))
            for (split, count), end in zip(shapes.CATEGORIES.items(), ends, strict=True)
        }
        names = [f"shape {number:03}" for number in range(total)]
        sizes = [shapes.PICTURES] * total
        return Packed(np.concatenate(images), names, sizes, {"standard": splits}, angles=angles)


class RealViews(Viewpoint):
    """Views cut out of pictures, `task.size` pixels on a side."""

    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)

    def __init__(self, task: ViewpointTask) -> None:
        super().__init__(task)
        self.input_shape = (3, task.size or SIDE, task.size or SIDE)

    @abstractmethod
    def listed(self, root: Path | None) -> tuple[Tree, Listing, Splits]:
        """The pictures, the views in them, and the categories of each split.

        Raises:
            UserError: they are not there or damaged.
        """

    def build(self, root: Path | None, progress: Progress) -> Packed:
        return packed(*self.listed(root), self.input_shape[-1], progress)

    def preview(self, root: Path | None) -> dict[str, Any]:
        tree, found, splits = self.listed(root)
        counts = found.counts
        parts = {
            split: f"{len(names)} categories, {sum(counts[name] for name in names):,} views ({', '.join(names)})"
            for split, names in splits.items()
        }
        skipped = {"skipped": found.words or "nothing"}
        return {
            "source": str(tree.source),
            "layout": found.layout,
            **parts,
            "packed_as": list(self.input_shape),
            **skipped,
        }

    @property
    def _stored_as(self) -> str:
        size = self.task.size
        return super()._stored_as if size in (None, SIDE) else f"{super()._stored_as}-{size}"

    @property
    def _command(self) -> str:
        size = f" --size {self.task.size}" if self.task.size not in (None, SIDE) else ""
        return f"{super()._command}{size}"


class Distributed(RealViews):
    """A published data set with a record of MATLAB's for every picture; see `matlab.py`.

    Attributes:
        categories: that there are.
        folder_name: of what is distributed.
        publisher: where it is from, in a phrase.
    """

    categories: ClassVar[tuple[str, ...]]
    folder_name: ClassVar[str]
    publisher: ClassVar[str]

    def listed(self, root: Path | None) -> tuple[Tree, Listing, Splits]:
        tree = tree_at(needed(root, self.name, self.publisher, "Annotations and Images"), [self.folder_name])
        found = read_records(tree)
        for view in found.views:
            if (name := view.category) not in self.categories:
                raise UserError(
                    f"{shown(tree.source)}: {view.where}: class: found '{name}': {suggest(name, self.categories)}"
                )
        found.refuse_damaged(tree)
        return tree, found, self.parted(sorted(found.counts))

    @classmethod
    @abstractmethod
    def parted(cls, names: Sequence[str]) -> Splits:
        """The categories of each split, of those that there are."""


@registry.dataset("objectnet3d")
class ObjectNet3D(Distributed):
    """100 categories of ImageNet's pictures (Xiang et al., ECCV 2016)."""

    categories: ClassVar[tuple[str, ...]] = OBJECTNET
    folder_name: ClassVar[str] = "ObjectNet3D"
    publisher: ClassVar[str] = "ObjectNet3D (cvgl.stanford.edu/projects/objectnet3d)"

    @classmethod
    def parted(cls, names: Sequence[str]) -> Splits:
        known = [name for name in names if name not in NOVEL]
        parts = {"validation": known[EVERY - 1 :: EVERY], "test": [name for name in names if name in NOVEL]}
        return _whole(cls.name, names, parts)


@registry.dataset("pascal3d")
class Pascal3D(Distributed):
    """12 categories of PASCAL VOC's and ImageNet's pictures (Xiang, Mottaghi, Savarese, WACV 2014)."""

    categories: ClassVar[tuple[str, ...]] = PASCAL_OBJECTS
    folder_name: ClassVar[str] = "PASCAL3D+_release1.1"
    publisher: ClassVar[str] = "Pascal3D+ 1.1 (cvgl.stanford.edu/projects/pascal3d)"

    @classmethod
    def parted(cls, names: Sequence[str]) -> Splits:
        return _whole(cls.name, names, {split: [n for n in names if n in part] for split, part in PASCAL.items()})


@registry.dataset("views")
class OwnViews(RealViews):
    """Pictures of one's own with a list of what they show, `views.csv`; see `tables.py`.

    `--data-root` names the folder or archive, and the command line puts its absolute path into the config,
    `task.source`. The store is named after the path, and made anew by the next command that prepares data when a file
    has another name, size or time than before.
    """

    has_source: ClassVar[bool] = True

    @property
    def source(self) -> Path:
        """The folder or archive.

        Raises:
            UserError: the task names none.
        """
        if self.task.source is None:
            raise UserError(f"views: name the folder with {NAME} and its pictures by --data-root")
        return Path(self.task.source)

    @property
    def ready(self) -> bool:
        """Packed, and the source is as it was or gone."""
        if self.task.source is None or not super().ready:
            return False
        return not self.source.exists() or self._listing_then == Tree(self.source).listing

    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        if root is not None and Path(root).resolve() != self.source.resolve():
            raise UserError(f"{shown(root)}: the task's source is another one, {self.source}")
        if not self.source.exists():
            if rebuild or not super().ready:
                raise UserError(f"{shown(self.source)}: no such folder")
            _ = self.store  # says so if it is damaged
            return
        super().prepare(self.source, progress, rebuild=rebuild or not self.ready)

    def listed(self, root: Path | None) -> tuple[Tree, Listing, Splits]:
        tree = Tree(self.source)
        found = read_table(tree)
        found.refuse_damaged(tree)
        return tree, found, splits_of(found, str(self.source))

    def describe(self) -> dict[str, Any]:
        if self.task.source is not None:
            return super().describe() | {"source": self.task.source}
        shape, splits = list(self.input_shape), list(self.splits)
        return {"name": self.name, "input_shape": shape, "splits": splits, "fitted": self.fitted, "ready": False}

    @property
    def _stored_as(self) -> str:
        return f"{super()._stored_as}-{sha256(os.fsencode(self.source)).hexdigest()[:12]}"

    @property
    def _command(self) -> str:
        return f"{super()._command} --data-root {typed(self.source)}"

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"listing": Tree(self.source).listing, "task": {"source": str(self.source)}}

    @property
    def _listing_then(self) -> str | None:
        try:
            meta: Mapping[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # damaged, which opening it says
        return meta.get("listing")


def _whole(name: str, names: Sequence[str], held: Splits) -> Splits:
    """The categories that are held out, and all others for training.

    Raises:
        UserError: a split has none.
    """
    out = {one for part in held.values() for one in part}
    parts = {"train": [one for one in names if one not in out], **held}
    for split, part in parts.items():
        if not part:
            raise UserError(f"{name}: no category of the {split} split is in it; is it the whole data set?")
    return parts
