"""The sections that every trial has: the task, but for what its problem adds; outer loop, budget, engine."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raymeta.schema import NUMBER, Number, Section


class TaskConfig(Section):
    """What every problem's `task` section has; a problem adds its own keys."""

    problem: str = Field("images", description="Which problem the tasks are of.")
    bank_seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the validation and test tasks, the same for all trials."
    )

    @property
    def name(self) -> str:
        """What a user types after `--task`."""
        return self.problem

    @property
    def data(self) -> str:
        """The data set's name, or the problem's if it has none."""
        return self.problem

    @property
    def title(self) -> str:
        """What the tasks are, as a table's heading says it."""
        return self.name

    @property
    def elsewhere(self) -> "TaskConfig | None":
        """Of the data that a final run is tested on, where they are others than those trained on."""
        return None

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """What of it decides how evaluation's tasks are drawn: configs that agree in it are scored on the same ones.

        Args:
            test: the tasks are those of a test, not of a validation.
        """
        return self.model_dump()

    def refuse_ignored(self, given: Collection[str]) -> None:
        """Say which of the keys that a user gave would be ignored.

        Raises:
            UserError: one would.
        """


SEARCHED: Any = {"searched": True}  # a task's key that evaluation knows nothing of: trials of a study may differ in it
Share = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(gt=0)]


def _refuse_falling(milestones: Sequence[float]) -> None:
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones: found {list(milestones)}, which do not rise")


class AddedConfig(Section):
    """The outer update of what learners and regularizers learn beside the model: ModGrad's modulator, say."""

    lr: Annotated[float | None, NUMBER] = Field(None, gt=0, description="Step size; null: outer.lr.")
    milestones: tuple[Share, ...] = Field(
        (), description="Shares of the full budget, rising, where the step size changes; none: outer.schedule holds."
    )
    factors: tuple[Factor, ...] = Field((), description="Of lr, one from each milestone on.")

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                f"milestones: found {len(self.milestones)}, and {len(self.factors)} factors; as many are needed"
            )
        _refuse_falling(self.milestones)
        return self


class OuterConfig(Section):
    """The outer update."""

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Number = Field(1e-3, gt=0, description="Step size; of SGD 0.1 in Meta-MaxUp's code.")
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd.")
    nesterov: bool = Field(False, description="sgd: Nesterov's momentum.")
    weight_decay: Number = Field(
        0.0, ge=0, description="Times the parameters, added to their gradients; a loss term of l |w|^2 is 2 l."
    )
    decay_of: Literal["all", "kernels"] = Field(
        "all", description="What decays; kernels: no biases and no norms, as in Meta-Dataset's code."
    )
    tasks_per_step: int = Field(4, ge=1, description="Tasks of one outer step.")
    reduction: Literal["mean", "sum"] = Field("mean", description="How the tasks' query losses are put together.")
    clip: Annotated[float | None, NUMBER] = Field(
        None, gt=0, description="Outer gradients are clipped to [-clip, clip]; null: not."
    )
    clip_norm: Annotated[float | None, NUMBER] = Field(
        None, gt=0, description="Outer gradients are scaled down to this norm; null: not. RelationNet's authors: 0.5."
    )
    clip_scope: Literal["all", "model", "head", "per_module"] = Field(
        "all",
        description="What is clipped: all that is learned, the model alone (MAML++, L2F), its head, or by norm the "
        "model and each module beside it separately (RelationNet).",
    )
    clip_when: Literal["after_mean", "per_task"] = Field(
        "after_mean",
        description="Clip the tasks' mean (or sum), or each task's gradient before it (CAVIA's regression).",
    )
    schedule: Literal["constant", "cosine", "step", "exponential"] = Field(
        "constant", description="Step size over the full budget."
    )
    min_lr: Number = Field(0.0, ge=0, description="Where the cosine ends.")
    milestones: tuple[Share, ...] = Field((), description="step: shares of the full budget, rising.")
    factors: tuple[Factor, ...] = Field((), description="step: of lr, one from each milestone on.")
    every: float = Field(1.0, gt=0, le=1, description="exponential: share of the full budget that a stair is long.")
    decay: float = Field(0.5, gt=0, le=1, description="exponential: of lr, at the end of every stair.")
    added: AddedConfig = AddedConfig()
    restart_every: int | None = Field(
        None,
        ge=1,
        description="Outer steps after which the optimizer's moments start over; null: never. BOIL's code: 100, "
        "MR-MAML's: 1.",
    )
    restart_of: Literal["all", "unadapted"] = Field(
        "all",
        description="Whose moments; unadapted: of what no inner loop moves (MR-MAML's encoder of activations).",
    )

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        if self.optimizer == "adam" and (self.momentum or self.nesterov):
            raise ValueError("momentum and nesterov are settings of optimizer sgd, and it is adam")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: found true, but momentum is 0")
        if (self.schedule == "step") != bool(self.milestones) or len(self.milestones) != len(self.factors):
            raise ValueError(
                f"schedule: found {self.schedule} with {len(self.milestones)} milestones and {len(self.factors)} "
                "factors; step needs as many of both, one or more, and no other schedule has any"
            )
        if self.clip is not None and self.clip_norm is not None:
            raise ValueError(f"clip_norm: found {self.clip_norm} beside clip {self.clip}; allowed: one of them")
        if self.clip is not None and self.clip_scope == "per_module":
            raise ValueError("clip_scope: found 'per_module', which is for clip_norm; allowed: all, model, head")
        if self.restart_every is not None and self.optimizer == "sgd" and not self.momentum:
            raise ValueError(f"restart_every: found {self.restart_every}, but sgd without momentum has no moments")
        _refuse_falling(self.milestones)
        return self


class PretrainingConfig(Section):
    """Plain classification of all training classes before meta-training, with Adam; see pretraining.py."""

    epochs: int = Field(
        0, ge=0, description="Passes over the training images; 0: the backbone starts from `model.init`."
    )
    batch_size: int = Field(64, ge=2)
    lr: float = Field(1e-3, gt=0, description="Adam's step size.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of its initial weights and batches, the same for all trials.")


class BudgetConfig(Section):
    """How long a trial trains and how it is watched; schedules are keyed to the full budget."""

    outer_steps: int = Field(20_000, ge=1, description="Full budget of a trial in outer steps.")
    validate_every: int = Field(500, ge=1, description="Outer steps of a round; a validation ends it.")
    validation_tasks: int = Field(600, ge=2, description="Tasks of a validation.")
    test_tasks: int = Field(600, ge=2, description="Tasks of the test in a final run.")
    ensemble: int = Field(
        5, ge=1, description="Best validated weights whose mean outputs are tested beside the best alone (MAML++: 5)."
    )
    scale: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share to which `--scale` has shortened a preset's budget; it stands here so that all that is "
        "made of the config says so.",
    )

    def shortened(self, scale: float) -> "BudgetConfig":
        """The same budget for a share of the outer steps, with as many rounds and tasks as go with it.

        Rounds and validation and test tasks shrink by the share, too, but to no fewer than 5, 50 and 100 (or what they
        were): the ensemble is of 5 validations, and fewer tasks would say little.
        """
        steps = max(1, round(self.outer_steps * scale))
        rounds = min(steps, _share(self.outer_steps // self.validate_every, scale, 5))
        length = max(1, round(steps / rounds))
        return BudgetConfig(
            outer_steps=length * rounds,
            validate_every=length,
            validation_tasks=_share(self.validation_tasks, scale, 50),
            test_tasks=_share(self.test_tasks, scale, 100),
            ensemble=self.ensemble,
            scale=scale,
        )

    @model_validator(mode="after")
    def _whole_rounds(self) -> Self:
        if self.outer_steps % self.validate_every:
            raise ValueError(
                f"outer_steps ({self.outer_steps}) must be a multiple of validate_every ({self.validate_every})"
            )
        return self


def _share(count: int, scale: float, least: int) -> int:
    return max(min(count, least), round(count * scale))


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
    lanes: int | str = Field(
        "off",
        description="Trials of a search as lanes of one program: off, so many at most, or auto: 16 at most where lanes "
        "were measured to win, for MLPs on a CPU.",
    )
    graphs: Literal["auto", "on", "off"] = Field(
        "off",
        description="Outer steps of batched tasks, and of lanes, as a CUDA graph, whose kernels a GPU is given at "
        "once; auto: on a GPU, where they can be. Off until it has run on one.",
    )
    kernels: Literal["auto", "torch", "native"] = Field(
        "auto",
        description="What Conv-4's blocks run on where a CPU computes: torch's operations, or raymeta's own kernels, "
        "which a C++ compiler builds once a machine; auto: native where they can be had.",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="What is multiplied: tf32 lets a GPU round it to 10 bits, bf16 rounds convolutions to 8. Gradients "
        "differ from float32's then, which a search says.",
    )
    tiles: Literal[2, 4] = Field(
        2,
        description="Side of the tiles in which raymeta's own kernels compute convolutions: 4 is faster, with two to "
        "four times the rounding error of a convolution.",
    )
    chunk: int | None = Field(
        None,
        ge=1,
        description="Images that a convolutional network computes at a time, so that a large episode takes less memory "
        "for more work; null: all of a set.",
    )

    @field_validator("graphs", mode="before")
    @classmethod
    def _graphs(cls, graphs: Any) -> Any:
        return {True: "on", False: "off"}[graphs] if isinstance(graphs, bool) else graphs  # as YAML reads them

    @field_validator("lanes", mode="before")
    @classmethod
    def _lanes(cls, lanes: Any) -> Any:
        if lanes is False:  # as YAML reads `off`
            return "off"
        if lanes not in ("auto", "off") and not (isinstance(lanes, int) and lanes >= 2):
            raise ValueError(f"found {lanes!r}; allowed: auto, off, 2 or more")
        return lanes
