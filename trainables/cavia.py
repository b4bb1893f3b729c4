"""CAVIA: only a context vector adapts to a task.

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast Context Adaptation via Meta-Learning (ICML 2019).

    phi_0 = 0;  phi_{j+1} = phi_j - alpha * dLs(theta, phi_j)/dphi;  the outer loop learns theta alone

Images: phi scales and shifts the channels of one block after pooling and before its nonlinearity (FiLM), by a learned
linear map of phi. At phi = 0 scale and shift are its biases, which start in U(+-1/sqrt(size of phi)), so that half of
the scales are negative. Regression and policies: phi is appended to the inputs.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError, suggest
from raymeta.learner import StepsConfig, Support, backbone
from raymeta.models import Backbone, Weights
from raymeta.models.init import BiasLaw, WeightLaw, linear
from raymeta.models.passes import Pass
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML

CONTEXT = "context"  # its name among the weights of a task


class FilmInit(Section):
    """What the map from phi to scales and shifts starts from; the authors'."""

    film: WeightLaw = "kaiming_uniform(linear)"
    film_bias: BiasLaw = "torch"


class CAVIAConfig(StepsConfig):
    """Defaults: the authors' code."""

    inner_steps: int = Field(2, ge=0, description="S; images: 2, regression: 1.")
    context_lr: Number = Field(1.0, ge=0, description="alpha, of the mean support loss.")
    context_size: int | None = Field(None, ge=1, description="Numbers in phi; null: 100 for images, 5 for regression.")
    block: int = Field(3, ge=1, description="Which block phi modulates, from 1; images only.")
    init: FilmInit = FilmInit()


@method("cavia")
class CAVIA(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = CAVIAConfig
    adapts: ClassVar[str] = "a context vector"
    learns: ClassVar[str] = "theta, the map from context to modulation"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 0.6
    of_policies: ClassVar[bool] = True
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_steps", "eval_steps"})
    networks: ClassVar[dict[str, dict[str, Any]]] = {
        "conv4": {"init": {"conv": "kaiming_uniform", "head": "kaiming_uniform(linear)"}},
        "mlp": {"init": {"hidden": "torch", "hidden_bias": "torch", "head": "torch", "head_bias": "torch"}},
    }

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self.film: nn.Linear | None = None
        if "images" in problem.offers:
            channels = self.model.film_channels
            if not 1 <= self.settings.block <= len(channels):
                raise UserError(
                    f"cavia.block: {config.model.name} has no block {self.settings.block} that can be modulated: "
                    f"{suggest(str(self.settings.block), [str(i + 1) for i in range(len(channels))])}"
                )
            self.block = self.model.blocks()[self.settings.block - 1]
            init = self.settings.init
            self.film = linear(self.size, 2 * channels[self.settings.block - 1], init.film, init.film_bias)

    def build_model(self, config: TrialConfig, problem: Problem) -> Backbone:
        images = "images" in problem.offers
        self.size = self.settings.context_size or (100 if images else 5)
        if images:
            return super().build_model(config, problem)
        (inputs,) = problem.input_shape
        return backbone(config, (inputs + self.size,), problem.outputs)

    def moving(self) -> list[str]:
        return [CONTEXT]

    def initial(self, support: Support) -> Weights:
        theta = self.model.weights()
        return {**theta, CONTEXT: next(iter(theta.values())).new_zeros(self.size)}

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        return {CONTEXT: moving[CONTEXT] - self.numbers.context_lr * gradients[CONTEXT]}

    def outputs(self, x: Any, weights: Weights, now: Pass) -> Tensor:
        context = weights[CONTEXT]
        if self.film is None:
            return super().outputs(torch.cat([x, context.expand(*x.shape[:-1], -1)], -1), weights, now)
        scale, shift = self.film(context)[:, None, None].chunk(2)

        def modulated(h: Tensor, layer: str, now: Pass) -> Tensor:
            return h * scale + shift if layer == self.block else h

        return super().outputs(x, weights, replace(now, on_normalised=(*now.on_normalised, modulated)))
