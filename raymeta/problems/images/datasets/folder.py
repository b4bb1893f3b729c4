"""Your own images: any folder of class folders, or an archive of one, packed as 84x84 colour, or as the task says.

    train/CLASS/..., val/..., test/...  the class split is the folders'
    CLASS/..., splits.csv               it is the list's, columns `class,split`, which names every class
    CLASS/...                           64 / 16 / 20 % of the classes, sorted, then shuffled by `random.Random(1)`

`--data-root` names the folder, and the command line puts its absolute path into the config, `task.source`: workers,
resumed studies and final runs find the same data by it. The store is named after the path, and made anew by the next
command that prepares data when a file has another name, size or time than before; a study that was made on the old one
is then refused. Images are squeezed to 84x84, or `task.size`, with Lanczos, and standardised with ImageNet's mean and
deviation; where `task.grey` is set they are grey and stay in 0..1. `reading/pictures.py` says what becomes of pictures
that are not 8-bit colour, `task.background` what is behind transparent ones. Each way has a store of its own.
"""

import json
import os
import random
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from raymeta import registry
from raymeta.errors import UserError, suggest
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.files import shown, typed
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import WHITE
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.reading.sources import check_counts, csv_rows
from raymeta.problems.images.reading.trees import FOLDERS, Tree, pack_files, split_folders
from raymeta.problems.images.store import Channels
from raymeta.problems.images.task import OF_A_SOURCE, ImagesTask

SIDE = 84
SHARES = (0.64, 0.16)  # of training and validation classes
SHUFFLE_SEED = 1
LIST = "splits.csv"
SKIP = "--skip-broken (in a search: task.skip_broken=true) leaves such pictures out"

ByClass = dict[str, list[str]]


@registry.dataset("folder")
class Folder(ImageDataset):
    """See the module's docstring."""

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)
    has_source: ClassVar[bool] = True
    _listed: Tree | None = None

    def __init__(self, task: ImagesTask) -> None:
        super().__init__(task)
        self.input_shape = (1 if task.grey else 3, task.size or SIDE, task.size or SIDE)

    @property
    def standard(self) -> tuple[Channels | None, Channels | None]:
        """ImageNet's, of colour; grey stays in 0..1."""
        return (None, None) if self.task.grey else (self.mean, self.std)

    @property
    def source(self) -> Path:
        """The folder or archive.

        Raises:
            UserError: the task names none.
        """
        if self.task.source is None:
            raise UserError("folder: name the folder of class folders by --data-root")
        return Path(self.task.source)

    @property
    def ready(self) -> bool:
        """Packed, and the source is as it was or gone."""
        if self.task.source is None or not super().ready:
            return False
        return not self.source.exists() or self._packed_listing() in (None, self._tree().listing)

    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        if root is not None and Path(root).resolve() != self.source.resolve():
            raise UserError(f"{shown(root)}: the task's source is another one, {self.source}")
        if not self.source.exists():
            if rebuild or not super().ready:
                raise UserError(f"{shown(self.source)}: no such folder")
            _ = self.store  # says so if it is damaged
            return
        self._listed = Tree(self.source)
        try:
            super().prepare(root, progress, rebuild=rebuild or (super().ready and not self.ready))
        finally:
            self._listed = None

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images of the source.

        Args:
            root: not used: the source is the task's.
            progress: called per image.
        """
        tree = self._tree()
        classes = _classes(tree)
        found = {split: {name: len(paths) for name, paths in classes[split].items()} for split in SPLITS}
        check_counts(self.source, found, None)
        return pack_files(tree, classes, self.input_shape, self.fit, progress, skip=self.task.skip_broken, remedy=SKIP)

    def describe(self) -> dict[str, Any]:
        if self.task.source is not None:
            return super().describe() | {"source": self.task.source}
        return {
            "name": self.name, "input_shape": list(self.input_shape), "splits": list(self.splits),
            "fitted": self.fitted, "ready": False,
        }  # fmt: skip

    @property
    def _stored_as(self) -> str:
        options = self._options
        key = os.fsencode(self.source) + (json.dumps(options, sort_keys=True).encode() if options else b"")
        return f"{self.name}-{sha256(key).hexdigest()[:12]}"

    @property
    def _options(self) -> dict[str, Any]:
        """How it is packed, where that is not the default: each way has a store of its own."""
        side, colour = self.input_shape[-1], self.background
        options = {
            "size": None if side == SIDE else side,
            "grey": self.task.grey,
            "background": None if colour == WHITE else "#{:02x}{:02x}{:02x}".format(*colour),
            "skip_broken": self.task.skip_broken,
        }
        return {key: value for key, value in options.items() if value}

    @property
    def _command(self) -> str:
        words = [f"raymeta data prepare {self.name} --data-root {typed(self.source)}"]
        for key, value in self._options.items():
            words.append(f"--{key.replace('_', '-')}" + ("" if value is True else f" {typed(value)}"))
        return " ".join(words)

    def _about(self) -> dict[str, Any]:
        task = {key: getattr(self.task, key) for key in OF_A_SOURCE}
        return super()._about() | {"listing": self._tree().listing, "task": task}

    def _tree(self) -> Tree:
        """The files of the source, as they are now or, while they are packed, as they were at the start."""
        return self._listed or Tree(self.source)

    def _packed_listing(self) -> Any:
        """The sum at the time of packing; None: the store is damaged, which opening it says."""
        try:
            return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))["listing"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _classes(tree: Tree) -> dict[Split, ByClass]:
    by_folder = split_folders(tree)
    if by_folder["train"]:
        for split in SPLITS:
            if not by_folder[split]:
                raise UserError(f"{tree.source}: it has a folder train, but no images in folders of a {split} split")
        return by_folder
    base, classes = _class_folders(tree)
    if not classes:
        raise UserError(f"{tree.source}: no class folders with images are in it")
    if f"{base}{LIST}" in tree.paths:
        ((_, content),) = tree.read([f"{base}{LIST}"])
        return _listed(f"{tree.source}: {LIST}", content, classes)
    names = sorted(classes)
    random.Random(SHUFFLE_SEED).shuffle(names)
    train, validation = (round(share * len(names)) for share in SHARES)
    parts = names[:train], names[train : train + validation], names[train + validation :]
    return {split: {name: classes[name] for name in part} for split, part in zip(SPLITS, parts, strict=True)}


def _class_folders(tree: Tree) -> tuple[str, ByClass]:
    """What stands before each class in the paths, one folder of an archive at most, and the images of each class."""
    images = [path.split("/") for path in tree.pictures]
    down = 1 if len({parts[0] for parts in images}) == 1 and all(len(parts) > 2 for parts in images) else 0
    classes: ByClass = {}
    for parts in images:
        if len(parts) > down + 1:
            classes.setdefault(parts[down], []).append("/".join(parts))
    return (f"{images[0][0]}/" if down else ""), classes


def _listed(where: str, content: bytes, classes: ByClass) -> dict[Split, ByClass]:
    found: dict[Split, ByClass] = {split: {} for split in SPLITS}
    seen: set[str] = set()
    for number, (name, word) in csv_rows(where, content, ("class", "split")):
        if name not in classes:
            raise UserError(f"{where}: line {number}: there is no folder of the class '{name}'")
        if word not in FOLDERS:
            raise UserError(f"{where}: line {number}: unknown split '{word}': {suggest(word, list(FOLDERS))}")
        if name in seen:
            raise UserError(f"{where}: line {number}: the class '{name}' is named a second time")
        seen.add(name)
        found[FOLDERS[word]][name] = classes[name]
    if missing := sorted(set(classes) - seen):
        raise UserError(f"{where}: it names no split of the class '{missing[0]}'")
    return found
