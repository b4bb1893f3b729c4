"""TAML: an initial model that is not biased towards some of the tasks.

Jamal, Qi: Task Agnostic Meta-Learning for Few-Shot Learning (CVPR 2019).

With l_i the loss of task i under the initial model, T tasks to an outer step and l the mean of theirs, the outer loss
gets `weight` times

    entropy_maximisation   mean of -H_i(theta)               H: mean Shannon entropy of the predictions
    entropy_reduction      mean of -H_i(theta) + H_i(theta_S)
    theil                  mean of (l_i/l) ln(l_i/l)
    generalised_entropy    mean of ((l_i/l)^a - 1) / (a (a - 1)),  a: `exponent`, 2 in the paper
    atkinson               1 - (mean of l_i^(1 - e))^(1 / (1 - e)) / l,  e: `epsilon`; for 1 the geometric mean of l_i
    gini                   sum over i, j of |l_i - l_j| / (2 T^2 l)
    log_variance           variance of ln l_i

l_i and H_i(theta) are those of the examples that the inner gradient is of, the support set, or with `of: query` of the
query set; H_i(theta_S) is of the query set always. The last five compare tasks. Their gradient is computed task by task
and still exact: the losses are computed first, and each task then follows its own loss with the derivative of the
measure as its weight. The initial model is the learner before its first step, without other regularizers. Off in
evaluation. There is no code of the authors'; formulas are after descriptions of the paper, not the paper itself: whose
losses they take and their epsilon are not known for sure.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from raymeta.engine.tasks import of_task
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section

Measure = Literal[
    "entropy_maximisation", "entropy_reduction", "theil", "generalised_entropy", "atkinson", "gini", "log_variance"
]


class TAMLConfig(Section):
    """The authors' weight is not known."""

    weight: Number = Field(0.1, ge=0, description="lambda.")
    measure: Measure = "entropy_reduction"
    exponent: float = Field(2.0, description="generalised_entropy: a; its limit at 1 is theil's.")
    epsilon: float = Field(1.0, ge=0, description="atkinson: e; the larger, the more the smallest losses count.")
    of: Literal["support", "query"] = Field("support", description="Whose losses and predictions at theta are taken.")

    @field_validator("exponent")
    @classmethod
    def _divides(cls, exponent: float) -> float:
        if exponent in (0, 1):
            raise ValueError(f"found {exponent}: a (a - 1) divides; allowed: other numbers (the limit at 1 is theil's)")
        return exponent


@regularizer("taml")
class TAML(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = TAMLConfig
    acts_on: ClassVar[str] = "the outer loss"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop", "labels"})

    def __init__(self, config: TAMLConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        if model.norm_mode == "running":
            raise UserError("model.norm: found 'running', but taml's passes of the initial model would change them too")
        self.entropy = config.measure.startswith("entropy")
        self.least_tasks = 1 if self.entropy else 2

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        plain = replace(context, hooks=())

        def asked(task: Task) -> Examples:
            return task.support if self.settings.of == "support" else task.query

        def initial(task: Task) -> Tensor:
            """Predictions of the initial model."""
            return learner.predict(learner.unadapted(task.support, plain), asked(task).x)  # type: ignore[operator]

        def less_certain(loss: Tensor, adapted: Any, task: Task, context: Context) -> Tensor:
            term = -entropy(initial(task))
            if self.settings.measure == "entropy_reduction":
                term = term + entropy(learner.predict(adapted, task.query.x))
            return loss + self.numbers.weight * term

        if self.entropy:
            return Hooks(query_loss=less_certain)
        with torch.no_grad():  # the inequality is that of the tasks as drawn
            each = [tasks.task(number) for number in range(tasks.size)]
            own = [learner.loss(initial(task), asked(task).y) for task in each]
        found, slopes = with_slopes(torch.stack(own), self.settings)

        def more_equal(loss: Tensor, adapted: Any, task: Task, context: Context) -> Tensor:
            drawn = tasks.task(context.task)
            mine = learner.loss(initial(drawn), asked(drawn).y)
            term = found + of_task(slopes, context.task) * (mine - mine.detach())
            return loss + self.numbers.weight * term

        return Hooks(query_loss=more_equal)


def with_slopes(losses: Tensor, settings: TAMLConfig) -> tuple[Tensor, Tensor]:
    """The inequality of losses [T], and T times its derivative by each of them, [T]: constants both."""
    measure = partial(inequality, measure=settings.measure, exponent=settings.exponent, epsilon=settings.epsilon)
    slopes, found = torch.func.grad_and_value(measure)(losses.detach())
    return found, len(losses) * slopes


def inequality(losses: Tensor, measure: str, exponent: float = 2.0, epsilon: float = 1.0) -> Tensor:
    """How unequal losses [T] are, from 0 on; see the module's docstring. Below 1e-6 all are alike."""
    losses = losses.clamp(min=1e-6)  # a confident model's loss is 0, which has no logarithm
    mean = losses.mean()
    ratios = losses / mean
    if measure == "theil":
        return (ratios * ratios.log()).mean()
    if measure == "generalised_entropy":
        logs = ratios.log()  # the mean of r is 1, so that of r^a - 1 is that of r^a - r, which is exact near 1
        powers = (exponent * logs).expm1() if exponent < 0.5 else ratios * ((exponent - 1) * logs).expm1()
        return powers.mean() / (exponent * (exponent - 1))
    if measure == "atkinson":
        power, logs = 1 - epsilon, ratios.log()
        if power == 0:
            return -logs.mean().expm1()
        if abs(power) < 0.5:  # exact near 0, where the other form is not
            return -((power * logs).expm1().mean().log1p() / power).expm1()
        return -(((power * logs).logsumexp(0) - math.log(len(losses))) / power).expm1()
    if measure == "gini":
        return (losses[:, None] - losses).abs().mean() / (2 * mean)
    logs = losses.log()
    return (logs - logs.mean()).square().mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy, in nats, of predictions [n, N]."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()
