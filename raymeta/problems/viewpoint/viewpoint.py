"""Few-shot viewpoint estimation: how things of a new category are turned, from a few pictures of some.

A task is a category: `shots` of its views with their rotations to learn from, others to predict. The estimator is
direct: nine numbers M, projected onto the nearest rotation to be scored,

    inner and outer loss: mean over the nine entries of (M - R)^2, which is 8/9 sin^2(d/2) where M is a rotation
    Acc30: share of a task's query views with d < 30 degrees;  MedErr: median of d

The protocol and the scores are those of MetaView's and DropGrad's experiments (Tseng et al., BMVC 2019; ACCV 2020,
section 4.4). MetaView's own network (learned key points, a Siamese block for each) was never published; this is not it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.errors import UserError
from raymeta.metric import Metric
from raymeta.problem import Bank, Split
from raymeta.problems.examples import DrawsExamples
from raymeta.problems.images.reading.pictures import plain
from raymeta.problems.images.stored import StoredImages
from raymeta.problems.viewpoint.bank import Views
from raymeta.problems.viewpoint.listing import squared
from raymeta.problems.viewpoint.rotations import distance, projected, square

TASK = re.compile(r"(?P<dataset>[a-z0-9]+)(-(?P<shots>\d+)s)?")
NEAR = 30.0  # degrees
SIDE = 84


class ViewpointTask(TaskConfig):
    """How many views of a category are seen."""

    problem: Literal["viewpoint"] = "viewpoint"
    dataset: str = "shapes3d"
    split: str | None = Field(None, description="Class split by name; null: the data set's default.")
    source: str | None = Field(
        None, description="Folder or archive of the data set `views`, an absolute path; --data-root fills it in."
    )
    size: int | None = Field(None, ge=16, le=512, description="Side of a view of real pictures, in pixels; null: 84.")
    shots: int = Field(10, ge=1, description="Support views.")
    queries: int = Field(10, ge=1, description="Query views in training.")
    eval_queries: int | None = Field(20, ge=1, description="Query views in evaluation; null: as queries.")
    front: Literal["given", "category", "task"] = Field(
        "given",
        description="What counts as a thing's front: as the data say; turned about the upright axis by an angle of its "
        "category; or by one of the task, which then only the support set tells.",
    )

    @property
    def name(self) -> str:
        """`shapes3d-10s`."""
        return f"{self.dataset}-{self.shots}s"

    @property
    def data(self) -> str:
        return self.dataset

    @property
    def title(self) -> str:
        """`shapes3d 10-shot`."""
        return f"{self.dataset} {self.shots}-shot"

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Not the query views of training."""
        return {**self.model_dump(), "queries": None, "eval_queries": self.eval_queries or self.queries}


@registry.problem("viewpoint")
class Viewpoint(StoredImages, DrawsExamples):
    """See the module's docstring. A data set of it is a subclass that writes `build`."""

    Config: ClassVar[type[TaskConfig]] = ViewpointTask
    metric: ClassVar[Metric] = Metric("acc30", "max", unit="%", scale=100.0, digits=2)
    form: ClassVar[str] = "DATASET-<shots>s, as in shapes3d-10s"
    fitted: ClassVar[str] = "padded to a square and scaled with Lanczos"

    def __init__(self, task: ViewpointTask) -> None:
        if not self.has_source and task.source is not None:
            raise UserError(f"task.source: found '{task.source}', but {self.name} has none")
        super().__init__(task)

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`shapes3d-10s`."""
        match = TASK.fullmatch(text)
        if match is None:
            return None
        named = {} if match["dataset"] == "viewpoint" else {"dataset": match["dataset"]}
        return {**named, **({"shots": int(match["shots"])} if match["shots"] else {})}

    @property
    def outputs(self) -> int:
        return 9

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Chordal: the mean squared difference of the nine entries, of outputs and y [n, 9]."""
        return F.mse_loss(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Acc30, 0 to 1."""
        return (self.errors(outputs, y) < NEAR).double().mean()

    def also(self, predicted: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """MedErr in degrees: the mean over tasks of each one's median, and the median over all views."""
        errors = [self.errors(outputs, y) for outputs, y in predicted]
        medians = torch.stack([one.quantile(0.5) for one in errors])
        return {"mederr": float(medians.mean()), "mederr_pooled": float(torch.cat(errors).quantile(0.5))}

    def errors(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Distances in degrees of what is predicted from what is true, both [n, 9]: float64 [n]."""
        return distance(projected(outputs), square(y))

    def answers(self, outputs: Tensor) -> Tensor:
        return projected(outputs).flatten(-2)

    def fit(self, image: Image.Image) -> Image.Image:
        """A picture of a thing alone, cut out as tightly as the boxes of the data are."""
        return Image.fromarray(squared(plain(image), self.input_shape[-1]).transpose(1, 2, 0))

    def picture(self, path: Path) -> None:
        from raymeta.problems.viewpoint.drawing import draw_views  # imported here: it needs matplotlib

        draw_views(self, path)

    def show_example(self, axis: Any, x: Tensor, y: Tensor, output: Tensor) -> str:
        from raymeta.problems.viewpoint.drawing import draw_axes

        picture = self.pixels(x[None])[0].permute(1, 2, 0).cpu().numpy()
        draw_axes(axis, picture, square(y).cpu().numpy(), projected(output).cpu().numpy())
        return f"{float(self.errors(output[None], y[None])):.0f}°"

    def called(self, bank: Bank, number: int) -> str:
        """The category."""
        return bank.category(number) if isinstance(bank, Views) else ""

    def example(self, y: Tensor, output: Tensor) -> dict[str, Any]:
        return {"degrees": float(self.errors(output[None], y[None]))}

    def _bank(self, split: Split, seed: int) -> Bank:
        return Views(self.store, self.task, split, seed, self._on_device)
