"""Compass: a task turns a number into a direction, and is scored by the angle that predictions are off.

y = (cos(a x + b), sin(a x + b)),  a ~ U[0.5, 2], b ~ U[0, 2 pi], x ~ U[-1, 1];  loss = mean of 1 - cos(angle)
"""

import math
from hashlib import sha256
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta.config import TaskConfig
from raymeta.metric import Metric
from raymeta.problem import Bank, Examples, Problem, Split, Tasks
from raymeta.problems.uniforms import Uniforms
from raymeta.registry import problem


class CompassTask(TaskConfig):
    """What a task shows of itself."""

    problem: Literal["compass"] = "compass"
    shots: int = Field(5, ge=1, description="Support examples.")
    queries: int = Field(20, ge=1, description="Query examples.")


class Directions:
    """Tasks: x float32 [T, n, 1], y float32 [T, n, 2]."""

    def __init__(self, task: CompassTask, split: Split, seed: int) -> None:
        self._shots, self._count = task.shots, task.shots + task.queries
        self._uniforms = Uniforms("compass", split, seed)

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`."""
        table = torch.from_numpy(self._uniforms.rows(first, count, 2 + self._count))
        x = 2 * table[:, 2:] - 1
        angle = (0.5 + 1.5 * table[:, :1]) * x + 2 * math.pi * table[:, 1:2]
        y = torch.stack([angle.cos(), angle.sin()], -1).float()
        (support_x, query_x), (support_y, query_y) = (
            values.tensor_split([self._shots], 1) for values in (x[..., None].float(), y)
        )
        return Tasks(Examples(support_x, support_y), Examples(query_x, query_y))


@problem("compass")
class Compass(Problem):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = CompassTask
    metric: ClassVar[Metric] = Metric("angle", "min", unit="°", digits=2)
    input_shape: tuple[int, ...] = (1,)
    outputs = 2  # type: ignore[assignment]

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean of 1 - cos of the angle between predictions [n, 2] and directions [n, 2]."""
        return 1 - F.cosine_similarity(outputs, y, eps=1e-6).mean()

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean angle in degrees."""
        return F.cosine_similarity(outputs.double(), y.double()).clamp(-1, 1).arccos().rad2deg().mean()

    @property
    def fingerprint(self) -> str:
        return sha256(b"compass 1").hexdigest()

    def _bank(self, split: Split, seed: int) -> Bank:
        return Directions(self.task, split, seed)
