"""ModGrad, approximately: inner gradients modulated element by element, by low-rank factors made from a context vector.

Simon, Koniusz, Nock, Harandi: On Modulating the Gradient for Meta-Learning (ECCV 2020).

    theta_{j+1} = theta_j - alpha * M(nu) * grad Ls(theta_j),   M_l = 1 + u_l v_l^T on [C_out, rest], (u_l, v_l) from nu

APPROXIMATE: no code of its authors is public, and this follows the abstract and CxGrad's account of it. What is ours:
nu starts at 0 and moves once, down the gradient of the support loss after one modulated step from theta; (u_l, v_l) are
an MLP's, of rank 1; its last layer starts small, so that M starts near 1, and at first nu hardly matters.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.inner import Context, descend, gradients
from raymeta.learner import Adapted, InnerLoopConfig
from raymeta.models import Weights
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML


class ModGradConfig(InnerLoopConfig):
    """Defaults: MAML's, and ours for the context."""

    context_lr: Number = Field(1.0, ge=0, description="Step size of nu's one step (ours).")
    context_size: int = Field(100, ge=1, description="Numbers in nu, and hidden units of the MLP (ours).")


@method("modgrad")
class ModGrad(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ModGradConfig
    adapts: ClassVar[str] = "as MAML, and a context vector"
    learns: ClassVar[str] = "theta, the MLP of the modulation"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.4

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        theta, size = self.model.weights(), self.settings.context_size
        self.modulated = [name for name in self.adapted if theta[name].ndim > 1]
        self.sides = [side for name in self.modulated for side in (len(theta[name]), theta[name][0].numel())]
        self.body = nn.Sequential(nn.Linear(size, size), nn.ReLU())
        self.factors = nn.Linear(size, sum(self.sides))
        nn.init.normal_(self.factors.weight, std=0.01)

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        loss, theta = self.step_loss(own), self.initial(own)
        second_order = self.second_order(context)
        start = {name: theta[name] for name in self.adapted}
        at = start if second_order else {name: weight.detach() for name, weight in start.items()}

        def from_theta(moving: Weights) -> Tensor:
            return loss({**theta, **moving}, 0)

        first = gradients(from_theta, at, second_order=second_order, vectorized=context.vectorized)

        def after_a_step(moving: Weights) -> Tensor:
            return loss({**theta, **self.modulated_step(at, first, moving["context"])}, 0)

        nu = {"context": next(iter(theta.values())).new_zeros(self.settings.context_size)}
        found = gradients(after_a_step, nu, second_order=second_order, vectorized=context.vectorized)
        context_vector = nu["context"] - self.numbers.context_lr * found["context"]

        def update(step: int, weights: Weights, gradients: Weights) -> Weights:
            return self.modulated_step(weights, gradients, context_vector)

        steps = self.steps(context)
        path = descend(loss, theta, self.adapted, update, steps=steps, second_order=second_order, context=context)
        return self.adapted_state(own, path)

    def modulated_step(self, weights: Weights, gradients: Weights, nu: Tensor) -> Weights:
        """One step of the rule."""
        parts = iter(self.factors(self.body(nu)).split(self.sides))
        modulated = dict(gradients)
        for name in self.modulated:
            outer = torch.outer(next(parts), next(parts)).reshape(gradients[name].shape)
            modulated[name] = (1 + outer) * gradients[name]
        return self.update(0, weights, modulated)
