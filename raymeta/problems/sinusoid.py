"""Sinusoid regression, the family of Meta-SGD and of ALFA's Table 8: y = A sin(w x + b).

    A ~ U[0.1, 5],  w ~ U[0.8, 1.2],  b ~ U[0, pi],  x ~ U[-5, 5]

The phase is added: MAML's older family is sin(x - phi) without a frequency; as b is uniform on [0, pi] the two are not
the same. K = `shots` support points and `queries` query points a task; evaluation takes `eval_queries` (100, as ALFA).
There is nothing to hold out: the three splits are other streams of the same family.
"""

import json
import math
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.metric import Metric
from raymeta.problem import SPLITS, Bank, Examples, Problem, Split, Tasks
from raymeta.problems.uniforms import Uniforms

AMPLITUDE, FREQUENCY, PHASE, X = (0.1, 5.0), (0.8, 1.2), (0.0, math.pi), (-5.0, 5.0)
VERSION = 1
CURVES = 8  # of each split in a picture
TASK = re.compile(r"sinusoid(-(?P<shots>\d+)s)?")


class SinusoidTask(TaskConfig):
    """What a curve shows of itself."""

    problem: Literal["sinusoid"] = "sinusoid"
    shots: int = Field(10, ge=1, description="Support points.")
    queries: int = Field(10, ge=1, description="Query points in training.")
    eval_queries: int | None = Field(100, ge=1, description="Query points in evaluation; null: as queries.")

    @property
    def name(self) -> str:
        """`sinusoid-10s`."""
        return f"{self.problem}-{self.shots}s"

    @property
    def title(self) -> str:
        return f"{self.problem} {self.shots}-shot"

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Not the query points of training."""
        return {**self.model_dump(), "queries": None, "eval_queries": self.eval_queries or self.queries}


class Curves:
    """Tasks of one curve each: x and y are float32, support [T, K, 1] and query [T, Q, 1]."""

    def __init__(self, task: SinusoidTask, split: Split, seed: int) -> None:
        self._shots = task.shots
        self._queries = task.queries if split == "train" else task.eval_queries or task.queries
        self._uniforms = Uniforms("sinusoid", VERSION, split, seed)

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Curves `first` .. `first + count - 1`."""
        table = torch.from_numpy(self._uniforms.rows(first, count, 3 + self._shots + self._queries))
        amplitude, frequency, phase = (
            low + (high - low) * table[:, i, None, None] for i, (low, high) in enumerate((AMPLITUDE, FREQUENCY, PHASE))
        )
        x = X[0] + (X[1] - X[0]) * table[:, 3:, None]
        y = amplitude * torch.sin(frequency * x + phase)
        (support_x, query_x), (support_y, query_y) = (v.float().tensor_split([self._shots], 1) for v in (x, y))
        return Tasks(Examples(support_x, support_y), Examples(query_x, query_y))


@registry.problem("sinusoid")
class Sinusoid(Problem):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = SinusoidTask
    metric: ClassVar[Metric] = Metric("mse", "min")
    input_shape: tuple[int, ...] = (1,)
    form: ClassVar[str] = "sinusoid-<shots>s, as in sinusoid-10s"

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """`sinusoid-10s`."""
        match = TASK.fullmatch(text)
        return None if match is None else {"shots": int(match["shots"])} if match["shots"] else {}

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of values [n, 1]."""
        return F.mse_loss(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The same."""
        return F.mse_loss(outputs, y)

    def picture(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
        for axis, split in zip(figure.subplots(1, 2, sharey=True), SPLITS[:2], strict=True):
            _draw_curves(axis, self.bank(split, seed=0).draw(0, CURVES))
            axis.set_title(f"{split}: dots are support, lines join all points", fontsize=9, loc="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)

    @property
    def fingerprint(self) -> str:
        return sha256(json.dumps(["sinusoid", VERSION, AMPLITUDE, FREQUENCY, PHASE, X]).encode()).hexdigest()

    def _bank(self, split: Split, seed: int) -> Bank:
        return Curves(self.task, split, seed)


def _draw_curves(axis: Any, tasks: Tasks) -> None:
    for number in range(tasks.size):
        (support_x, support_y), (query_x, query_y) = tasks.map(lambda values: values[..., 0]).task(number)
        x, y = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])
        order = x.argsort()
        (line,) = axis.plot(x[order], y[order], linewidth=1, alpha=0.8)
        axis.plot(support_x, support_y, "o", markersize=3.5, color=line.get_color())
    axis.set(xlabel="x", ylabel="y")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
