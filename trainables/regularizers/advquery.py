"""Adversarial query: the outer loss is of query images that are changed to mislead the adapted learner.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks (ICLR 2018), in
the outer loop:

    x' = x + d,  d from a random start in the ball, after `steps` of projected gradient ascent of Lq(theta'; x + d, y)
    min over theta of Lq(theta'; x', y)

The support set stays as it is, in training and at test; d is a constant of the outer gradient. With one step it is FGSM
from a random start. This is how the curves "Adv." of Meta-Dropout's figure (Lee et al., ICLR 2020), which has no code,
are read here. How robust what comes of it is says the analysis `robustness`.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.engine.attacks import Norm, diameter, drawn, moved, with_gradient
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone
from raymeta.problem import Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Section


class AdvQueryConfig(Section):
    """Defaults: the smallest radius of Meta-Dropout's figure, one step of 1.25 radii (Wong et al., ICLR 2020)."""

    norm: Norm = "linf"
    radius: float = Field(0.02, ge=0, description="Of the ball, in pixels of 0..1.")
    steps: int = Field(1, ge=1, description="Of ascent.")
    size: float = Field(1.25, gt=0, description="What all steps together are long, in radii.")


@regularizer("advquery")
class AdvQuery(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = AdvQueryConfig
    acts_on: ClassVar[str] = "the query images"
    neutral: ClassVar[dict[str, Any]] = {"radius": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    batches: ClassVar[bool] = False

    def __init__(self, config: AdvQueryConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        size = torch.Size(problem.input_shape).numel()
        if config.radius > (most := diameter(size, config.norm)):
            raise UserError(
                f"regularizers.advquery.radius: found {config.radius:g}, but within {most:g} in {config.norm} there is "
                f"every image of {size} pixels; allowed: 0 to {most:g}"
            )

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> Any:
        return torch.randint(2**62, (tasks.size,), generator=generator).tolist()  # seeds

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        if not self.settings.radius:
            return Hooks()
        first = [int(one) for one in drawn]

        def on_query(adapted: Any, task: Task, context: Context) -> tuple[Any, Task]:
            number = int(context.task)
            change = self.change(learner, adapted, task, torch.Generator().manual_seed(first[number]))
            x = learner.problem.changed(task.query.x, change)
            return adapted, task._replace(query=task.query._replace(x=x))

        return Hooks(query=on_query)

    def change(self, learner: Learner, adapted: Any, task: Task, generator: torch.Generator) -> Tensor:
        """Of a task's query images, [n, C, H, W]: in ball and box."""
        problem, settings = learner.problem, self.settings
        pixels = problem.pixels(task.query.x.detach())

        def loss(change: Tensor) -> Tensor:
            return learner.loss(learner.predict(adapted, problem.changed(task.query.x, change)), task.query.y)

        found = drawn(pixels, settings.norm, settings.radius, generator, inside=True)
        for _ in range(settings.steps):
            _, gradient = with_gradient(loss, found)
            length = settings.size * settings.radius / settings.steps
            found = moved(found, gradient, pixels, settings.norm, settings.radius, length)
        return found
