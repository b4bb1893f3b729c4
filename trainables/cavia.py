"""CAVIA: only a context vector adapts to a task.

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast Context Adaptation via Meta-Learning (ICML 2019).

    phi_0 = 0;  phi_{j+1} = phi_j - alpha * dLs(theta, phi_j)/dphi;  the outer loop learns theta alone

Images: phi scales and shifts the channels of one block after pooling and before its nonlinearity (FiLM), by a learned
linear map of phi that starts as PyTorch's does, so that scales start near 0, not near 1. Regression: phi is appended to
the inputs.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError, suggest
from raymeta.learner import backbone
from raymeta.models import Backbone, Weights
from raymeta.models.norm import Pass
from raymeta.problems.images.store import Dataset
from raymeta.registry import method
from raymeta.schema import Section
from trainables.maml import MAML, Support

CONTEXT = "context"  # its name among the weights of a task


class CAVIAConfig(Section):
    """Defaults: the authors' code."""

    order: Literal["first", "second"] = "second"
    first_order_share: float = Field(0.0, ge=0, le=1, description="Share of the full budget trained in first order.")
    inner_steps: int = Field(2, ge=0, description="S; images: 2, regression: 1.")
    eval_steps: int | None = Field(None, ge=0, description="Inner steps in evaluation; null: inner_steps.")
    context_lr: float = Field(1.0, ge=0, description="alpha, of the mean support loss.")
    context_size: int | None = Field(None, ge=1, description="Numbers in phi; null: 100 for images, 5 for regression.")
    block: int = Field(3, ge=1, description="Which block phi modulates, from 1; images only.")


@method("cavia")
class CAVIA(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = CAVIAConfig
    adapts: ClassVar[str] = "a context vector"
    learns: ClassVar[str] = "theta, the map from context to modulation"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 0.6
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_steps", "eval_steps"})
    context_lr: Tensor

    def __init__(self, config: TrialConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer(
            "context_lr", torch.tensor(self.settings.context_lr, dtype=torch.float64), persistent=False
        )
        self.film: nn.Linear | None = None
        if dataset.kind == "classification":
            channels = self.model.film_channels
            if not 1 <= self.settings.block <= len(channels):
                raise UserError(
                    f"cavia.block: {config.model.name} has no block {self.settings.block} that can be modulated: "
                    f"{suggest(str(self.settings.block), [str(i + 1) for i in range(len(channels))])}"
                )
            self.block = self.model.blocks()[self.settings.block - 1]
            self.film = nn.Linear(self.size, 2 * channels[self.settings.block - 1])

    def build_model(self, config: TrialConfig, dataset: Dataset) -> Backbone:
        images = dataset.kind == "classification"
        self.size = self.settings.context_size or (100 if images else 5)
        if images:
            return super().build_model(config, dataset)
        (inputs,) = dataset.input_shape
        return backbone(config, (inputs + self.size,), dataset.outputs(config.task))

    def adapted_names(self) -> list[str]:
        return [CONTEXT]

    def start(self, support: Support) -> Weights:
        theta = self.model.weights()
        return {**theta, CONTEXT: next(iter(theta.values())).new_zeros(self.size)}

    def update(self, step: int, weights: Weights, gradients: Weights) -> Weights:
        return {CONTEXT: weights[CONTEXT] - self.context_lr * gradients[CONTEXT]}

    def outputs(self, x: Any, weights: Weights, now: Pass) -> Tensor:
        context = weights[CONTEXT]
        if self.film is None:
            return super().outputs(torch.cat([x, context.expand(len(x), -1)], 1), weights, now)
        scale, shift = self.film(context).chunk(2)
        return super().outputs(x, weights, replace(now, film={self.block: (scale, shift)}))
