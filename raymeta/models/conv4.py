"""Conv-4: four blocks of 3x3 convolution, batch norm, activation and 2x2 max-pooling, then a linear head.

One class for the variants of the papers; `width`, `activation`, `conv_bias`, `init` and `norm_eps` tell them apart:

| variant | width | activation | conv_bias | init | used by |
| --- | --- | --- | --- | --- | --- |
| B1 | 32 | relu | true | xavier | MAML, Meta-Dropout, CAVIA |
| B2 | 48 | leaky_relu | true | xavier | MAML++, ALFA, L2F |
| B3 | 48 | leaky_relu | false | xavier | CxGrad |
| B4 | 64 | relu | true | fan_out | CloserLookFewShot, DropGrad, MGAug |
"""

from math import prod, sqrt
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.backbone import Backbone, Weights
from raymeta.norm import BatchNorm, NormMode, NormPass
from raymeta.schema import Section

BLOCKS = 4


class Conv4Config(Section):
    """`model: {name: conv4, ...}`."""

    name: Literal["conv4"] = "conv4"
    width: int = Field(64, ge=1, description="Filters of each block.")
    norm: NormMode = Field("batch", description="Whose statistics normalise a pass; see raymeta/norm.py.")
    norm_eps: float = Field(1e-5, gt=0)
    activation: Literal["relu", "leaky_relu"] = "relu"
    conv_bias: bool = True
    init: Literal["xavier", "fan_out"] = Field(
        "xavier", description="xavier: uniform (MAML++); fan_out: N(0, 2/(9*width)) convolutions (CloserLookFewShot)."
    )


class Block(nn.Module):
    """The parameters of one block, and the block as a function of its input and of the weights it is given.

    This is the unit that a fused kernel may replace: it sees all of convolution, norm, activation and pooling.
    """

    def __init__(self, channels: int, config: Conv4Config, steps: int, patches: bool) -> None:
        super().__init__()
        self.patches = patches
        self.slope = 0.01 if config.activation == "leaky_relu" else 0.0
        self.weight = nn.Parameter(torch.empty(config.width, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(config.width)) if config.conv_bias else None
        self.norm = BatchNorm(config.width, config.norm, steps, config.norm_eps)
        if config.init == "xavier":
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.normal_(self.weight, std=sqrt(2 / (9 * config.width)))

    def forward(self, x: Tensor, weights: Weights, norm: NormPass, layer: str, size: tuple[int, int]) -> Tensor:
        """[n, C, H, W] (the first block: patches [n, H*W, 9*C]) to [n, width, H//2, W//2], channels last in memory."""
        weight, bias = weights[f"{layer}.weight"], weights.get(f"{layer}.bias")
        if self.patches:
            # [n, H*W, width] is channels-last memory, which all later operations keep; an image with one channel has
            # no such layout, and torch would fall back to the one in which pooling is ten times slower.
            h = F.linear(x, weight.flatten(1), bias)
            h = h.reshape(*h.shape[:-2], *size, h.shape[-1]).movedim(-1, -3)
        else:
            h = F.conv2d(x, weight, bias, padding=1)
        h = self.norm(h, weights[f"{layer}.norm.weight"], weights[f"{layer}.norm.bias"], norm, layer)
        h = F.max_pool2d(h, 2)  # before the activation, which is monotonic: the same values, a quarter of the work
        return F.leaky_relu(h, self.slope) if self.slope else F.relu(h)


class Conv4(Backbone):
    """See the module's docstring; inputs [n, C, H, W] with H, W >= 16."""

    Config = Conv4Config
    batches_tasks_on_cpu: ClassVar[bool] = False  # vmap turns into grouped convolutions, which are slow on a CPU

    def __init__(self, config: Conv4Config, input_shape: tuple[int, ...], outputs: int, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 3:
            raise UserError(f"model.name: conv4 takes images, not inputs of shape {input_shape}; allowed: mlp")
        channels, height, width = input_shape
        self.size = (height, width)
        self.norm_mode = config.norm
        for i in range(BLOCKS):
            block = Block(config.width if i else channels, config, steps, patches=i == 0)
            self.add_module(f"block{i + 1}", block)
        self.head = nn.Linear(config.width * prod(side >> BLOCKS for side in self.size), outputs)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def prepare(self, x: Tensor) -> Tensor:
        """The 3x3 neighbourhoods of every pixel: [n, C, H, W] to [n, H*W, 9*C]."""
        return F.unfold(x, kernel_size=3, padding=1).transpose(-1, -2).contiguous()

    def forward(self, prepared: Tensor, weights: Weights, norm: NormPass) -> Tensor:
        h, (height, width) = prepared, self.size
        for i in range(BLOCKS):
            layer = f"block{i + 1}"
            h = getattr(self, layer)(h, weights, norm, layer, (height >> i, width >> i))
        return F.linear(h.flatten(1), weights["head.weight"], weights["head.bias"])

    def groups(self) -> dict[str, tuple[str, ...]]:
        names = list(self.weights())
        layers = [*(f"block{i + 1}" for i in range(BLOCKS)), "head"]
        return {layer: tuple(name for name in names if name.startswith(f"{layer}.")) for layer in layers}
