"""A problem that is made of packed images: where they are, and how they are packed.

What its tasks are is left to it: classes of images (`dataset.py`), or views of things (`raymeta/problems/viewpoint`).
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from raymeta.errors import UserError, suggest
from raymeta.problem import SPLITS
from raymeta.problems.images.images import DeviceImages
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
from raymeta.problems.images.reading.remote import Root, local
from raymeta.problems.images.seen import ImageProblem
from raymeta.problems.images.store import Rule, Store
from raymeta.problems.named import NamesDataSet
from raymeta.storage.files import cache_folder


class StoredImages(NamesDataSet, ImageProblem):
    """Images that are packed once per machine and shared by all processes. A subclass writes `build`.

    Attributes:
        splits: class splits by name, the default first; split: the one that is used.
        version: of what `build` makes; a new one makes a new store.
        store_name: of the store, if data sets share one; None: the data set's own.
        rules: class split by name -> its rule, of those that are not in the store. A store stays as it is, and its
            fingerprint, when a split is added here.
    """

    splits: ClassVar[tuple[str, ...]] = ("standard",)
    version: ClassVar[int] = 1
    store_name: ClassVar[str | None] = None
    rules: ClassVar[Mapping[str, Rule]] = {}
    keeps_on_devices: ClassVar[bool] = True
    split: str = "standard"
    _store: Store | None = None
    _on_device: DeviceImages | None = None

    def __init__(self, task: Any) -> None:
        """Open it under a task's settings; nothing is read yet.

        Raises:
            UserError: no class split of the name `task.split`.
        """
        super().__init__(task)
        self.split = self.splits[0] if task.split is None else task.split
        if self.split not in self.splits:
            raise UserError(f"task.split: {self.name} has no split '{self.split}': {suggest(self.split, self.splits)}")

    @abstractmethod
    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Read or draw all images, for all class splits.

        Raises:
            UserError: the data can't be had from `root`.
        """

    def preview(self, root: Path | None) -> dict[str, Any] | None:
        """What `build` would pack, before an image is read, as plain data; None: it is drawn or downloaded.

        Returns:
            Where it comes from, what would be in each split, what is left out, and, under `refused`, why `build` would
            refuse it, if it would.

        Raises:
            UserError: the data can't be had from `root`.
        """
        return None

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

    @property
    def kept_bytes(self) -> int:
        return self.store.images.nbytes

    def keep_on(self, device: torch.device) -> None:
        """Copy the images to a device; see `Problem.keep_on`.

        The test split of another data set stays where it is: its images are resized on the way.
        """
        self._on_device = DeviceImages(self.store.images, self.store.scaled, device)
