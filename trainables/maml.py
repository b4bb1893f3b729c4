"""MAML: model-agnostic meta-learning, second and first order.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks (ICML 2017).

    theta_0 = theta;  theta_{j+1} = theta_j - alpha * grad Ls(theta_j),  j = 0 .. S-1
    outer loss = mean over tasks of Lq(theta_S)

`first_order_share` trains in first order before the second (derivative-order annealing, MAML++).

Adapts every tensor but the norm's scale and shift (`adapt_norm` adds them); meta-learns theta and the norm's. First
order takes the inner gradients as constants, so that the outer gradient is grad Lq at theta_S.

Losses are means over images. The authors' code divides the support loss by K instead of N*K, so a published `inner_lr`
is to be multiplied by N here (miniImageNet 0.01 becomes 0.05 for 5 ways).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import Context, descend
from raymeta.learner import Adapted, Method, Regularizer
from raymeta.models import Weights
from raymeta.models.norm import Pass
from raymeta.problems.images.store import Dataset
from raymeta.registry import method
from raymeta.schema import Section


class MAMLConfig(Section):
    """Defaults: the MAML of the MAML++, ALFA and L2F repositories on miniImageNet."""

    order: Literal["first", "second"] = Field("second", description="Of the outer gradient.")
    first_order_share: float = Field(
        0.0, ge=0, le=1, description="Share of the full budget trained in first order before the second (MAML++'s DA)."
    )
    inner_steps: int = Field(5, ge=0, description="S; ALFA's code: 5.")
    eval_steps: int | None = Field(None, ge=0, description="Inner steps in evaluation; null: inner_steps. Finn: 10.")
    inner_lr: float = Field(0.01, ge=0, description="alpha, of the mean support loss; ALFA's code: 0.01.")
    adapt_norm: bool = Field(False, description="Adapt the norm's scale and shift too (CloserLookFewShot does).")


@dataclass(frozen=True)
class Support:
    """A task's support set, as the steps of its inner loop see it: inputs prepared, labels or values, the context."""

    x: Any
    y: Tensor
    context: Context


@method("maml")
class MAML(Method):
    """See the module's docstring. Other learners override a part: what adapts, from where, by which rule."""

    Config: ClassVar[type[Section]] = MAMLConfig
    adapts: ClassVar[str] = "all weights but the norm's"
    learns: ClassVar[str] = "the weights theta"
    cost: ClassVar[float | None] = 1.0

    def __init__(self, config: TrialConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        settings = self.settings
        regularizers: list[Regularizer] = list(self.regularizers)  # type: ignore[arg-type]
        self.adapted = [name for name in self.adapted_names() if not any(one.freezes(name) for one in regularizers)]
        if not self.adapted:
            raise UserError(f"{config.spec}: nothing is left for {self.name} to adapt")
        for regularizer in regularizers:
            if not any(regularizer.covers(name) for name in self.adapted):
                raise UserError(f"{config.spec}: {self.name} adapts nothing in the scope of {regularizer.name}")
        if self.model.norm_mode == "per_step":
            if settings.inner_steps < 1:
                raise UserError(f"{self.name}.inner_steps: found 0, but model.norm per_step has a row for each of them")
            if self.model.norm_names() & set(self.adapted):
                raise UserError(
                    f"{self.name} adapts the norm's scales and shifts here, but with model.norm per_step they are "
                    "learned per step"
                )
            if (settings.eval_steps or 0) > settings.inner_steps:
                raise UserError(
                    f"{self.name}.eval_steps: found {settings.eval_steps}, but model.norm per_step has only "
                    f"inner_steps ({settings.inner_steps}) rows"
                )
        if "inner_lr" in type(settings).model_fields:
            self.register_buffer("inner_lr", torch.tensor(settings.inner_lr, dtype=torch.float64), persistent=False)

    def adapted_names(self) -> list[str]:
        """What the inner loop moves."""
        fixed = frozenset() if self.settings.adapt_norm else self.model.norm_names()
        return [name for name in self.model.weights() if name not in fixed]

    def adapt(self, support_x: Tensor, support_y: Tensor, context: Context) -> Adapted:
        support = Support(self.model.prepare(support_x), support_y, context)
        path = descend(
            self.support_loss(support),
            self.start(support),
            self.adapted,
            self.update,
            steps=self.steps(context),
            second_order=self.second_order(context),
            context=context,
        )
        return self.adapted_state(support, path)

    def unadapted(self, support_x: Tensor, support_y: Tensor, context: Context) -> Adapted:
        """The state before the first inner step."""
        support = Support(self.model.prepare(support_x), support_y, context)
        return self.adapted_state(support, [self.start(support)])

    def support_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        """The loss that the inner loop descends, a function of (weights, step)."""

        def loss(weights: Weights, step: int) -> Tensor:
            now, samples = support.context.at(step), support.context.samples
            losses = [self.loss(self.outputs(support.x, weights, now), support.y) for _ in range(samples)]
            return losses[0] if samples == 1 else torch.stack(losses).mean()

        return loss

    def start(self, support: Support) -> Weights:
        """theta_0 of a task."""
        return self.model.weights()

    def update(self, step: int, weights: Weights, gradients: Weights) -> Weights:
        """The adapted tensors after a step."""
        return {name: weight - self.inner_lr * gradients[name] for name, weight in weights.items()}  # type: ignore[operator]

    def adapted_state(self, support: Support, path: list[Weights]) -> Adapted:
        """What the query is predicted with, from the weights before and after every step."""
        return Adapted(path[-1], self.query_pass(support, path[-1], max(len(path) - 2, 0)))

    def query_pass(self, support: Support, weights: Weights, step: int) -> Pass:
        """How the query is normalised after inner step `step`: in `support` mode with the support's statistics."""
        if self.model.norm_mode != "support":
            return support.context.at(step, query=True)
        now = support.context.at(step)
        self.outputs(support.x, weights, now)
        return support.context.at(step, now.recorded, query=True)

    def outputs(self, x: Any, weights: Weights, now: Pass) -> Tensor:
        """Logits or values of prepared inputs under the weights of a task."""
        return self.model(x, weights, now)  # type: ignore[no-any-return]

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        return self.outputs(self.model.prepare(query_x), adapted.weights, adapted.query)

    def steps(self, context: Context) -> int:
        """Inner steps, in training or evaluation, unless the context says how many."""
        settings = self.settings
        if context.steps is not None:
            return context.steps
        if context.training or settings.eval_steps is None:
            return int(settings.inner_steps)
        return int(settings.eval_steps)

    def second_order(self, context: Context) -> bool:
        """Whether this outer step differentiates through the inner gradients."""
        settings = self.settings
        share = settings.first_order_share
        return bool(settings.order == "second" and share < 1 and context.progress >= share)
