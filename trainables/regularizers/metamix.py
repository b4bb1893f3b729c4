"""MetaMix: query images are mixed with support images, in the pixels or between blocks.

Yao, Huang, Zhang, Wei, Tian, Zou, Huang, Li: Improving Generalization in Meta-learning
via Task Augmentation (ICML 2021).

    a layer (pixels, or the end of a block but the last) and lambda ~ Beta(a, a) are drawn for a task; there
    h = lambda h_query + (1 - lambda) h_support,    y = lambda y_query + (1 - lambda) y_support

with the weights adapted to the plain support set, both in passes of their own up to that layer. Each query image has a
support image as its partner, drawn without replacement as often as there are enough: with as many queries as shots, as
the authors have it, that is a permutation. In evaluation nothing is mixed.

Channel shuffle (`shuffle`, from `shuffle_start` of the budget on): with this probability a layer between blocks, one of
six groups of its channels and a cyclic order of the classes are drawn for a task; in the inner loop and in the query
these channels of a class are replaced by those of the next one. Labels stay. Mixing comes after it.

The authors train it on tasks in which a class always has the same label (`task.labels: fixed`).
"""

from copy import copy
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Method, Regularizer, probabilities
from raymeta.models import Backbone
from raymeta.models.norm import Pass
from raymeta.problems.images.episodes import Episodes, Task, of_task
from raymeta.problems.images.store import Dataset
from raymeta.registry import regularizer
from raymeta.schema import Section

GROUPS = (0, 6, 11, 16, 22, 27, 32)  # bounds of the channel groups, in 32nds


class MetaMixConfig(Section):
    """Defaults: the authors' code; its 5,000 of 50,000 steps before the shuffle are 0.1."""

    rate: float = Field(1.0, ge=0, le=1, description="Probability that a task's query is mixed.")
    beta: float = Field(2.0, gt=0, description="a of Beta(a, a).")
    layers: Literal["pixels", "all"] = "all"
    shuffle: float = Field(0.5, ge=0, le=1, description="Probability of a channel shuffle.")
    shuffle_start: float = Field(0.1, ge=0, le=1, description="Share of the full budget without it.")


class Draws(NamedTuple):
    """Of every task of an outer step."""

    share: Tensor  # [T]: lambda
    layer: Tensor  # [T]: where it is mixed; 0: pixels, k: the end of the k-th block
    partner: Tensor  # [T, N*Q]: rows of the support
    shuffled: Tensor  # [T]: the block at whose end channels are shuffled; 0: nowhere
    group: Tensor  # [T]: which channels
    following: Tensor  # [T, N]: the class that comes after each


@regularizer("metamix")
class MetaMix(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MetaMixConfig
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0, "shuffle": 0.0}
    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    groups: Tensor
    draws: Draws

    def __init__(self, config: MetaMixConfig, model: Backbone, dataset: Dataset) -> None:
        super().__init__(config, model, dataset)
        if config.shuffle and dataset.task.sampler != "fixed":
            raise UserError(
                f"regularizers.metamix.shuffle: found {config.shuffle}, but it pairs the images of classes, which "
                f"differ in size with task.sampler {dataset.task.sampler}; allowed: 0"
            )
        self.places = model.ends()[:-1]
        self.register_buffer("groups", torch.tensor(GROUPS, dtype=torch.float64), persistent=False)

    def on_step(
        self, method: Method, episodes: Episodes, context: Context, generator: torch.Generator
    ) -> "Regularizer":
        settings, tasks = self.settings, episodes.tasks
        supports, queries = episodes.support_y.shape[1], episodes.query_y.shape[1]
        ways, places = context.ways or method.ways, len(self.places)
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

        def permutations(times: int, count: int) -> np.ndarray[Any, Any]:
            """[T, times, count]"""
            return random.random((tasks, times, count)).argsort(-1)

        mixed, shuffled = random.random((2, tasks))
        cycle = permutations(1, ways)[:, 0]
        following = np.empty_like(cycle)
        np.put_along_axis(following, cycle, np.roll(cycle, -1, 1), 1)
        on = (shuffled < settings.shuffle) & (context.progress >= settings.shuffle_start)
        acting = copy(self)
        acting.draws = Draws(
            *(
                torch.from_numpy(np.ascontiguousarray(values)).to(episodes.support_x.device)
                for values in (
                    np.where(mixed < settings.rate, random.beta(settings.beta, settings.beta, tasks), 1.0),
                    random.integers(0, 1 if settings.layers == "pixels" else places + 1, tasks),
                    permutations(-(-queries // supports), supports).reshape(tasks, -1)[:, :queries],
                    np.where(on, random.integers(1, places + 1, tasks), 0),
                    random.integers(0, len(GROUPS) - 1, tasks),
                    following,
                )
            )
        )
        return acting

    def on_query(self, adapted: Any, task: Task, method: Method, context: Context) -> tuple[Any, Task]:
        draws = self._of(context.task)
        share, partner = draws.share.to(task.query_x.dtype), draws.partner
        support: list[Tensor] = []  # its activations, place after place of every pass that the query will make

        def record(h: Tensor, layer: str, now: Pass) -> Tensor:
            if layer in self.places:
                support.append(h)
            return h

        def mix(h: Tensor, layer: str, now: Pass) -> Tensor:
            if layer not in self.places:
                return h
            return between(h, next(rest).index_select(0, partner), self.places.index(layer) + 1)

        def between(query: Tensor, support: Tensor, place: int) -> Tensor:
            here = torch.where(draws.layer == place, share, 1.0)
            return here * query + (1 - here) * support

        method.query_loss(method.with_hook(adapted, record), task.support_x, task.support_y)
        rest = iter(support)
        ways = draws.following.shape[0]
        labels = [probabilities(y, ways, task.query_x.dtype) for y in (task.query_y, task.support_y)]
        x = between(task.query_x, task.support_x.index_select(0, partner), 0)
        y = share * labels[0] + (1 - share) * labels[1].index_select(0, partner)
        return method.with_hook(adapted, mix), task._replace(query_x=x, query_y=y)

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        if layer not in self.places:
            return h
        draws = self._of(now.task)
        bounds = (h.shape[1] * self.groups / 32).round()
        channel = torch.arange(h.shape[1], device=h.device)
        low, high = (bounds.index_select(0, (draws.group + more).reshape(1)) for more in (0, 1))
        here = (channel >= low) & (channel < high) & (draws.shuffled == self.places.index(layer) + 1)
        each = len(h) // len(draws.following)  # images of a class, one after the other
        rows = (draws.following[:, None] * each + torch.arange(each, device=h.device)).flatten()
        return torch.where(here.view(-1, *[1] * (h.ndim - 2)), h[rows], h)  # by indexing: it keeps channels last

    def _of(self, task: int | Tensor) -> Draws:
        return Draws(*(of_task(values, task) for values in self.draws))

    def has(self, hook: str) -> bool:
        return super().has(hook) and (hook != "on_block" or self.settings.shuffle > 0)
