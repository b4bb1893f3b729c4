"""A data set of images: few-shot classification of them is the problem.

A data set is a file: a subclass of `ImageDataset` under `@registry.dataset("name")`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.engine.labelled import Labelled
from raymeta.errors import UserError
from raymeta.problem import Bank, Examples, Split
from raymeta.problems.images.classification import ImageClassification
from raymeta.problems.images.cross import fitted
from raymeta.problems.images.episodes import ImageEpisodes, classes_of
from raymeta.problems.images.images import HostImages
from raymeta.problems.images.layouts.plan import Plan
from raymeta.problems.images.reading.pictures import Colour
from raymeta.problems.images.reading.sources import Published, check_counts
from raymeta.problems.images.stored import StoredImages
from raymeta.problems.images.task import OF_A_SOURCE, ImagesTask
from raymeta.problems.images.variable import VariableEpisodes

TASK = re.compile(r"(?P<dataset>[a-z0-9]+)(-(?:(?P<ways>\d+)w)?(?P<shots>\d+)s|-(?P<sampler>metadataset))?")


@registry.problem("images")
class ImageDataset(StoredImages, ImageClassification):
    """A data set of images. A subclass writes `build`.

    Attributes:
        published: class split by name -> what is in it by those who published it, where that is known.
    """

    Config: ClassVar[type[TaskConfig]] = ImagesTask
    form: ClassVar[str] = "DATASET-<ways>w<shots>s, as in omniglot-5w1s, or DATASET-metadataset"
    published: ClassVar[Mapping[str, Published]] = {}

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
        self._other = None if task.test_dataset is None else _open_other(self, task.test_dataset)

    @classmethod
    def check(cls, task: Any) -> None:
        super().check(task)
        if task.test_dataset is not None:
            registry.find("dataset", task.test_dataset)

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

    def plan(self, root: Path | None) -> Plan | None:
        """What `build` would pack, before an image is read; None: it is drawn or downloaded.

        Raises:
            UserError: the data can't be had from `root`.
        """
        return None

    def preview(self, root: Path | None) -> dict[str, Any] | None:
        if (plan := self.plan(root)) is None:
            return None
        found = plan.shown(self.input_shape)
        try:
            check_counts(plan.source, plan.counts, self.published.get(self.split))
        except UserError as error:
            found["refused"] = str(error)
        return found

    @property
    def background(self) -> Colour:
        red, green, blue, *_ = ImageColor.getrgb(self.task.background)
        return red, green, blue

    def under(self, split: str) -> "ImageDataset":
        """The same data set under another class split."""
        return type(self)(self.task.model_copy(update={"split": split}))

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
