"""Meta-MaxUp: the outer step follows the worst of several augmented copies of each task.

Ni, Goldblum, Sharaf, Kong, Goldstein: Data Augmentation for Meta-Learning (ICML 2021).

    outer loss of a task = mean over its query images of the max over its m copies of l(image in the copy)

every copy being changed in a way that is drawn from a pool, one for a copy of all tasks of an outer step. That is the
authors' code; the paper's formula has the max over m of the whole copies' mean losses (`worst: tasks`), which is also
the one with a meaning where a learner adapts to each copy.

The pool `full` has six ways, `small` the first three, all drawn with replacement:

1. CutMix of the query: a box of each image is another query image's. lambda ~ Beta(2, 2), 1 - lambda of the area is the
   box, whose centre is uniform and which is cut at the edges; labels are mixed by the area that is left
2. random erasing of the query: of half of the images a box of 0.02 to 0.4 of the area and of ratio 0.3 to 3.3 becomes 0
3. random erasing of the support
4. rotation: each class as a whole by 0, 0, 0, 90, 180 or 270 degrees, support and query alike
5. 4 then 1
6. 4 then 2

In the authors' code the box of 1 has sides int(share * side), and goes int(half of them) both ways from a whole centre;
`box: rounded` rounds its edges. `none` changes nothing. Terms that other regularizers add to a copy's loss count for
each of its images. A learner with an inner loop adapts to every copy anew, and copies are normalised by themselves,
where the authors' code passes all copies of all tasks through its network at once. Off in evaluation; a step costs m
times more.
"""

from math import log
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.engine.transfer import sent
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Loss, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner, probabilities
from raymeta.models import Backbone
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Section
from trainables.regularizers.taskaug import turned

QUARTERS = torch.tensor([0, 0, 0, 1, 2, 3])
POOLS = {"none": (), "small": (1, 2, 3), "full": (1, 2, 3, 4, 5, 6)}  # numbers of the list above


class MaxUpConfig(Section):
    """Defaults: the authors' code."""

    copies: int = Field(4, ge=1, description="m.")
    pool: Literal["none", "small", "full"] = "full"
    draws: Literal["step", "task"] = Field(
        "step", description="What the way to change a copy is drawn for: all tasks of an outer step, or each of them."
    )
    worst: Literal["queries", "tasks"] = Field(
        "queries", description="Of what the largest of m losses is taken: every query image, or the whole copy (paper)."
    )
    box: Literal["integer", "rounded"] = Field(
        "integer", description="CutMix's box: whole sides about a whole centre, or rounded edges."
    )


@regularizer("maxup")
class MaxUp(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MaxUpConfig
    acts_on: ClassVar[str] = "whole tasks"
    neutral: ClassVar[dict[str, Any]] = {"copies": 1, "pool": "none"}
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})

    def __init__(self, config: MaxUpConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        self.classes = problem.outputs
        height, width = model.input_shape[-2:]
        if config.pool == "full" and height != width:
            raise UserError(
                f"regularizers.maxup.pool: full turns square images only, found {height}x{width}; allowed: small, none"
            )

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> tuple[Tasks, ...]:
        """Copies of all tasks."""
        classes, settings = context.outputs or self.classes, self.settings
        ways = torch.tensor(POOLS[settings.pool])
        if not len(ways):
            return (tasks,) * int(settings.copies)
        if settings.draws == "step":
            # From the step's seed: tasks of different shapes come one by one, and all are to have the same ways.
            of_step = torch.Generator().manual_seed(generator.initial_seed() + 1)
            chosen = ways[torch.randint(len(ways), (settings.copies,), generator=of_step)]
            return tuple(self.changed(tasks, way.expand(tasks.size), classes, generator) for way in chosen)
        copies = []
        for _ in range(settings.copies):
            each = ways[torch.randint(len(ways), (tasks.size,), generator=generator)]
            copies.append(self.changed(tasks, each, classes, generator))
        return tuple(copies)

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        copies: tuple[Tasks, ...] = drawn
        if self.settings.worst == "tasks" or len(copies) == 1:

            def worst(task: Task, loss: Loss, context: Context) -> Tensor:
                return torch.stack([loss(changed.task(context.task)) for changed in copies]).max()

            return Hooks(task=worst)
        if type(learner).query_loss is not Learner.query_loss and type(learner).query_losses is Learner.query_losses:
            raise UserError(
                f"regularizers.maxup.worst: found 'queries', but {learner.name} has a query_loss of its own and no "
                "query_losses; allowed: tasks"
            )
        told: list[Tensor] = []  # the losses of a copy's query images, while the task's loss is computed

        def remember(losses: Tensor, context: Context) -> Tensor:
            told.append(losses)
            return losses

        def worst_images(task: Task, loss: Loss, context: Context) -> Tensor:
            found = []
            for changed in copies:
                whole = loss(changed.task(context.task))
                own = told.pop()
                found.append(own + (whole - own.mean()))  # with what was added to the copy's loss
            return torch.stack(found).amax(0).mean()

        return Hooks(task=worst_images, query_losses=remember)

    def changed(self, tasks: Tasks, chosen: Tensor, classes: int, generator: torch.Generator) -> Tasks:
        """A copy of all tasks, each changed in the way of its number in the module's docstring, [T]."""

        def one_of(*numbers: int) -> Tensor:
            here = torch.isin(chosen, torch.tensor(numbers)).view(-1, 1, 1, 1, 1)
            return sent(here, tasks.device)

        quarters = QUARTERS[torch.randint(6, (tasks.size, classes), generator=generator)]
        quarters = torch.where((chosen >= 4)[:, None], quarters, 0)
        support, query = (turned(x, y, quarters) if quarters.any() else x for x, y in tasks)
        labels = probabilities(tasks.query.y, classes, query.dtype)
        mixed, mixed_labels = cutmix(query, labels, generator, whole=self.settings.box == "integer")
        cut = one_of(1, 5)
        return Tasks(
            Examples(torch.where(one_of(3), erased(support, generator), support), tasks.support.y),
            Examples(
                torch.where(cut, mixed, torch.where(one_of(2, 6), erased(query, generator), query)),
                torch.where(cut[..., 0, 0], mixed_labels, labels),
            ),
        )


def cutmix(x: Tensor, labels: Tensor, generator: torch.Generator, *, whole: bool = True) -> tuple[Tensor, Tensor]:
    """CutMix of images [T, n, C, H, W] and soft labels [T, n, N] within each task, one box for all of its images.

    Args:
        x: images.
        labels: theirs.
        generator: on the CPU.
        whole: the box has whole sides about a whole centre, as in the authors' code; else its edges are rounded.
    """
    tasks, count, _, height, width = x.shape
    uniform = torch.rand(5, tasks, generator=generator)
    side = (1 - uniform[:3].median(0).values).sqrt()  # the median of three uniform numbers is Beta(2, 2)
    other = sent(torch.rand(tasks, count, generator=generator).argsort(1), x.device)
    size = torch.stack([side * height, side * width])  # [2, T]
    centre = uniform[3:] * torch.tensor([[height], [width]])
    if whole:
        half = (size.floor() / 2).floor()
        low, high = centre.floor() - half, centre.floor() + half
    else:
        low, high = (centre - size / 2).round(), (centre + size / 2).round()
    box = sent(_boxes(low, high, height, width), x.device)[:, None]  # [T, 1, 1, H, W]
    left = 1 - box.to(x.dtype).mean((2, 3, 4))[..., None]  # [T, 1, 1]
    row = torch.arange(tasks, device=x.device)[:, None]
    return torch.where(box, x[row, other], x), left * labels + (1 - left) * labels[row, other]


def erased(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [T, n, C, H, W], half of them with a box of zeros."""
    tasks, count, _, height, width = x.shape
    draw, area, ratio, top, left = torch.rand(5, tasks * count, generator=generator)
    area = (0.02 + 0.38 * area) * height * width
    ratio = (log(0.3) + ratio * (log(3.3) - log(0.3))).exp()
    size = torch.stack([(area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)]).round()
    low = (torch.stack([top, left]) * (torch.tensor([[height], [width]]) - size + 1)).floor()
    box = _boxes(low, low + size, height, width) & (draw < 0.5).view(-1, 1, 1, 1)
    return x.masked_fill(sent(box.view(tasks, count, 1, height, width), x.device), 0)


def _boxes(low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """[k, 1, H, W], True within rows and columns `low` (included) to `high` (not), both [2, k]."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    low, high = low.view(2, -1, 1, 1, 1), high.view(2, -1, 1, 1, 1)
    return (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])
