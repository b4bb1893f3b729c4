"""The multilayer perceptron of the regression experiments: ReLU layers and a linear head, no normalisation."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.backbone import Backbone, Weights
from raymeta.norm import NormPass
from raymeta.schema import Section


class MLPConfig(Section):
    """`model: {name: mlp, ...}`."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field((40, 40), min_length=1, description="Units of each hidden layer.")
    init: Literal["xavier", "truncated_normal"] = Field(
        "xavier", description="Weights, uniform; truncated_normal: standard deviation 0.01 (MAML). Biases are 0."
    )


class MLP(Backbone):
    """Inputs [n, D]."""

    Config = MLPConfig
    batches_tasks_on_cpu: ClassVar[bool] = True

    def __init__(self, config: MLPConfig, input_shape: tuple[int, ...], outputs: int, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 1:
            raise UserError(f"model.name: mlp takes vectors, not inputs of shape {input_shape}; allowed: conv4")
        (width,) = input_shape
        self.layers = [f"layer{i + 1}" for i in range(len(config.hidden))] + ["head"]
        for layer, units in zip(self.layers, [*config.hidden, outputs], strict=True):
            linear = nn.Linear(width, units)
            if config.init == "xavier":
                nn.init.xavier_uniform_(linear.weight)
            else:
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(linear.bias)
            self.add_module(layer, linear)
            width = units

    def forward(self, prepared: Tensor, weights: Weights, norm: NormPass) -> Tensor:
        h = prepared
        for layer in self.layers:
            h = F.linear(h, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
            h = h if layer == "head" else F.relu(h)
        return h

    def groups(self) -> dict[str, tuple[str, ...]]:
        return {layer: (f"{layer}.weight", f"{layer}.bias") for layer in self.layers}
