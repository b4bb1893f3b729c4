"""Meta-SGD: an inner learning rate for every weight, learned with the weights.

Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning (2017).

    theta_{j+1} = theta_j - A * grad Ls(theta_j),  element by element

A has the shape of theta, is learned by the outer optimizer and may become negative. The paper takes one inner step and
draws A from U[0.005, 0.1]; with several steps a constant start is steadier. There is no code by its authors.

Where a network's shapes depend on the task, A is resized with theta (MetaCREST; `Backbone.fitted`).
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from raymeta.config import TrialConfig
from raymeta.inner import Step
from raymeta.learner import InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML


class MetaSGDConfig(InnerLoopConfig):
    """Defaults: DropGrad's Meta-SGD (5 steps of 0.01)."""

    inner_lr: Number = Field(0.01, ge=0, description="Where every rate starts, if they start alike.")
    start: Literal["constant", "uniform"] = Field(
        "constant", description="uniform: every rate starts at its own draw from [0.005, 0.1] (the paper)."
    )


@method("metasgd")
class MetaSGD(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MetaSGDConfig
    adapts: ClassVar[str] = "as MAML"
    learns: ClassVar[str] = "theta, a rate for every weight"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.0
    of_policies: ClassVar[bool] = True
    of_windows: ClassVar[bool] = True

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        theta = self.model.weights()
        self.rates = nn.ParameterList(torch.full_like(theta[name], self.settings.inner_lr) for name in self.adapted)
        if self.settings.start == "uniform":
            for rate in self.rates:
                nn.init.uniform_(rate, 0.005, 0.1)

    def rates_of(self, support: Support) -> Weights:
        """A, by name, in the shapes that the task's weights have."""
        rates = self.model.fitted(self._rates(), support.y)
        return {name: rates[name] for name in self.adapted}

    def update_of(self, support: Support) -> Callable[[int, Weights, Weights], Weights]:
        rates = self.rates_of(support)
        return lambda step, moving, gradients: _moved(moving, gradients, rates)

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        """Of tensors in theta's own shapes."""
        return _moved(moving, gradients, self._rates())

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        return {"rate": self.rates_of(support)}

    def _rates(self) -> Weights:
        return dict(zip(self.adapted, self.rates, strict=True))


def _moved(weights: Weights, gradients: Weights, rates: Weights) -> Weights:
    return {name: weight - rates[name] * gradients[name] for name, weight in weights.items()}
