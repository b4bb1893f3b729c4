"""A data set of images: few-shot classification of them is the problem.

A data set is a file: a subclass of `ImageDataset` under `@registry.dataset("name")`.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.engine.labelled import Labelled
from raymeta.errors import UserError, suggest
from raymeta.problem import SPLITS, Bank, Examples, Problem, Split
from raymeta.problems.images.classification import ImageClassification
from raymeta.problems.images.cross import fitted
from raymeta.problems.images.episodes import ImageEpisodes, classes_of
from raymeta.problems.images.images import DeviceImages, HostImages
from raymeta.problems.images.layouts.plan import Plan
from raymeta.problems.images.reading.packing import (
    CONTENTS,
    LEFT_OUT,
    Packed,
    Progress,
    Stream,
    build_store,
    packed_at,
    packed_from,
)
from raymeta.problems.images.reading.pictures import Colour
from raymeta.problems.images.reading.remote import Root, local
from raymeta.problems.images.reading.sources import Published
from raymeta.problems.images.store import Rule, Store
from raymeta.problems.images.task import OF_A_SOURCE, ImagesTask
from raymeta.problems.images.variable import VariableEpisodes
from raymeta.storage.files import cache_folder

TASK = re.compile(r"(?P<dataset>[a-z0-9]+)(-(?:(?P<ways>\d+)w)?(?P<shots>\d+)s|-(?P<sampler>metadataset))?")


@registry.problem("images")
class ImageDataset(ImageClassification):
    """A data set of images, packed once per machine and shared by all processes. A subclass writes `build`.

    Attributes:
        splits: class splits by name, the default first.
        version: of what `build` makes; a new one makes a new store.
        store_name: of the store, if data sets share one; None: the data set's own.
        published: class split by name -> what is in it by those who published it, where that is known.
        rules: class split by name -> its rule, of those that are not in the store. A store stays as it is, and its
            fingerprint, when a split is added here.
    """

    Config: ClassVar[type[TaskConfig]] = ImagesTask
    splits: ClassVar[tuple[str, ...]] = ("standard",)
    form: ClassVar[str] = "DATASET-<ways>w<shots>s, as in omniglot-5w1s, or DATASET-metadataset"
    version: ClassVar[int] = 1
    store_name: ClassVar[str | None] = None
    published: ClassVar[Mapping[str, Published]] = {}
    rules: ClassVar[Mapping[str, Rule]] = {}
    keeps_on_devices: ClassVar[bool] = True
    _store: Store | None = None
    _on_device: DeviceImages | None = None

    def __init__(self, task: ImagesTask) -> None:
        """Open it under a task's settings; nothing is read yet.

        Raises:
            UserError: no class split of the name `task.split`, a `task.source` or the like that would be ignored, or a
                `task.test_dataset` that its models can't be tested on.
        """
        super().__init__(task)
        self.labels = task.most_ways
        self.one_shape = task.sampler == "fixed"
        if not self.has_source:
            _refuse_ignored(self.name, task)
        self.split = self.splits[0] if task.split is None else task.split
        if self.split not in self.splits:
            raise UserError(f"task.split: {self.name} has no split '{self.split}': {suggest(self.split, self.splits)}")
        self._other = None if task.test_dataset is None else _open_other(self, task.test_dataset)

    @classmethod
    def open(cls, task: Any) -> Problem:
        """The data set that a task names."""
        problem: Problem = registry.find("dataset", task.dataset)(task)
        return problem

    @classmethod
    def check(cls, task: Any) -> None:
        for name in (task.dataset, task.test_dataset):
            if name is not None:
                registry.find("dataset", name)

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`omniglot-5w1s` or `omniglot-metadataset`: the keys it stands for."""
        match = TASK.fullmatch(text)
        if match is None:
            return None
        numbers = {key: int(match[key]) for key in ("ways", "shots") if match[key]}
        sampler = {"sampler": match["sampler"]} if match["sampler"] else {}
        named = {} if match["dataset"] == "images" else {"dataset": match["dataset"]}
        return {**named, **numbers, **sampler}

    @abstractmethod
    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Read or draw all images, for all class splits.

        Raises:
            UserError: the data can't be had from `root`.
        """

    def plan(self, root: Path | None) -> Plan | None:
        """What `build` would pack, before an image is read; None: it is drawn or downloaded.

        Raises:
            UserError: the data can't be had from `root`.
        """
        return None

    @property
    def background(self) -> Colour:
        red, green, blue, *_ = ImageColor.getrgb(self.task.background)
        return red, green, blue

    @property
    def folder(self) -> Path:
        """Where the store is or will be."""
        return cache_folder() / f"{self._stored_as}-{self.version}"

    @property
    def _stored_as(self) -> str:
        return self.store_name or self.name

    @property
    def _rule(self) -> Rule | None:
        return self.rules.get(self.split)

    @property
    def _command(self) -> str:
        return f"raymeta data prepare {self.name}"

    def _about(self) -> dict[str, Any]:
        """What `meta.json` says beside the contents."""
        return {"name": self._stored_as, "version": self.version}

    @property
    def ready(self) -> bool:
        return self.folder.exists()

    @property
    def store(self) -> Store:
        """The store, opened on first use.

        Raises:
            UserError: it is not there, or damaged.
        """
        if self._store is None:
            store = Store(self.folder, self.name, self.version, self.split, self._stored_as, self._command, self._rule)
            store.mean, store.std = self.standard
            self._store = store
        return self._store

    def under(self, split: str) -> "ImageDataset":
        """The same data set under another class split."""
        return type(self)(self.task.model_copy(update={"split": split}))

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        say = progress or (lambda done, total: None)
        with ExitStack() as stack:

            def build(scratch: Path) -> Packed:
                folder = stack.enter_context(local(root, scratch, say))
                there = packed_at(folder) if folder is not None else None
                return self.build(folder, say) if there is None else self._packed_elsewhere(there)

            build_store(self.folder, self._about(), build, rebuild=rebuild)
        self._store = None
        _ = self.store  # a store that was there already may be damaged: say so now

    def _packed_elsewhere(self, folder: Path) -> Packed:
        """A store that was packed on another machine."""
        there = Store(folder, self.name, self.version, self.split, self._stored_as, self._command, self._rule)
        return packed_from(there.meta, there.images)

    def receive(self, meta: Mapping[str, Any], parts: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
        """Make a store out of another machine's; nothing happens if there is one.

        Args:
            meta: its `meta.json`.
            parts: its images, as `Stream` has them.

        Raises:
            UserError: the parts don't have the fingerprint of `meta`, or can't be written.
        """
        about = {key: meta[key] for key in meta if key not in CONTENTS}
        build_store(self.folder, about, lambda _: packed_from(meta, Stream(tuple(meta["shape"]), parts)), rebuild=False)
        self._store = None

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "name": self.name, "input_shape": list(self.input_shape), "splits": list(self.splits),
            "fitted": self.fitted, "ready": self._store is not None or self.ready, "folder": str(self.folder),
        }  # fmt: skip
        if not self.folder.exists():
            return about
        store = self.store
        return about | {
            "classes": {split: len(store.classes(split)) for split in SPLITS},
            "images": len(store.images),
            "bytes": sum(file.stat().st_size for file in self.folder.iterdir()),
            "fingerprint": store.fingerprint,
            **self.remarks,
        }

    @property
    def remarks(self) -> dict[str, str]:
        """What is to be said of how the store was packed: how classes were recognised, what was left out, and more."""
        meta = self.store.meta
        lines: dict[str, str] = {key: meta[key] for key in ("layout", "left_out") if meta.get(key)}
        if (listed := self.folder / LEFT_OUT).exists():
            lines["left_out"] += f"; all of it: {listed}"
        return {**lines, **meta.get("notes", {})}

    def training_bank(self, seed: int, tasks_per_step: int) -> Bank:
        if not self.task.share_classes:
            return super().training_bank(seed, tasks_per_step)
        return ImageEpisodes(self.store, self.task, "train", seed, self._on_device, sharing=tasks_per_step)

    def _bank(self, split: Split, seed: int) -> Bank:
        bank = ImageEpisodes if self.task.sampler == "fixed" else VariableEpisodes
        if split == "test" and self._other is not None:
            other = self._other.store
            return bank(other, self.task, split, seed, HostImages(other.images, self._as_own))
        return bank(self.store, self.task, split, seed, self._on_device)

    def picture(self, path: Path) -> None:
        from raymeta.problems.images.gallery import draw_classes  # imported here: it needs matplotlib

        draw_classes(self, path)

    def labelled(self) -> Labelled:
        store = self.store
        classes = classes_of(store, self.task, "train")
        rows = np.concatenate([np.arange(store.starts[c], store.starts[c] + store.sizes[c]) for c in classes])
        labels = np.repeat(np.arange(len(classes)), store.sizes[classes])

        def take(numbers: NDArray[np.int64]) -> Examples:
            x = store.scaled(np.asarray(store.images)[rows[numbers]])
            return Examples(torch.from_numpy(x), torch.from_numpy(labels[numbers]))

        about = {"split": self.split, "train_classes": self.task.train_classes}
        return Labelled(len(classes), len(rows), take, about)

    @property
    def kept_bytes(self) -> int:
        return self.store.images.nbytes

    def keep_on(self, device: torch.device) -> None:
        """Copy the images to a device; see `Problem.keep_on`.

        The test split of another data set stays where it is: its images are resized on the way.
        """
        self._on_device = DeviceImages(self.store.images, self.store.scaled, device)

    def _as_own(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images of another data set as models of this one see them."""
        return self.store.scaled(fitted(pixels, self.input_shape))


def _refuse_ignored(name: str, task: ImagesTask) -> None:
    for key in OF_A_SOURCE:
        if (found := getattr(task, key)) != type(task).model_fields[key].default:
            end = "has none; --data-root says where it is" if key == "source" else "is packed as published"
            raise UserError(f"task.{key}: found '{found}', but {name} {end}")


def _open_other(own: ImageDataset, name: str) -> ImageDataset:
    """The data set whose test split a final run is tested on. Nothing is read yet.

    Raises:
        UserError: there is none of that name, or models of the one can't be tested on the other.
    """
    cls, problem = registry.find("dataset", name), ""
    if not issubclass(cls, ImageDataset):
        problem = "which is not made of images"
    elif cls.has_source:
        problem = "which is not named by itself but by a folder: only data sets without task.source can be tested on"
    elif name == own.name:
        problem = "which is the task's own data set: leave it out"
    elif cls.input_shape[0] not in (1, own.input_shape[0]):
        problem = f"whose images are colour: models of {own.name} take grey ones"
    if problem:
        raise UserError(f"task.test_dataset: found '{name}', {problem}")
    fields = type(own.task).model_fields
    defaults = {key: fields[key].default for key in ("split", "test_dataset", *OF_A_SOURCE)}
    task = own.task.model_copy(update={"dataset": name, **defaults})
    other: ImageDataset = cls(task)
    if other.folder == own.folder:
        raise UserError(
            f"task.test_dataset: found '{name}', whose images are those of {own.name}: its test classes may be "
            "among those trained on"
        )
    return other
