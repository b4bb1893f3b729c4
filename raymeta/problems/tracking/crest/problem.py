"""Online tracking by a map: a learner whose inner step on the first frame makes a filter that finds the target.

A task is a window around the target of a frame and windows of later ones. The network gives a map of where the target
is; inner and outer loss are CREST's, of every window with map X and wanted map C (see `maps.py`)

    sum of (e^C (X - C))^2 over the cells where |X - C| >= 0.1, over one more than these are

(Park and Berg, Meta-Tracker, ECCV 2018; DropGrad, ACCV 2020, section 4.3). With `metasgd`, which learns the initial
weights and a rate for every one of them, one inner step and the backbone `crest` this is MetaCREST.

The score is overlap: of a box of the true size at the map's peak with the true box, a mean over windows. What a tracker
makes of whole sequences is the analysis `tracking`, and `raymeta predict RUN --frames FOLDER --box x,y,w,h`.
"""

from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError, suggest
from raymeta.learner import Learner
from raymeta.metric import Metric
from raymeta.problem import Bank, Split
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.crest.bank import Windows
from raymeta.problems.tracking.crest.maps import maps_of, peak, wanted
from raymeta.problems.tracking.crest.tracker import CrestTracker
from raymeta.problems.tracking.sequenced import Sequenced, Tracker
from raymeta.problems.uniforms import Uniforms
from raymeta.schema import Section

NEAR = 0.1  # cells that are closer to what is wanted are left alone


class CrestTrackerConfig(Section):
    """What the tracker does in later frames; defaults: MetaCREST's code."""

    motion: float = Field(
        0.6, gt=0, description="Deviation of the bell that the map is multiplied with, in sides of the target."
    )
    scale: float = Field(1.05, ge=1, description="The target is looked at in this size and its inverse, too; 1: not.")
    blend: float = Field(0.6, ge=0, le=1, description="How much of the better size is taken over.")
    sure: float = Field(0.15, description="Peak of the map below which the size stays.")
    every: int = Field(5, ge=1, description="Frames between two updates.")
    steps: int = Field(2, ge=0, description="Adam's, of an update of what the inner loop moves; 0: none is made.")
    lr: float = Field(7e-6, gt=0, description="Its step size.")
    batch: int = Field(5, ge=1, description="Windows of a step.")
    kept: int = Field(10, ge=1, description="Windows that are kept, the last ones in which the target was found.")


class CrestTask(TaskConfig):
    """What is cut out of the frames."""

    problem: Literal["crest"] = "crest"
    clips: str = Field("sprites", description="Data set of tracking whose sequences these are.")
    source: str | None = Field(
        None, description="Folder or archive of `sequences`, an absolute path; --data-root fills it in."
    )
    test_source: str | None = Field(
        None,
        description="Folder or archive of `sequences` that are for the test, all of them; null: a fifth of source.",
    )
    side: int = Field(70, ge=18, le=620, description="Pixels of a window's side; MetaCREST: 380.")
    gap: int = Field(10, ge=1, description="Frames at most from the one that is learned to one that is judged.")
    queries: int = Field(1, ge=1, description="Windows that are judged, each of a frame of its own.")
    eval_queries: int = Field(4, ge=1, description="The same in evaluation.")
    shift: float = Field(
        1.0, ge=0, le=2, description="Longer sides of the target that it is off their middle, at most; MetaCREST: 0."
    )
    eval_shift: float = Field(1.0, ge=0, le=2, description="The same in evaluation.")
    tracker: CrestTrackerConfig = CrestTrackerConfig()

    @property
    def name(self) -> str:
        """`crest`, `crest-sequences`."""
        return "crest" if self.clips == "sprites" else f"crest-{self.clips}"

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Not what training judges, or what a tracker does with sequences."""
        return {**self.model_dump(), "queries": None, "shift": None, "tracker": None}


@registry.problem("crest")
class CrestProblem(Sequenced):
    """See the module's docstring. The sequences are those of another problem's data set, `task.clips`."""

    Config: ClassVar[type[TaskConfig]] = CrestTask
    metric: ClassVar[Metric] = Metric("overlap", "max", unit="%", scale=100.0, digits=2)
    form: ClassVar[str] = "crest, or crest-sequences with --data-root"
    has_source: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"filter"})

    def __init__(self, task: CrestTask) -> None:
        super().__init__(task)
        self.input_shape = (3, task.side, task.side)
        found = _clips(task.clips)
        self._of = found(found.Config(dataset=task.clips, source=task.source, test_source=task.test_source))  # type: ignore[call-arg]

    @classmethod
    def check(cls, task: Any) -> None:
        _clips(task.clips)

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`crest`, `crest-sequences`."""
        own, _, clips = text.partition("-")
        if own != cls.name or (clips and clips not in registry.names("dataset")):
            return None
        return {"clips": clips} if clips else {}

    @property
    def outputs(self) -> int:
        """Numbers of a y."""
        return 4

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"images", "windows"})

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """CREST's of outputs [n, G G + 2] with places and sizes y [n, 4]: a mean over windows."""
        found = maps_of(outputs)
        truth = wanted(y.to(found.dtype), found.shape[-1])
        far = ((found - truth).abs() >= NEAR).to(found.dtype)
        errors = (far * (truth.exp() * (found - truth)).square()).flatten(1).sum(1)
        return (errors / (far.flatten(1).sum(1) + 1)).mean()

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Overlap, 0 to 1."""
        return self._overlaps(outputs, y).mean()

    def answers(self, outputs: Tensor) -> Tensor:
        """Places and sizes [n, 4]: the map's peak, and the size that the filter was made for."""
        maps = maps_of(outputs)
        return torch.cat([peak(maps) / maps.shape[-1], outputs[:, -2:]], 1)

    def show_example(self, axis: Any, x: Tensor, y: Tensor, output: Tensor) -> str:
        from raymeta.problems.tracking.drawing import FOUND, TRUTH, draw_box

        side, heat = x.shape[-1], maps_of(output[None])[0].clamp(0, 1).cpu().numpy()
        axis.imshow(self.pixels(x).permute(1, 2, 0).cpu().numpy(), interpolation="antialiased")
        axis.imshow(heat, alpha=heat, extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="inferno", vmin=0, vmax=1)
        for one, colour in ((y, TRUTH), (self.answers(output[None])[0], FOUND)):
            place, size = (one[:2] + 0.5) * side - 0.5, one[2:] * side
            draw_box(axis, torch.cat([place - size / 2, size]).cpu().numpy(), colour)
        axis.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
        return f"overlap {float(self._overlaps(output[None], y[None])):.2f}"

    def example(self, y: Tensor, output: Tensor) -> dict[str, Any]:
        return {"overlap": float(self._overlaps(output[None], y[None]))}

    def count(self, split: Split) -> int:
        return self._of.count(split)

    def clip(self, split: Split, number: int) -> Clip:
        return self._of.clip(split, number)

    def tracker(self, learner: Learner, first: Image.Image, box: Array, seed: int) -> Tracker:
        return CrestTracker(learner, first, box)

    @property
    def ready(self) -> bool:
        return self._of.ready

    def prepare(self, root: Any = None, progress: Any = None, *, rebuild: bool = False) -> None:
        self._of.prepare(root, progress, rebuild=rebuild)

    @property
    def fingerprint(self) -> str:
        return self._of.fingerprint

    def describe(self) -> dict[str, Any]:
        return self._of.describe() | {"name": self.name, "input_shape": list(self.input_shape)}

    def _overlaps(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of each window, [n]: a box of the true size at the peak, and the true one."""
        apart = (self.answers(outputs) - y)[:, :2].abs()
        shared = (y[:, 2:] - apart).clamp(min=0).prod(1)
        return shared / (2 * y[:, 2:].prod(1) - shared)

    def _bank(self, split: Split, seed: int) -> Bank:
        uniforms = Uniforms("crest", self.task.clips, split, seed)
        return Windows(lambda number: self.clip(split, number), self.count(split), self.task, split, uniforms)


def _clips(name: str) -> type[Sequenced]:
    """The data set of a name, if it is of sequences."""
    found: type[Any] = registry.find("dataset", name)
    if not issubclass(found, Sequenced):
        known = [one for one, cls in registry.working("dataset").items() if issubclass(cls, Sequenced)]
        raise UserError(f"task.clips: found '{name}', which has no sequences: {suggest(name, known)}")
    return found
