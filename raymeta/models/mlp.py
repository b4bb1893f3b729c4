"""The multilayer perceptron of the regressions: ReLU layers and a linear head, no normalisation."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, linear
from raymeta.models.passes import Pass, Weights
from raymeta.registry import backbone
from raymeta.schema import Section


class MLPInit(HeadInit):
    """`model.init` of an MLP. MAML's regression: truncated_normal(0.01) weights."""

    hidden: WeightLaw = "xavier"
    hidden_bias: BiasLaw = "zeros"


class MLPConfig(Section):
    """`model: {name: mlp, ...}`."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field((40, 40), min_length=1, description="Units of each hidden layer.")
    init: MLPInit = MLPInit()


@backbone("mlp")
class MLP(Backbone):
    """Inputs [n, D]."""

    Config = MLPConfig
    batches_tasks_on_cpu: ClassVar[bool] = True

    def __init__(self, config: MLPConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 1:
            raise refuse_shape("mlp", "vectors", input_shape, "conv4, resnet10, resnet18, resnet12")
        self._layers = tuple(f"layer{i + 1}" for i in range(len(config.hidden)))
        for layer, inputs, units in zip(self._layers, (*input_shape, *config.hidden), config.hidden, strict=False):
            self.add_module(layer, linear(inputs, units, config.init.hidden, config.init.hidden_bias))
        self.feature_size = config.hidden[-1]
        self.add_head(outputs, config.init.head, config.init.head_bias)

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        h = prepared
        for layer in self._layers:
            h = F.relu(F.linear(h, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
            for change in now.on_block:
                h = change(h, layer, now)
        return h

    def blocks(self) -> tuple[str, ...]:
        return self._layers
