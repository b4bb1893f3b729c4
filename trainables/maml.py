"""MAML: model-agnostic meta-learning, second and first order.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks (ICML 2017).

    theta_0 = theta;  theta_{j+1} = theta_j - alpha * grad Ls(theta_j),  j = 0 .. S-1
    outer loss = mean over tasks of Lq(theta_S)

Adapts every tensor but the norm's scale and shift (`adapt_norm` adds them); meta-learns theta and the norm's. First
order takes the inner gradients as constants, so that the outer gradient is grad Lq at theta_S.

Losses are means over images. The authors' code divides the support loss by K instead of N*K, so a published `inner_lr`
is to be multiplied by N here (miniImageNet 0.01 becomes 0.05 for 5 ways).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.data.store import Dataset
from raymeta.errors import UserError
from raymeta.inner import Context, descend
from raymeta.method import Adapted, Method
from raymeta.models import Weights
from raymeta.norm import NormPass
from raymeta.registry import method
from raymeta.schema import Section


class MAMLConfig(Section):
    """Defaults: the MAML of the MAML++, ALFA and L2F repositories on miniImageNet."""

    order: Literal["first", "second"] = "second"
    inner_steps: int = Field(5, ge=0, description="S; ALFA's code: 5.")
    eval_steps: int | None = Field(None, ge=0, description="Inner steps in evaluation; null: inner_steps. Finn: 10.")
    inner_lr: float = Field(0.01, ge=0, description="alpha, of the mean support loss; ALFA's code: 0.01.")
    adapt_norm: bool = Field(False, description="Adapt the norm's scale and shift too (CloserLookFewShot does).")


@method("maml")
class MAML(Method):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MAMLConfig
    inner_lr: Tensor

    def __init__(self, config: TrialConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("inner_lr", torch.tensor(self.settings.inner_lr, dtype=torch.float64), persistent=False)
        fixed = frozenset() if self.settings.adapt_norm else self.model.norm_names()
        self.adapted = [name for name in self.model.weights() if name not in fixed]
        if self.model.norm_mode == "per_step":
            if self.settings.adapt_norm:
                raise UserError("maml.adapt_norm: with model.norm per_step the scales and shifts are learned per step")
            if (self.settings.eval_steps or 0) > self.settings.inner_steps:
                raise UserError(
                    f"maml.eval_steps: found {self.settings.eval_steps}, but model.norm per_step has only "
                    f"inner_steps ({self.settings.inner_steps}) rows"
                )

    def adapt(self, support_x: Tensor, support_y: Tensor, context: Context) -> Adapted:
        settings = self.settings
        steps = settings.inner_steps
        if not context.training and settings.eval_steps is not None:
            steps = settings.eval_steps
        x = self.model.prepare(support_x)

        def support_loss(weights: Weights, step: int) -> Tensor:
            return self.loss(self.model(x, weights, NormPass(context.training, step)), support_y)

        weights = descend(
            support_loss,
            self.model.weights(),
            self.adapted,
            self.update,
            steps=steps,
            second_order=settings.order == "second",
            context=context,
        )
        return Adapted(weights, self.query_norm(x, weights, max(steps - 1, 0), context))

    def update(self, step: int, name: str, weight: Tensor, gradient: Tensor) -> Tensor:
        """theta_{j+1} of one tensor."""
        return weight - self.inner_lr * gradient

    def query_norm(self, x: Tensor, weights: Weights, step: int, context: Context) -> NormPass:
        """How the query is normalised after the last inner step: in `support` mode with the support's statistics."""
        norm = NormPass(context.training, step)
        if self.model.norm_mode != "support":
            return norm
        self.model(x, weights, norm)
        return NormPass(context.training, step, moments=norm.recorded)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        return self.model(self.model.prepare(query_x), adapted.weights, adapted.norm)  # type: ignore[no-any-return]
