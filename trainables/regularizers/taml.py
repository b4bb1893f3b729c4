"""TAML: an initial model that is not biased towards some of the tasks.

Jamal, Qi: Task Agnostic Meta-Learning for Few-Shot Learning (CVPR 2019).

With l_i the query loss of task i under the initial model, T tasks to an outer step and l the mean of theirs, the outer
loss gets `weight` times

    entropy_maximisation   mean of -H_i(theta)               H: mean Shannon entropy of the predictions for the query
    entropy_reduction      mean of -H_i(theta) + H_i(theta_S)
    theil                  mean of (l_i/l) ln(l_i/l)
    generalised_entropy    mean of ((l_i/l)^2 - 1) / 2       (its exponent is 2)
    atkinson               1 - (geometric mean of l_i) / l   (its epsilon is 1)
    gini                   sum over i, j of |l_i - l_j| / (2 T^2 l)
    log_variance           variance of ln l_i

The last five compare tasks. Their gradient is computed task by task and still exact: the losses are computed first, and
each task then follows its own loss with the derivative of the measure as its weight. The initial model is the learner
before its first step, without other regularizers. Off in evaluation. There is no code of the authors'; formulas are
after descriptions of the paper, not the paper itself.
"""

from copy import copy
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Method, Regularizer
from raymeta.models import Backbone
from raymeta.problems.images.episodes import Episodes, Task, of_task
from raymeta.problems.images.store import Dataset
from raymeta.registry import regularizer
from raymeta.schema import Section

Measure = Literal[
    "entropy_maximisation", "entropy_reduction", "theil", "generalised_entropy", "atkinson", "gini", "log_variance"
]


class TAMLConfig(Section):
    """The authors' weight is not known."""

    weight: float = Field(0.1, ge=0, description="lambda.")
    measure: Measure = "entropy_reduction"


@regularizer("taml")
class TAML(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = TAMLConfig
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    inner_loop: ClassVar[bool] = True
    weight: Tensor
    episodes: Episodes
    inequality: Tensor  # of the outer step's losses, []
    slopes: Tensor  # T times its derivative by each of them, [T]

    def __init__(self, config: TAMLConfig, model: Backbone, dataset: Dataset) -> None:
        super().__init__(config, model, dataset)
        self.register_buffer("weight", torch.tensor(config.weight, dtype=torch.float64), persistent=False)
        if model.norm_mode == "running":
            raise UserError("model.norm: found 'running', but taml's passes of the initial model would change them too")
        self.entropy = config.measure.startswith("entropy")
        self.least_tasks = 1 if self.entropy else 2

    def on_step(
        self, method: Method, episodes: Episodes, context: Context, generator: torch.Generator
    ) -> "Regularizer":
        if self.entropy:
            return self
        with torch.no_grad():
            tasks = (episodes.task(number) for number in range(episodes.tasks))
            plain = Context(training=True, progress=context.progress)
            losses = torch.stack([method.loss(*_initial(method, task, plain)) for task in tasks])
        acting = copy(self)
        acting.episodes = episodes
        losses.requires_grad_()
        with torch.enable_grad():
            found = inequality(losses, self.settings.measure)
        acting.inequality = found.detach()
        acting.slopes = episodes.tasks * torch.autograd.grad(found, losses)[0]
        return acting

    def on_query_loss(self, loss: Tensor, adapted: Any, task: Task, method: Method, context: Context) -> Tensor:
        own = task if self.entropy else self.episodes.task(context.task)  # the inequality is that of the tasks as drawn
        outputs, y = _initial(method, own, Context(True, context.progress, context.vectorized, ways=context.ways))
        if self.entropy:
            term = -entropy(outputs)
            if self.settings.measure == "entropy_reduction":
                term = term + entropy(method.predict(adapted, task.query_x))
        else:
            initial = method.loss(outputs, y)
            term = self.inequality + of_task(self.slopes, context.task) * (initial - initial.detach())
        return loss + self.weight.to(loss.dtype) * term


def inequality(losses: Tensor, measure: str) -> Tensor:
    """How unequal losses [T] are, from 0 on; see the module's docstring. Below 1e-6 all are alike."""
    losses = losses.clamp(min=1e-6)  # a confident model's loss is 0, which has no logarithm
    mean = losses.mean()
    ratios = losses / mean
    if measure == "theil":
        return (ratios * ratios.log()).mean()
    if measure == "generalised_entropy":
        return (ratios.square() - 1).mean() / 2
    if measure == "atkinson":
        return 1 - losses.log().mean().exp() / mean
    if measure == "gini":
        return (losses[:, None] - losses).abs().mean() / (2 * mean)
    logs = losses.log()
    return (logs - logs.mean()).square().mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy, in nats, of predictions [n, N]."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def _initial(method: Any, task: Task, context: Context) -> tuple[Tensor, Tensor]:
    """Predictions of the initial model for a task's query, and what they should be."""
    return method.predict(method.unadapted(task.support_x, task.support_y, context), task.query_x), task.query_y
