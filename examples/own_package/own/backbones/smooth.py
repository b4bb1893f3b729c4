"""A multilayer perceptron of tanh units on flattened inputs: nothing in it has a kink."""

from math import prod
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.models import Backbone, Pass, Weights
from raymeta.registry import backbone
from raymeta.schema import Section


class SmoothConfig(Section):
    """`model: {name: smooth, ...}`."""

    name: Literal["smooth"] = "smooth"
    units: int = Field(16, ge=1, description="Of each of the two layers.")


@backbone("smooth")
class Smooth(Backbone):
    """Inputs of any shape."""

    Config: ClassVar[type[Section]] = SmoothConfig
    batches_tasks_on_cpu: ClassVar[bool] = True

    def __init__(self, config: SmoothConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        self.first = nn.Linear(prod(input_shape), config.units)
        self.second = nn.Linear(config.units, config.units)
        self.feature_size = config.units
        self.add_head(outputs)

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        h = prepared.flatten(1)
        for layer in self.blocks():
            h = F.linear(h, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).tanh()
            for change in now.on_block:
                h = change(h, layer, now)
        return h

    def blocks(self) -> tuple[str, ...]:
        return ("first", "second")
