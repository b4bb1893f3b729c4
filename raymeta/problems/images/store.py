"""Data sets: what one is, and the memory-mapped store behind those made of images.

A data set is a file: a subclass of `ImageDataset` (or of `Dataset`) under `@registry.dataset("name")`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raymeta import registry
from raymeta.errors import UserError, suggest
from raymeta.problems.images.cross import fitted, open_other
from raymeta.problems.images.episodes import SPLITS, EpisodeBank, ImageEpisodes, Split
from raymeta.problems.images.images import DeviceImages, HostImages
from raymeta.problems.images.reading.packing import (
    CONTENTS,
    FORMAT,
    Packed,
    Progress,
    Stream,
    build_store,
    packed_at,
    packed_from,
)
from raymeta.problems.images.reading.remote import Root, local
from raymeta.problems.images.reading.trees import squeezed
from raymeta.problems.images.variable import VariableEpisodes
from raymeta.storage.files import cache_folder

if TYPE_CHECKING:
    from raymeta.config import TaskConfig


class TestSplitClosed(RuntimeError):
    """The test split was asked for by something that is not a final run."""

    __test__ = False  # not a test case, whatever pytest thinks of the name


class Dataset(ABC):
    """A data set under a task's settings.

    Attributes:
        name: as registered.
        kind: classification (labels) or regression (real targets).
        input_shape: of one example: (C, H, W), or (D,).
        splits: class splits by name, the default first.
        task_defaults: what this data set changes of `TaskConfig`'s defaults.
        has_source: which data it is is said by `task.source`.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["classification", "regression"]] = "classification"
    input_shape: ClassVar[tuple[int, ...]]
    splits: ClassVar[tuple[str, ...]] = ("standard",)
    task_defaults: ClassVar[dict[str, Any]] = {}
    has_source: ClassVar[bool] = False

    def __init__(self, task: "TaskConfig") -> None:
        """Open it under a task's settings; nothing is read yet.

        Raises:
            UserError: no class split of the name `task.split`, a `task.source` that would be ignored, or a
                `task.test_dataset` that its models can't be tested on.
        """
        self.task = task
        if task.source is not None and not self.has_source:
            raise UserError(
                f"task.source: found '{task.source}', but {self.name} has none; --data-root says where it is"
            )
        self.split = self.splits[0] if task.split is None else task.split
        if self.split not in self.splits:
            raise UserError(f"task.split: {self.name} has no split '{self.split}': {suggest(self.split, self.splits)}")
        self._other = None if task.test_dataset is None else self._open_other(task.test_dataset)

    def _open_other(self, name: str) -> "ImageDataset":
        raise UserError(
            f"task.test_dataset: found '{name}', but {self.name} is not made of images: its models fit no other data"
        )

    def bank(self, split: Split, seed: int, *, final: bool = False) -> EpisodeBank:
        """The numbered episodes of a split.

        Args:
            split: train, validation or test; they share no class. The test split is that of `task.test_dataset`.
            seed: other seeds are other episodes.
            final: this is a final run, which alone may open the test split.

        Raises:
            TestSplitClosed: the test split without `final`.
            UserError: the data are not there or damaged, or can't give such episodes.
        """
        if split not in SPLITS:
            raise UserError(f"unknown split '{split}': {suggest(split, SPLITS)}")
        if split == "test" and not final:
            raise TestSplitClosed("the test split is opened by final runs only")
        return self._bank(split, seed)

    def outputs(self, task: "TaskConfig") -> int:
        """Outputs of a model for this data set: a logit per way (of the most), or one real number."""
        return 1 if self.kind == "regression" else task.most_ways

    @abstractmethod
    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        """Make the data ready on this machine; nothing happens if they are.

        Args:
            root: folder with the data on disk or a URL of an archive of one, or of a packed store; read only if there
                is something to do. None: drawn or downloaded, whatever the data set does.
            progress: called with steps done and steps in all.
            rebuild: do it again even if they are ready.
        """

    @property
    @abstractmethod
    def ready(self) -> bool:
        """`prepare` has been run."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when an example, a class or a split does."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it is, as plain data for `raymeta data`; more of it once it is ready."""

    @abstractmethod
    def _bank(self, split: Split, seed: int) -> EpisodeBank: ...


Channels = tuple[float, ...]  # a number for each channel


def scaled(pixels: NDArray[np.uint8], mean: Channels | None, std: Channels | None) -> NDArray[np.float32]:
    """Images [..., C, H, W] in 0..1, and standardised if there are a mean and a deviation."""
    # In NumPy: on this little data torch's threads cost more than they save, many times more on a busy machine.
    x = pixels.astype(np.float32)
    x /= 255
    if mean is not None and std is not None:
        x -= np.array(mean, np.float32)[:, None, None]
        x /= np.array(std, np.float32)[:, None, None]
    return x


Rule = Callable[[int], Mapping[str, Sequence[int]]]  # number of classes to indices of classes of each split


class Store:
    """A packed data set on disk under one of its class splits, its images memory-mapped and read-only.

    Attributes:
        images: uint8 [total, C, H, W].
        class_names, sizes, starts: per class: its name, how many images, the row of its first one.
        meta: what `meta.json` says.
        mean, std: per channel, of pixels in 0..1; None: pixels are left in 0..1.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(
        self, folder: Path, name: str, version: int, split: str, stored_as: str, command: str, rule: Rule | None = None
    ) -> None:
        """Open and check a store.

        Args:
            folder: where it is.
            name: of the data set.
            version: that it must have.
            split: a class split by name.
            stored_as: the name under which it was packed.
            command: what makes it, for messages.
            rule: gives the classes of `split` if the store does not list them; they are then in the fingerprint.

        Raises:
            UserError: it is not there, cut off, of another version, or its files don't fit together.
        """
        self.folder, self.name, self.split = folder, name, split
        if not folder.exists():
            raise UserError(f"the data set '{name}' is not in {folder.parent}: run `{command}`")
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self.images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
            found = (meta["format"], meta["name"], meta["version"], tuple(meta["shape"]), sum(meta["sizes"]))
            if (
                found != (FORMAT, stored_as, version, self.images.shape, len(self.images))
                or self.images.dtype != np.uint8
            ):
                raise ValueError("its files don't belong together")
            self.meta: dict[str, Any] = meta
            self.class_names: list[str] = meta["class_names"]
            self.sizes = np.array(meta["sizes"], np.int64)
            self.fingerprint: str = meta["fingerprint"]
            members = meta["splits"][split] if rule is None else rule(len(self.class_names))
            self._classes = {key: np.array(members[key], np.int64) for key in SPLITS}
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            reason = f"no '{error.args[0]}' in meta.json" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(
                f"{folder}: damaged or not a store of '{name}' ({reason}): run `{command} --rebuild`"
            ) from error
        self.starts = self.sizes.cumsum() - self.sizes
        if rule is not None:
            lists = json.dumps({key: members.tolist() for key, members in self._classes.items()})
            self.fingerprint = sha256(f"{self.fingerprint}{lists}".encode()).hexdigest()

    def classes(self, split: Split) -> NDArray[np.int64]:
        """Indices of the classes of a split."""
        return self._classes[split]

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images [..., C, H, W] as networks see them: in 0..1, and standardised if the data set is."""
        return scaled(pixels, self.mean, self.std)

    def pixels(self, scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Images [..., C, H, W] that were `scaled`, as they were."""
        x = scaled
        if self.mean is not None and self.std is not None:
            x = x * np.array(self.std, np.float32)[:, None, None] + np.array(self.mean, np.float32)[:, None, None]
        return (x * 255).round().clip(0, 255).astype(np.uint8)


class Published(NamedTuple):
    """How much of it there is, by those who published it.

    Attributes:
        classes: of each split.
        per_class: images of the smallest and of the largest class.
        images: in all.
    """

    classes: Mapping[Split, int]
    per_class: tuple[int, int]
    images: int


class ImageDataset(Dataset):
    """A data set of images, packed once per machine and shared by all processes. A subclass writes `build`.

    Attributes:
        version: of what `build` makes; a new one makes a new store.
        mean, std: per channel, if pixels are to be standardised.
        store_name: of the store, if data sets share one; None: the data set's own.
        published: class split by name -> what is in it by those who published it, where that is known.
        rules: class split by name -> its rule, of those that are not in the store. A store stays as it is, and its
            fingerprint, when a split is added here.
    """

    version: ClassVar[int] = 1
    store_name: ClassVar[str | None] = None
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None
    published: ClassVar[Mapping[str, Published]] = {}
    rules: ClassVar[Mapping[str, Rule]] = {}
    _store: Store | None = None
    _on_device: DeviceImages | None = None

    @abstractmethod
    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Read or draw all images, for all class splits.

        Raises:
            UserError: the data can't be had from `root`.
        """

    def fit(self, image: Image.Image) -> Image.Image:
        """An image file of any size and colour as `build` packs those of this data set: size and channels."""
        return squeezed(self.input_shape[-1])(image.convert("L" if self.input_shape[0] == 1 else "RGB"))

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
            store.mean, store.std = self.mean, self.std
            self._store = store
        return self._store

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
            "name": self.name, "kind": self.kind, "input_shape": list(self.input_shape), "splits": list(self.splits),
            "ready": self.ready, "folder": str(self.folder),
        }  # fmt: skip
        if not self.ready:
            return about
        store = self.store
        return about | {
            "classes": {split: len(store.classes(split)) for split in SPLITS},
            "images": len(store.images),
            "bytes": sum(file.stat().st_size for file in self.folder.iterdir()),
            "fingerprint": store.fingerprint,
        }

    def _open_other(self, name: str) -> "ImageDataset":
        return open_other(self, name)

    def _bank(self, split: Split, seed: int) -> EpisodeBank:
        bank = ImageEpisodes if self.task.sampler == "fixed" else VariableEpisodes
        if split == "test" and self._other is not None:
            other = self._other.store
            return bank(other, self.task, split, seed, HostImages(other.images, self._as_own))
        return bank(self.store, self.task, split, seed, self._on_device)

    def keep_on(self, device: torch.device) -> None:
        """Copy the images to a device; banks opened from now on gather their batches there, to the same bits.

        The test split of another data set stays where it is: its images are resized on the way.
        """
        self._on_device = DeviceImages(self.store.images, self.store.scaled, device)

    def _as_own(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images of another data set as models of this one see them."""
        return self.store.scaled(fitted(pixels, self.input_shape))


def open_dataset(task: "TaskConfig") -> Dataset:
    """The data set that a task names. Nothing is read or built yet.

    Raises:
        UserError: no data set or no class split of that name.
    """
    dataset: Dataset = registry.find("dataset", task.dataset)(task)
    return dataset
