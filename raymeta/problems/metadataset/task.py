"""The `task` section of Meta-Dataset: which of its data sets are trained and tested on, and what an episode is."""

import re
from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError, suggest
from raymeta.problems.images.task import ImagesTask, MetaDatasetConfig
from raymeta.problems.metadataset.published import SOURCES, TEST_ONLY

NAME = re.compile(r"[a-z0-9_]+")


class MetaDatasetTask(TaskConfig):
    """Defaults: the papers' setting, trained on ImageNet and tested on all ten, in 84x84 pixels (their Conv-4's)."""

    problem: Literal["metadataset"] = "metadataset"
    sources: tuple[str, ...] = Field(
        ("ilsvrc_2012",), min_length=1, description="Data sets to train on, by the names of their folders."
    )
    tests: tuple[str, ...] | None = Field(
        None, min_length=1, description="Data sets to test on; null: the benchmark's ten."
    )
    size: int = Field(84, ge=1, le=1024, description="Side of the images in pixels; the papers' ResNet-18: 126.")
    images_per_class: int = Field(
        600, ge=2, description="Images of a class that are packed, at most: drawn once. Episodes know how many it has."
    )
    bounds: MetaDatasetConfig = MetaDatasetConfig()

    @field_validator("sources", "tests")
    @classmethod
    def _are_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not NAME.fullmatch(name):
                raise ValueError(f"found '{name}': {suggest(name, SOURCES)}")
            if (names or ()).count(name) > 1:
                raise ValueError(f"found '{name}' twice; allowed: each once")
        return names

    @model_validator(mode="after")
    def _can_be_trained_on(self) -> Self:
        for name in self.sources:
            if name in TEST_ONLY:
                raise ValueError(
                    f"sources: found '{name}', which has no training classes: it is for validation or test"
                )
        bounds = self.bounds
        most = bounds.max_support - bounds.min_ways + 1 + bounds.max_queries
        if self.images_per_class < most:
            raise ValueError(
                f"images_per_class: found {self.images_per_class}, but an episode may need {most} of a class by the "
                f"bounds; allowed: {most} or more, or a smaller bounds.max_support"
            )
        return self

    @property
    def tested(self) -> tuple[str, ...]:
        """Data sets to test on."""
        return tuple(SOURCES) if self.tests is None else self.tests

    @property
    def name(self) -> str:
        """What a user types: `metadataset:omniglot,aircraft`."""
        return f"{self.problem}:{','.join(self.sources)}"

    @property
    def title(self) -> str:
        """`Meta-Dataset, trained on omniglot, aircraft`."""
        return f"Meta-Dataset, trained on {', '.join(self.sources)}"

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Of a test not what is trained on, of a validation not what is tested on."""
        own = {"tests": self.tested} if test else {"sources": self.sources}
        return {**self.model_dump(exclude={"sources", "tests"}), **own}

    def refuse_ignored(self, given: Collection[str]) -> None:
        if "task.bounds.max_ways" in given and self.bounds.max_ways < self.bounds.min_ways:
            raise UserError(f"task.bounds.max_ways: found {self.bounds.max_ways}, below min_ways")

    @property
    def of_a_source(self) -> ImagesTask:
        """The section of one of its data sets, as the store and the sampler of images know it."""
        return ImagesTask(
            dataset="metadataset", sampler="metadataset", metadataset=self.bounds, bank_seed=self.bank_seed
        )
