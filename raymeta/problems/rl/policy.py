"""The Gaussian policy: a multilayer perceptron for the means, and free log-deviations, which are adapted like all else.

Duan, Chen, Houthooft, Schulman, Abbeel: Benchmarking Deep Reinforcement Learning for Continuous Control (ICML 2016).
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, linear
from raymeta.models.passes import Pass, Weights
from raymeta.registry import backbone
from raymeta.schema import Section

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu}
DEVIATION = "head.log_deviation"


class PolicyInit(HeadInit):
    """`model.init` of a policy; pytorch-maml-rl's."""

    hidden: WeightLaw = "xavier"
    hidden_bias: BiasLaw = "zeros"


class PolicyConfig(Section):
    """`model: {name: policy, ...}`."""

    name: Literal["policy"] = "policy"
    hidden: tuple[int, ...] = Field(
        (64, 64), min_length=1, description="Units of each hidden layer; MAML's experiments: 100, 100."
    )
    activation: Literal["tanh", "relu"] = Field("tanh", description="MAML's experiments: relu.")
    log_deviation: float = Field(0.0, ge=-10, le=2, description="Where the log-deviation of every action starts.")
    init: PolicyInit = PolicyInit()


@backbone("policy")
class Policy(Backbone):
    """Observations [..., D] to means and log-deviations [..., 2 A]."""

    Config = PolicyConfig
    offers: ClassVar[frozenset[str]] = frozenset({"policy"})
    batches_tasks_on_cpu: ClassVar[bool] = False

    def __init__(self, config: PolicyConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 1 or outputs is None:
            raise refuse_shape("policy", "observations", input_shape, "conv4, resnet10, resnet18, resnet12")
        self._activation = ACTIVATIONS[config.activation]
        self._layers = tuple(f"layer{i + 1}" for i in range(len(config.hidden)))
        for layer, inputs, units in zip(self._layers, (*input_shape, *config.hidden), config.hidden, strict=False):
            self.add_module(layer, linear(inputs, units, config.init.hidden, config.init.hidden_bias))
        self.feature_size = config.hidden[-1]
        self.add_head(outputs, config.init.head, config.init.head_bias)
        assert self.head is not None
        self.head.register_parameter("log_deviation", nn.Parameter(torch.full((outputs,), config.log_deviation)))

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        h = prepared
        for layer in self._layers:
            h = self._activation(F.linear(h, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
            for change in now.on_block:
                h = change(h, layer, now)
        return h

    def features(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        return self.maps(prepared, weights, now)

    def classify(self, features: Tensor, weights: Weights, first: int | None = None) -> Tensor:
        mean = F.linear(features, weights["head.weight"], weights["head.bias"])
        return torch.cat([mean, weights[DEVIATION].expand_as(mean)], -1)

    def blocks(self) -> tuple[str, ...]:
        return self._layers
