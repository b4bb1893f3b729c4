"""Online tracking: a learner whose inner step on the first frame makes a tracker of the target marked there.

A task is two frames of a sequence. The learner adapts to crops of one, target and background; its outer loss is that of
crops of a later one (Park and Berg, Meta-Tracker, ECCV 2018; DropGrad, ACCV 2020, section 4.3). With `metasgd`, which
learns the initial weights and a rate for every one of them, one inner step and the backbone `sdnet` this is MetaSDNet.

The score is balanced accuracy: the mean of the recalls of target and background, 0.5 by chance. What a tracker makes of
whole sequences is the analysis `tracking` of final runs, and `raymeta predict RUN --frames FOLDER --box x,y,w,h`.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError
from raymeta.learner import Learner
from raymeta.metric import Metric
from raymeta.problem import Bank, Split
from raymeta.problems.named import NamesDataSet
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.sdnet.bank import Crops
from raymeta.problems.tracking.sdnet.tracker import SDNetTracker
from raymeta.problems.tracking.sequenced import Sequenced, Tracker
from raymeta.problems.uniforms import Uniforms
from raymeta.schema import Section


class TrackerConfig(Section):
    """What the tracker does in later frames; defaults: MetaSDNet's code."""

    candidates: int = Field(256, ge=5, description="Boxes that are scored in every frame.")
    spread: float = Field(0.6, gt=0, description="f of theirs around the last box.")
    grow: float = Field(1.05, gt=1, description="g of theirs.")
    lost_spread: float = Field(1.5, gt=0, description="f after a frame in which the target was not found.")
    best: int = Field(5, ge=1, description="The highest, whose mean is the box.")
    positives: int = Field(50, ge=1, description="Crops of the target that are kept of a frame in which it was found.")
    negatives: int = Field(200, ge=1, description="Crops of the rest.")
    frames: int = Field(100, ge=1, description="Frames whose crops of the target are kept.")
    recent: int = Field(
        20, ge=1, description="Frames whose crops of the rest are, and that an update at a loss learns from."
    )
    every: int = Field(10, ge=1, description="Frames between two updates.")
    steps: int = Field(15, ge=0, description="SGD's, of an update of the connected layers; 0: none is made.")
    lr: float = Field(5e-5, gt=0, description="Of the summed loss; ten times that for the head.")
    batch_positives: int = Field(32, ge=1, description="Of a step.")
    batch_negatives: int = Field(96, ge=1, description="Of a step, the hardest of `hardest_of`.")
    hardest_of: int = Field(1024, ge=1)
    regression: bool = Field(True, description="Refine boxes by a ridge regression that the first frame gives.")
    ridge: float = Field(1000.0, gt=0, description="Its strength.")
    boxes: int = Field(1000, ge=1, description="What it is fitted to.")


class TrackingTask(TaskConfig):
    """What is cut out of two frames."""

    problem: Literal["tracking"] = "tracking"
    dataset: str = "sprites"
    source: str | None = Field(
        None, description="Folder or archive of `sequences`, an absolute path; --data-root fills it in."
    )
    test_source: str | None = Field(
        None,
        description="Folder or archive of `sequences` that are for the test, all of them; null: a fifth of source.",
    )
    side: int = Field(32, ge=8, le=224, description="Pixels of a crop's side; MetaSDNet: 107.")
    positives: int = Field(16, ge=1, description="Crops of the target in a frame; MetaSDNet: 32.")
    negatives: int = Field(48, ge=1, description="Crops of the rest; MetaSDNet: 96.")
    gap: int = Field(10, ge=1, description="Frames at most from the one that is learned to the one that is judged.")
    swap: bool = Field(True, description="In half of the training tasks target and background swap labels.")
    reduction: Literal["mean", "sum"] = Field("mean", description="Of the loss over crops; MetaSDNet: sum.")
    tracker: TrackerConfig = TrackerConfig()

    @property
    def name(self) -> str:
        """`sprites`."""
        return self.dataset

    @property
    def data(self) -> str:
        return self.dataset

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Not how a loss is summed, what training swaps, or what a tracker does with sequences."""
        return {**self.model_dump(), "reduction": None, "swap": None, "tracker": None}


@registry.problem("tracking")
class Tracking(NamesDataSet, Sequenced):
    """See the module's docstring. A data set of it is a subclass that says what its sequences are."""

    Config: ClassVar[type[TaskConfig]] = TrackingTask
    metric: ClassVar[Metric] = Metric("balanced_accuracy", "max", unit="%", scale=100.0, digits=2)
    labels: int | None = 2
    form: ClassVar[str] = "sprites, or sequences with --data-root"

    def __init__(self, task: TrackingTask) -> None:
        super().__init__(task)
        self.input_shape = (3, task.side, task.side)
        if not self.has_source:
            for key in ("source", "test_source"):
                if (found := getattr(task, key)) is not None:
                    raise UserError(f"task.{key}: found '{found}', but {self.name} has none")

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`sprites`."""
        if text == "tracking":
            return {}
        return {"dataset": text} if text in registry.names("dataset") else None

    @property
    def offers(self) -> frozenset[str]:
        """No labels: target and rest are no classes among others, and what works on classes has no meaning here."""
        return frozenset({"images"})

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits [n, 2] with 0 (background) and 1 (target)."""
        return F.cross_entropy(outputs, y, reduction=self.task.reduction)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Balanced accuracy, 0 to 1."""
        right = (outputs.argmax(-1) == y).double()
        return torch.stack([right[y == label].mean() for label in (0, 1)]).mean()

    def show_example(self, axis: Any, x: Tensor, y: Tensor, output: Tensor) -> str:
        axis.imshow(self.pixels(x).permute(1, 2, 0).cpu().numpy(), interpolation="antialiased")
        right = int(output.argmax()) == int(y)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
        axis.spines[:].set(color="#22a04a" if right else "#e8402a", linewidth=1.6)
        return f"{'target' if y else 'rest'}: {float(output.softmax(-1)[int(y)]):.2f}"

    def example(self, y: Tensor, output: Tensor) -> dict[str, Any]:
        return {"target": int(y), "probability": float(output.softmax(-1)[1])}

    def tracker(self, learner: Learner, first: Image.Image, box: Array, seed: int) -> Tracker:
        return SDNetTracker(learner, first, box, seed)

    def _bank(self, split: Split, seed: int) -> Bank:
        uniforms = Uniforms(self.name, split, seed)
        return Crops(lambda number: self.clip(split, number), self.count(split), self.task, split, uniforms)
