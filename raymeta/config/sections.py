"""The sections that every trial has: the task, the outer loop, the budget, the engine."""

from typing import Literal, Self

from pydantic import Field, model_validator

from raymeta.schema import Section


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


class TaskConfig(Section):
    """What an episode is."""

    dataset: str = "glyphs"
    split: str | None = Field(None, description="Class split by name; null: the data set's default.")
    source: str | None = Field(
        None, description="Folder or archive of the data set `folder`, an absolute path; --data-root fills it in."
    )
    sampler: Literal["fixed", "metadataset"] = Field(
        "fixed",
        description="fixed: all episodes have `ways`, `shots`, `queries`; metadataset: drawn within bounds.",
    )
    metadataset: MetaDatasetConfig = MetaDatasetConfig()
    ways: int = Field(5, ge=1, description="Classes in an episode.")
    shots: int = Field(1, ge=1, description="Support examples per class.")
    queries: int = Field(15, ge=1, description="Query examples per class in training.")
    eval_queries: int | None = Field(
        None, ge=1, description="Query examples per class in evaluation; null: as queries."
    )
    labels: Literal["shuffled", "fixed"] = Field(
        "shuffled", description="fixed: a training class has the same label in every task (non-mutually-exclusive)."
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
    bank_seed: int = Field(0, ge=0, description="Seed of the validation and test episodes, the same for all trials.")

    @model_validator(mode="after")
    def _one_number_of_ways(self) -> Self:
        if self.sampler != "fixed" and self.labels == "fixed":
            raise ValueError(f"labels: found 'fixed', but sampler {self.sampler} draws the ways; allowed: shuffled")
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
        return f"{self.dataset}-{f'{self.ways}w' if self.ways > 1 else ''}{self.shots}s"


class OuterConfig(Section):
    """The outer update."""

    lr: float = Field(1e-3, gt=0, description="Adam's step size.")
    tasks_per_step: int = Field(4, ge=1, description="Tasks of one outer step.")
    reduction: Literal["mean", "sum"] = Field("mean", description="How the tasks' query losses are put together.")
    clip: float | None = Field(None, gt=0, description="Outer gradients are clipped to [-clip, clip]; null: not.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Step size over the full budget.")
    min_lr: float = Field(0.0, ge=0, description="Where the cosine ends.")


class PretrainingConfig(Section):
    """Plain classification of all training classes before meta-training, with Adam; see pretraining.py."""

    epochs: int = Field(
        0, ge=0, description="Passes over the training images; 0: the backbone starts from `model.init`."
    )
    batch_size: int = Field(64, ge=2)
    lr: float = Field(1e-3, gt=0, description="Adam's step size.")
    seed: int = Field(0, ge=0, description="Of its initial weights and batches, the same for all trials.")


class BudgetConfig(Section):
    """How long a trial trains and how it is watched; schedules are keyed to the full budget."""

    outer_steps: int = Field(20_000, ge=1, description="Full budget of a trial in outer steps.")
    validate_every: int = Field(500, ge=1, description="Outer steps of a round; a validation ends it.")
    validation_tasks: int = Field(600, ge=2, description="Episodes of a validation.")
    test_tasks: int = Field(600, ge=2, description="Episodes of the test in a final run.")
    ensemble: int = Field(
        5, ge=1, description="Best validated weights whose mean outputs are tested beside the best alone (MAML++: 5)."
    )

    @model_validator(mode="after")
    def _whole_rounds(self) -> Self:
        if self.outer_steps % self.validate_every:
            raise ValueError(
                f"outer_steps ({self.outer_steps}) must be a multiple of validate_every ({self.validate_every})"
            )
        return self


class EngineConfig(Section):
    """How the same numbers are computed; changes rounding only."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one.")
    images: Literal["auto", "host", "device"] = Field(
        "auto",
        description="Where batches are gathered from: the memory-mapped store, or a copy of it on the trial's device; "
        "auto: the device, if that is a GPU on which the store takes little of the free memory.",
    )
    tasks: Literal["auto", "loop", "vmap"] = Field(
        "auto", description="Tasks of an outer step one by one or batched; auto: batched on a GPU or for an MLP."
    )
