"""CxGrad: the inner gradients of the convolutions are scaled by what a context vector says of the task.

Lee, Lee, Jung, Kim, Yoo: Contextual Gradient Scaling for Few-Shot Learning (WACV 2022).

    w_l <- gamma_l w_l / ||w_l||,   gamma = softplus(MLP(nu)), a number per convolution l, before every inner step
    nu_0 = 0 - beta dLs/dnu at nu = 0, a constant to the outer loop;   then for every step, of one loss,
    theta <- theta - alpha dLs/dtheta,   nu <- nu - beta dLs/dnu

Norms are of the whole 4-d tensor and are differentiated. The gradient is that at the scaled weights and moves the
scaled weights, so that it grows as 1/gamma. The query is predicted without a last scaling.

Under batch norm the loss does not depend on gamma but for the norm's eps: nu hardly gets a gradient, and `norm_eps` is
a hyperparameter in hiding. The MLP learns all the same, through the scaled inner gradients. A convolution's bias would
break the invariance, so `model.conv_bias` is false.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import Context, Step, gradients, regularized
from raymeta.learner import Adapted, InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML

CONTEXT = "context"


class CxGradConfig(InnerLoopConfig):
    """Defaults: the authors' code on miniImageNet."""

    context_lr: Number = Field(1.0, ge=0, description="beta.")
    context_size: int = Field(100, ge=1, description="Numbers in nu, and hidden units of the MLP.")


@method("cxgrad")
class CxGrad(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = CxGradConfig
    adapts: ClassVar[str] = "as MAML, and a context vector"
    learns: ClassVar[str] = "theta, the MLP of the scaling"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.2
    exact: ClassVar[dict[str, Any]] = {"context_lr": 0.0}  # the context's first step is a constant
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    defaults: ClassVar[dict[str, Any]] = {"model": {"conv_bias": False, "activation": "leaky_relu"}}
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_lr"})  # it acts on weights of norm gamma, not of theirs

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        if getattr(config.model, "conv_bias", False):
            raise UserError(
                "model.conv_bias: found true, but cxgrad scales convolutions whose norm undoes it; use false"
            )
        shapes = {name: self.model.weights()[name].shape for name in self.adapted}
        self.scaled = [name for name, shape in shapes.items() if len(shape) == 4 and shape[-1] == 3]
        if not self.scaled:
            raise UserError(
                f"{config.spec}: cxgrad scales the gradients of 3x3 convolutions, and here the inner loop of "
                f"{config.model.name} moves none"
            )
        size = self.settings.context_size
        self.generator = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, len(self.scaled)))

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        loss, second_order = self.step_loss(own), self.second_order(context)
        weights = self.initial(own)
        nu = next(iter(weights.values())).new_zeros(self.settings.context_size)

        def of_context(moving: Weights) -> Tensor:
            return loss(self.scale(weights, moving[CONTEXT]), 0)

        first = gradients(of_context, {CONTEXT: nu}, second_order=False, vectorized=context.vectorized)
        nu = nu - self.numbers.context_lr * first[CONTEXT]
        path = [weights]
        for step in range(self.steps(context)):
            at, nu_at = (weights, nu) if second_order else ({n: w.detach() for n, w in weights.items()}, nu.detach())

            def shifted(moving: Weights, step: int = step, at: Weights = at) -> Tensor:
                """The loss at the scaled weights plus a shift, whose gradient is the one at the scaled weights."""
                scaled = self.scale(at, moving[CONTEXT])
                return loss({**scaled, **{name: scaled[name] + moving[name] for name in self.adapted}}, step)

            moving = {**{name: torch.zeros_like(at[name]) for name in self.adapted}, CONTEXT: nu_at}
            found = gradients(shifted, moving, second_order=second_order, vectorized=context.vectorized)
            scaled = self.scale(weights, nu)
            nu = nu - self.numbers.context_lr * found.pop(CONTEXT)
            start = {name: scaled[name] for name in self.adapted}

            def of_moving(moving: Weights, step: int = step, scaled: Weights = scaled) -> Tensor:
                return loss({**scaled, **moving}, step)

            moved = self.update(step, start, regularized(Step(step, of_moving, start, found), context))
            weights = {**scaled, **moved}
            path.append(weights)
        return self.adapted_state(own, path)

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        """The norms gamma of the scaled convolutions; inner gradients grow as 1/gamma."""
        return {"gamma": {name: step.weights[name].norm() for name in self.scaled}}

    def scale(self, weights: Weights, nu: Tensor) -> Weights:
        """The weights with every scaled convolution at norm gamma."""
        gamma = F.softplus(self.generator(nu))
        scaled = {name: g * weights[name] / weights[name].norm() for name, g in zip(self.scaled, gamma, strict=True)}
        return {**weights, **scaled}
