"""MetaMix: query images are mixed with support images, in the pixels or between blocks.

Yao, Huang, Zhang, Wei, Tian, Zou, Huang, Li: Improving Generalization in Meta-learning
via Task Augmentation (ICML 2021).

    a layer (pixels, or the end of a block but the last) and lambda ~ Beta(a, a) are drawn for a task; there
    h = lambda h_query + (1 - lambda) h_support,    y = lambda y_query + (1 - lambda) y_support

with the weights adapted to the plain support set, both in passes of their own up to that layer, or in one (see
`protonet.passes`). Each query image has a support image as its partner, drawn without replacement as often as there are
enough: with as many queries as shots, as the authors have it, that is a permutation. In evaluation nothing is mixed.

Channel shuffle (`shuffle` is its probability, from `shuffle_start` of the budget on): a layer between blocks, one of
six groups of its channels and a cyclic order of the classes are drawn for a task; in the inner loop and in the query
these channels of a class are replaced by those of the next one. Labels stay. Mixing comes after it. With
`draws: authors` all tasks of an outer step are shuffled or none is, and shuffled tasks are mixed where they are
shuffled (unless `layers` says pixels); with `independent` each task has a coin and both layers of its own.

The authors train it on tasks in which a class always has the same label (`task.labels: fixed`).
"""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raymeta.engine.tasks import of_task
from raymeta.engine.transfer import sent
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner, probabilities
from raymeta.models import Backbone
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section

GROUPS = (0, 6, 11, 16, 22, 27, 32)  # bounds of the channel groups, in 32nds


class MetaMixConfig(Section):
    """Defaults: the authors' code; its 5,000 of 50,000 steps before the shuffle are 0.1."""

    rate: Number = Field(1.0, ge=0, le=1, description="Probability that a task's query is mixed.")
    beta: float = Field(2.0, gt=0, description="a of Beta(a, a).")
    layers: Literal["pixels", "all"] = "all"
    shuffle: Number = Field(0.5, ge=0, le=1, description="Probability of a channel shuffle.")
    shuffle_start: Number = Field(0.1, ge=0, le=1, description="Share of the full budget without it.")
    draws: Literal["authors", "independent"] = Field(
        "authors",
        description="A shuffle for all tasks of an outer step, with its layer for the mixing; or each by itself.",
    )


class Draws(NamedTuple):
    """Of every task of an outer step."""

    mixed: Tensor  # [T]: uniform; below the rate it is mixed
    share: Tensor  # [T]: lambda
    layer: Tensor  # [T]: where it is mixed; 0: pixels, k: the end of the k-th block
    partner: Tensor  # [T, N*Q]: rows of the support
    shuffled: Tensor  # [T]: uniform; below `shuffle` channels are shuffled, by default in all tasks or none
    block: Tensor  # [T]: at whose end
    group: Tensor  # [T]: which channels
    following: Tensor  # [T, N]: the class that comes after each


@regularizer("metamix")
class MetaMix(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MetaMixConfig
    acts_on: ClassVar[str] = "the query, blocks' outputs"
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0, "shuffle": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    groups: Tensor

    def __init__(self, config: MetaMixConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        if config.shuffle and not problem.one_shape:
            raise UserError(
                f"regularizers.metamix.shuffle: found {config.shuffle}, but it pairs the images of classes, which "
                f"differ in size in {problem.task.name}; allowed: 0"
            )
        self.classes, self.places = problem.outputs, model.ends()[:-1]
        self.register_buffer("groups", torch.tensor(GROUPS, dtype=torch.float64), persistent=False)

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> Draws:
        count, places, classes = tasks.size, len(self.places), context.outputs or self.classes
        supports, queries = tasks.support.y.shape[1], tasks.query.y.shape[1]
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

        def permutations(times: int, of: int) -> np.ndarray[Any, Any]:
            """[T, times, of]"""
            return random.random((count, times, of)).argsort(-1)

        mixed, shuffled = random.random((2, count))
        if self.settings.draws == "authors":
            shuffled[:] = shuffled[0]
        cycle = permutations(1, classes)[:, 0]
        following = np.empty_like(cycle)
        np.put_along_axis(following, cycle, np.roll(cycle, -1, 1), 1)
        drawn = (
            mixed,
            random.beta(self.settings.beta, self.settings.beta, count),
            random.integers(0, 1 if self.settings.layers == "pixels" else places + 1, count),
            permutations(-(-queries // supports), supports).reshape(count, -1)[:, :queries],
            shuffled,
            random.integers(1, places + 1, count),
            random.integers(0, len(GROUPS) - 1, count),
            following,
        )
        return Draws(*(sent(np.ascontiguousarray(values), tasks.device) for values in drawn))

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        acting = Mixing(self, learner, drawn, context.progress)
        return Hooks(query=acting.on_query, block=acting.on_block if learner.problem.one_shape else None)


class Mixing:
    """What MetaMix does in the tasks of an outer step, with what was drawn for them."""

    def __init__(self, metamix: MetaMix, learner: Learner, draws: Draws, progress: float | Tensor) -> None:
        self.metamix, self.learner, self.draws, self.progress = metamix, learner, draws, progress
        self.places = metamix.places

    def on_query(self, adapted: Any, task: Task, context: Context) -> tuple[Any, Task]:
        draws, learner = self.of(context.task), self.learner
        mixed = draws.mixed < self.metamix.numbers.rate
        share, partner = torch.where(mixed, draws.share, 1.0).to(task.query.x.dtype), draws.partner
        support: list[Tensor] = []  # its activations, place after place of every pass that the query will make

        def record(h: Tensor, layer: str, now: Pass) -> Tensor:
            if layer in self.places:
                support.append(h)
            return h

        def mix(h: Tensor, layer: str, now: Pass) -> Tensor:
            if layer not in self.places:
                return h
            place = self.places.index(layer) + 1
            if now.support:
                own, asked = h[: now.support], h[now.support :]
                return torch.cat([own, between(asked, own.index_select(0, partner), place)])
            return between(h, next(rest).index_select(0, partner), place)

        def between(query: Tensor, support: Tensor, place: int) -> Tensor:
            here = torch.where(draws.layer == place, share, 1.0)
            return here * query + (1 - here) * support

        if not adapted.query.support:  # else the query's pass has the support in it
            learner.query_loss(learner.with_hook(adapted, record), task.support)
        rest = iter(support)
        classes = draws.following.shape[0]
        labels = [probabilities(y, classes, task.query.x.dtype) for y in (task.query.y, task.support.y)]
        x = between(task.query.x, task.support.x.index_select(0, partner), 0)
        y = share * labels[0] + (1 - share) * labels[1].index_select(0, partner)
        return learner.with_hook(adapted, mix), task._replace(query=Examples(x, y))

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        if layer not in self.places:
            return h
        draws = self.of(now.task)
        bounds = (h.shape[1] * self.metamix.groups / 32).round()
        channel = torch.arange(h.shape[1], device=h.device)
        low, high = (bounds.index_select(0, (draws.group + more).reshape(1)) for more in (0, 1))
        here = (
            self._shuffles(draws) & (draws.block == self.places.index(layer) + 1) & (channel >= low) & (channel < high)
        )
        sets = (now.support, len(h) - now.support) if now.support else (len(h),)
        rows, first = [], 0
        for count in sets:  # each has the images of a class one after the other
            each = torch.arange(count // len(draws.following), device=h.device)
            rows.append((first + draws.following[:, None] * len(each) + each).flatten())
            first += count
        # By indexing: it keeps channels last.
        return torch.where(here.view(-1, *[1] * (h.ndim - 2)), h[torch.cat(rows)], h)

    def _shuffles(self, draws: Draws) -> Tensor:
        numbers = self.metamix.numbers
        return (draws.shuffled < numbers.shuffle) & (self.progress >= numbers.shuffle_start)

    def of(self, task: int | Tensor) -> Draws:
        """A task's draws, with the layer where it is mixed in the end."""
        draws, settings = Draws(*(of_task(values, task) for values in self.draws)), self.metamix.settings
        if settings.draws == "independent" or settings.layers == "pixels":
            return draws
        return draws._replace(layer=torch.where(self._shuffles(draws), draws.block, draws.layer))
