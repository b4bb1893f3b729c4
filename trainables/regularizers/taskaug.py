"""TaskAug: classes turned by 90, 180 or 270 degrees are new classes.

Liu, Chao, Lin: Task Augmentation by Rotating for Meta-Learning (arXiv 2020).

Every class of a training episode becomes a turned one with probability p, each of the three turns being as likely; all
its support and query images turn alike. p grows linearly from 0 to `rate` over the first part of the budget (`ramp`),
and `rate` 0.75 makes all four turns equally likely. Off in evaluation.

The authors draw turned and plain classes from one pool, so that a class may meet its own turned self in an episode;
here the classes of an episode are different before they are turned.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.engine.transfer import sent
from raymeta.errors import UserError
from raymeta.hooks import Regularizer
from raymeta.models import Backbone
from raymeta.problem import Examples, Problem, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section


class TaskAugConfig(Section):
    """Defaults: the authors' code on miniImageNet, but for the ramp."""

    rate: Number = Field(0.25, ge=0, le=1, description="p at the end of the ramp; CIFAR-FS: 0.5, FC100: 0.25.")
    ramp: Number = Field(
        0.25, ge=0, le=1, description="Share of the full budget over which p grows; the authors: 80,000 tasks."
    )


@regularizer("taskaug")
class TaskAug(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = TaskAugConfig
    acts_on: ClassVar[str] = "training tasks"
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    changes_tasks: ClassVar[bool] = True

    def __init__(self, config: TaskAugConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        if model.input_shape[-1] != model.input_shape[-2]:
            height, width = model.input_shape[-2:]
            raise UserError(f"taskaug turns square images only: found {height}x{width}")

    def on_tasks(self, tasks: Tasks, progress: float, generator: torch.Generator) -> Tasks:
        ramp = self.settings.ramp
        rate = self.settings.rate * (min(progress / ramp, 1) if ramp else 1)
        classes = int(tasks.support.y.max()) + 1  # tasks are on the CPU, and may differ in classes
        uniform = torch.rand(2, tasks.size, classes, generator=generator)
        turns = torch.where(uniform[0] < rate, 1 + (3 * uniform[1]).long(), 0)
        return Tasks(*(Examples(turned(x, y, turns), y) for x, y in tasks))


def turned(x: Tensor, y: Tensor, turns: Tensor) -> Tensor:
    """Images [T, n, C, H, W] with labels [T, n], turned by the quarters [T, N] of their classes."""
    images, quarters = x, sent(turns, y.device).gather(1, y)[..., None, None, None]
    for quarter in (1, 2, 3):
        images = torch.where(quarters == quarter, x.rot90(quarter, (-2, -1)), images)
    return images
