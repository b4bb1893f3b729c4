"""Your own images: a folder of class folders, or an archive of one, packed as 84x84 colour, or as the task says.

    train/CLASS/..., val/..., test/...  the class split is the folders', in these or other words
    CLASS/..., and lists                it is the lists': splits.csv, or train.csv, val.csv, test.csv
    CLASS/...                           64 / 16 / 20 % of the classes, sorted, then shuffled by `random.Random(1)`

All that is read is in `raymeta/problems/images/layouts`; `raymeta data prepare folder --data-root PATH --dry-run` says
what is found. `--validation-share 0.2` of `data prepare` holds out training classes for validation where a data set has
none: the store keeps the share, and one that is made anew has it again.

`--data-root` names the folder, and the command line puts its absolute path into the config, `task.source`: workers,
resumed studies and final runs find the same data by it. The store is named after the path, and made anew by the next
command that prepares data when a file has another name, size or time than before; a study that was made on the old one
is then refused. Images are squeezed to 84x84, or `task.size`, with Lanczos, and standardised with ImageNet's mean and
deviation; where `task.grey` is set they are grey and stay in 0..1. `reading/pictures.py` says what becomes of pictures
that are not 8-bit colour, `task.background` what is behind transparent ones. Each way has a store of its own.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from raymeta import registry
from raymeta.errors import UserError, shown
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.layouts.plan import Plan, planned
from raymeta.problems.images.reading.files import typed
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import WHITE
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.reading.trees import Tree, pack_files
from raymeta.problems.images.store import Channels
from raymeta.problems.images.task import OF_A_SOURCE, ImagesTask
from raymeta.storage.files import cache_folder

SIDE = 84
SHARE = "validation_share"  # in `meta.json`
SKIP = "--skip-broken (in a search: task.skip_broken=true) leaves such pictures out"


@registry.dataset("folder")
class Folder(ImageDataset):
    """See the module's docstring.

    Attributes:
        validation_share: of the training classes, to hold out where nothing says which are for validation; None: as
            the store was made.
    """

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)
    has_source: ClassVar[bool] = True
    validation_share: float | None = None
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
        return not self.source.exists() or self._packed("listing") in (None, self._tree().listing)

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
            other = self.validation_share not in (None, self._packed(SHARE))
            super().prepare(root, progress, rebuild=rebuild or (super().ready and (other or not self.ready)))
        finally:
            self._listed = None

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images of the source.

        Args:
            root: not used: the source is the task's.
            progress: called per image.
        """
        plan = self.plan(None)
        share = {SHARE: self._share} if plan.layout.held_out else {}
        return pack_files(
            self._tree(),
            plan.layout.classes,
            self.input_shape,
            self.fit,
            progress,
            about=plan.about() | share,
            left=plan.left(),
            skip=self.task.skip_broken,
            remedy=SKIP,
        )

    def plan(self, root: Path | None) -> Plan:
        found = planned(self._tree(), share=self._share)
        if self.validation_share is not None and not found.layout.held_out:
            raise UserError(
                f"{self.source}: --validation-share {self.validation_share:g} would be ignored: it has classes for "
                f"validation, {found.layout.words}"
            )
        return found

    @classmethod
    def prepared(cls) -> list["Folder"]:
        """Those that are packed on this machine, by their paths. Stores of raymeta 0.1.0 don't say theirs."""
        tasks = [task for _, task in _stores(cls.name, cls.version) if task is not None]
        found = [cls(ImagesTask.model_validate({"dataset": cls.name, **task})) for task in tasks]
        return sorted(found, key=lambda one: (one.title, one.folder))

    @classmethod
    def nameless(cls) -> list[str]:
        """Names of the stores that don't say which folder they are of."""
        return sorted(name for name, task in _stores(cls.name, cls.version) if task is None)

    @property
    def title(self) -> str:
        """`folder /home/me/photos`, and how it is packed where that is not the default."""
        words = [
            f"{key.replace('_', '-')}{'' if value is True else f' {value}'}" for key, value in self._options.items()
        ]
        return f"{self.name} {shown(self.source)}" + (f" ({', '.join(words)})" if words else "")

    @property
    def state(self) -> str:
        """How the store stands to the source."""
        if not self.source.exists():
            return "gone: the packed images are used"
        listing = self._packed("listing")
        return "as they were packed" if listing == self._tree().listing else "changed: the next command packs them anew"

    def describe(self) -> dict[str, Any]:
        if self.task.source is not None:
            found = super().describe() | {"source": self.task.source}
            if words := [f"task.{key}={typed(str(value).lower())}" for key, value in self._options.items()]:
                found["in_a_search"] = f"--task folder-5w1s --data-root {typed(self.source)} {' '.join(words)}"
            return found
        return {
            "name": self.name, "input_shape": list(self.input_shape), "splits": list(self.splits),
            "fitted": self.fitted, "ready": False,
        }  # fmt: skip

    @property
    def _share(self) -> float | None:
        return self._packed(SHARE) if self.validation_share is None else self.validation_share

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

    def _packed(self, key: str) -> Any:
        """What the store says of its making; None: nothing, or it is damaged, which opening it says."""
        try:
            return json.loads((self.folder / "meta.json").read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            return None


def _stores(name: str, version: int) -> list[tuple[str, dict[str, Any] | None]]:
    """Stores in the cache and the task that they were packed for; None: it is not written there."""
    found = []
    for folder in cache_folder().glob(f"{name}-*-{version}"):
        try:
            task = json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("task")
        except (OSError, ValueError, AttributeError):
            task = None  # damaged
        found.append((folder.name, task))
    return found
