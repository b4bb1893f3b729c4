"""Meta-Dataset: episodes from several data sets of images, of differing ways and shots.

Triantafillou et al.: Meta-Dataset (ICLR 2020). In training each episode is of one of `task.sources`, drawn evenly; in
validation they take turns, as far as they hold out classes for it, and in the test those of `task.tests` do, so that a
test of 6,000 tasks has 600 of each of the ten. The k-th test task of a data set is the same beside whatever others.
"""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError
from raymeta.problem import Bank, Split, Tasks
from raymeta.problems.images.classification import ImageClassification
from raymeta.problems.metadataset.published import SOURCES
from raymeta.problems.metadataset.source import MetaDatasetSource
from raymeta.problems.metadataset.spec import FILE
from raymeta.problems.metadataset.task import MetaDatasetTask
from raymeta.problems.uniforms import Uniforms
from raymeta.storage.files import cache_folder

TASK = re.compile(r"metadataset(:(?P<sources>[a-z0-9_]+(,[a-z0-9_]+)*))?")


class MixedEpisodes:
    """Episodes of several data sets.

    Args:
        banks: by data set.
        uniforms: which data set an episode is of is drawn by them; None: they take turns.
    """

    def __init__(self, banks: dict[str, Bank], uniforms: Uniforms | None) -> None:
        self._banks, self._uniforms = banks, uniforms
        self._names = list(banks)

    def source(self, number: int) -> str:
        """The data set that an episode is of."""
        if self._uniforms is None:
            return self._names[number % len(self._names)]
        return self._names[int(self._uniforms.rows(number, 1, 1)[0, 0] * len(self._names))]

    def draw(self, first: int, count: int, learner: Any = None) -> Tasks:
        """Episode `first`; see `VariableEpisodes`."""
        own = first if self._uniforms is not None else first // len(self._names)
        return self._banks[self.source(first)].draw(own, count, learner)


@registry.problem("metadataset")
class MetaDataset(ImageClassification):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = MetaDatasetTask
    form: ClassVar[str] = f"metadataset:SOURCE,…, as in metadataset:omniglot,aircraft ({', '.join(SOURCES)})"
    mean: ClassVar[tuple[float, ...] | None] = MetaDatasetSource.mean
    std: ClassVar[tuple[float, ...] | None] = MetaDatasetSource.std
    fitted: ClassVar[str] = MetaDatasetSource.fitted
    keeps_on_devices: ClassVar[bool] = True
    one_shape: bool = False

    def __init__(self, task: MetaDatasetTask) -> None:
        super().__init__(task)
        self.labels = task.bounds.max_ways
        self.input_shape = (3, task.size, task.size)
        self._sources = {name: MetaDatasetSource(name, task) for name in (*task.sources, *task.tested)}

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`metadataset`, or `metadataset:omniglot,aircraft`."""
        match = TASK.fullmatch(text)
        if match is None:
            return None
        return {} if match["sources"] is None else {"sources": match["sources"].split(",")}

    @property
    def sources(self) -> list[MetaDatasetSource]:
        """Those that are trained on."""
        return [self._sources[name] for name in self.task.sources]

    def _bank(self, split: Split, seed: int) -> Bank:
        if split == "test":
            names: Sequence[str] = self.task.tested
            if missing := [name for name in names if not self._sources[name].ready]:
                raise UserError(
                    f"task.tests: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not prepared: raymeta "
                    "data prepare metadataset --data-root DIR does it; or name those to test on, as in "
                    "task.tests=[omniglot]"
                )
        else:
            names = [one.source for one in self.sources if one.has(split)]
        empty = [name for name in names if not self._sources[name].has(split)]
        if empty or not names:
            where = ", ".join(empty or self.task.sources)
            raise UserError(f"metadataset: no classes for {'the test' if split == 'test' else split} are in {where}")
        banks = {name: self._sources[name].bank(split, seed, final=split == "test") for name in names}
        drawn = Uniforms("metadataset", *names, split, seed) if split == "train" else None
        return MixedEpisodes(banks, drawn)

    def parts(self, tasks: int) -> list[str]:
        names = self.task.tested
        return [names[number % len(names)] for number in range(tasks)]

    @property
    def kept_bytes(self) -> int:
        return sum(one.kept_bytes for one in self.sources)

    def keep_on(self, device: torch.device) -> None:
        for one in self.sources:
            one.keep_on(device)

    def picture(self, path: Path) -> None:
        if len(self.sources) > 1:
            raise UserError(f"{self.task.name}: name one of them, as in metadataset:{self.task.sources[0]}")
        self.sources[0].picture(path)

    def prepare(self, root: Any = None, progress: Any = None, *, rebuild: bool = False) -> None:
        """Pack the data sets that are trained on, and all others that are in `root`; see `Problem.prepare`."""
        there = sources_in(Path(root)) if root is not None else []
        needed = [name for name in self.task.sources if rebuild or not self._sources[name].ready]
        if there and self.task.sources == MetaDatasetTask().sources:  # none was asked for by its name
            needed = [name for name in needed if name in there]
        for name in dict.fromkeys([*needed, *there]):
            source = self._sources.get(name) or MetaDatasetSource(name, self.task)
            source.prepare(root, progress, rebuild=rebuild)

    @property
    def ready(self) -> bool:
        return all(one.ready for one in self.sources)

    @property
    def fingerprint(self) -> str:
        return sha256("".join(one.fingerprint for one in self.sources).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        about = {
            "name": self.name, "input_shape": list(self.input_shape), "splits": ["standard"], "fitted": self.fitted,
            "ready": self.ready, "folder": str(cache_folder()),
        }  # fmt: skip
        found = {one.source: one.remarks["found"] for one in self.prepared() if one.input_shape == self.input_shape}
        names = dict.fromkeys([*SOURCES, *found])
        return about | {f"{self.name}:{name}": found.get(name, "not prepared") for name in names}

    @classmethod
    def prepared(cls) -> list[MetaDatasetSource]:
        """The data sets that are packed on this machine."""
        found = []
        for folder in sorted(cache_folder().glob(f"metadataset-*-{MetaDatasetSource.version}")):
            try:
                meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
                task = MetaDatasetTask(**meta["task"])
                found.append(MetaDatasetSource(meta["source"], task))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a damaged one, which using it says
        return found


def sources_in(root: Path) -> list[str]:
    """Names of the data sets that are in a folder, or that the folder is one of.

    Raises:
        UserError: there is none.
    """
    if (root / FILE).exists():
        return [root.resolve().name]
    found = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    if not found:
        raise UserError(f"{root}: neither it nor a folder in it has a {FILE}")
    return found
