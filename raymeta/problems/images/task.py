"""The `task` section of images: what an episode is."""

from collections.abc import Collection
from typing import Any, Literal, Self

from PIL import ImageColor
from pydantic import Field, field_validator, model_validator

from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError
from raymeta.schema import Section

OF_A_SOURCE = ("source", "size", "grey", "background", "skip_broken")  # keys of data sets that are a user's own


class MetaDatasetConfig(Section):
    """Bounds of `task.sampler: metadataset`; defaults: Meta-Dataset's code. See raymeta/problems/images/variable.py."""

    min_ways: int = Field(5, ge=2, description="Classes in an episode, at least.")
    max_ways: int = Field(50, ge=2, description="Classes in an episode, at most: the outputs of a model's head.")
    max_queries: int = Field(
        10, ge=1, description="Query examples per class, at most; no more than half of the smallest class."
    )
    max_support: int = Field(500, ge=2, description="Support examples of an episode, at most.")
    max_support_per_class: int = Field(100, ge=1, description="What a class adds to the support's size, at most.")
    imbalance: float = Field(
        2.0, ge=1, description="A class's share of the support is as its size, times a draw from 1/this to this."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.min_ways <= self.max_ways <= self.max_support:
            raise ValueError(
                f"expected min_ways ({self.min_ways}) <= max_ways ({self.max_ways}) <= max_support ({self.max_support})"
            )
        return self


class ImagesTask(TaskConfig):
    """What an episode is."""

    problem: Literal["images"] = "images"
    dataset: str = "glyphs"
    split: str | None = Field(None, description="Class split by name; null: the data set's default.")
    source: str | None = Field(
        None, description="Folder or archive of the data set `folder`, an absolute path; --data-root fills it in."
    )
    size: int | None = Field(None, ge=1, le=1024, description="Side of the images of `folder`, in pixels; null: 84.")
    grey: bool = Field(False, description="Pack the images of `folder` as grey.")
    background: str = Field(
        "white", description="Colour behind what is transparent in the pictures of `folder`: a name, or #rrggbb."
    )
    skip_broken: bool = Field(
        False, description="Leave out the pictures of `folder` that can't be read; the store has a list of them."
    )
    sampler: Literal["fixed", "metadataset"] = Field(
        "fixed",
        description="fixed: all episodes have `ways`, `shots`, `queries`; metadataset: drawn within bounds.",
    )
    metadataset: MetaDatasetConfig = MetaDatasetConfig()
    ways: int = Field(5, ge=2, description="Classes in an episode.")
    shots: int = Field(1, ge=1, description="Support examples per class.")
    queries: int = Field(15, ge=1, description="Query examples per class in training.")
    eval_queries: int | None = Field(
        None, ge=1, description="Query examples per class in evaluation; null: as queries."
    )
    labels: Literal["shuffled", "fixed"] = Field(
        "shuffled", description="fixed: a training class has the same label in every task (non-mutually-exclusive)."
    )
    share_classes: bool = Field(
        False,
        description="All tasks of an outer step have the same classes with the same labels, and other images of them, "
        "as in Meta-Dropout's code.",
    )
    train_classes: int | None = Field(
        None, ge=1, description="Train on so many of the training classes only, drawn once; null: on all."
    )
    rotations: Literal["none", "train", "always", "classes"] = Field(
        "none",
        description="Turn each class of an episode by a drawn multiple of 90 degrees: in training, or always. "
        "classes: a class is four, one for each multiple, in all splits.",
    )
    test_dataset: str | None = Field(
        None, description="Data set whose test split a final run is tested on (cross-domain); null: the task's own."
    )

    @field_validator("background")
    @classmethod
    def _is_colour(cls, text: str) -> str:
        try:
            ImageColor.getrgb(text)
        except ValueError:
            raise ValueError(f"found '{text}': expected a colour, as in white, #808080 or rgb(0,0,0)") from None
        return text

    @model_validator(mode="after")
    def _one_number_of_ways(self) -> Self:
        if self.sampler != "fixed" and self.labels == "fixed":
            raise ValueError(f"labels: found 'fixed', but sampler {self.sampler} draws the ways; allowed: shuffled")
        if self.sampler != "fixed" and self.share_classes:
            raise ValueError(
                f"share_classes: found true, but sampler {self.sampler} draws classes task by task; allowed: false"
            )
        return self

    @property
    def most_ways(self) -> int:
        """Classes of the largest episode."""
        return self.ways if self.sampler == "fixed" else self.metadataset.max_ways

    @property
    def name(self) -> str:
        """What a user types: `omniglot-20w1s`, `omniglot-metadataset`."""
        if self.sampler != "fixed":
            return f"{self.dataset}-{self.sampler}"
        return f"{self.dataset}-{self.ways}w{self.shots}s"

    @property
    def data(self) -> str:
        return self.dataset

    @property
    def title(self) -> str:
        """`omniglot 20-way 1-shot`."""
        data = self.dataset if self.test_dataset is None else f"{self.dataset} → {self.test_dataset}"
        if self.sampler != "fixed":
            return f"{data}, ways and shots drawn ({self.sampler})"
        return f"{data} {self.ways}-way {self.shots}-shot"

    @property
    def elsewhere(self) -> "ImagesTask | None":
        return None if self.test_dataset is None else ImagesTask(dataset=self.test_dataset)

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Not what is of training alone: its queries, labels, classes, which tasks share them, and rotations."""
        of_training: dict[str, Any] = {"queries": None, "labels": None, "share_classes": None, "train_classes": None}
        rotations = "none" if self.rotations == "train" else self.rotations
        queries = self.queries if self.eval_queries is None else self.eval_queries
        other = self.test_dataset if test else None
        return {
            **self.model_dump(),
            **of_training,
            "rotations": rotations,
            "eval_queries": queries,
            "test_dataset": other,
        }

    def refuse_ignored(self, given: Collection[str]) -> None:
        """A sampler that draws an episode's shape would ignore what a user says of it."""
        for key in ("task.ways", "task.shots", "task.queries", "task.eval_queries"):
            if self.sampler != "fixed" and key in given:
                raise UserError(
                    f"{key}: it was given, but sampler {self.sampler} draws it, within the bounds of "
                    f"task.{self.sampler}"
                )
