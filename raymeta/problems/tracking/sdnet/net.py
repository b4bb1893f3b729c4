"""SDNet: convolutions, then connected layers that a tracker goes on learning while the convolutions stay.

MetaSDNet's network (Park and Berg, ECCV 2018) is `size: vgg-m`, on crops of 107 pixels, with VGG-M's weights from a
file:

    conv 7x7 stride 2, 96 - ReLU - LRN - max 3x3 stride 2;  conv 5x5 stride 2, 256 - ReLU - LRN - max 3x3 stride 2
    conv 3x3, 512 - ReLU;  4608 -> 512 -> 512 -> 2, ReLU between

`size: small` is a laptop's, from scratch: 3x3 convolutions of 16, 32 and 64, each with ReLU and max 2x2, then 64 and 64
units. LRN is x / (2 + 1e-4 times the sum of five squares)^.75, over neighbouring channels. There is no batch norm.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, fill, linear
from raymeta.models.passes import Pass, Weights
from raymeta.problems.tracking.frames import GREY
from raymeta.problems.tracking.vgg import convolutions
from raymeta.registry import backbone
from raymeta.schema import Section


class Layer(NamedTuple):
    """A convolution: filters, kernel, stride, padding, the pooling's window and stride (0: none), LRN before it."""

    filters: int
    kernel: int
    stride: int
    padding: int
    window: int
    pool: int
    normalised: bool


SIZES: dict[str, tuple[tuple[Layer, ...], int]] = {
    "vgg-m": (
        (Layer(96, 7, 2, 0, 3, 2, True), Layer(256, 5, 2, 0, 3, 2, True), Layer(512, 3, 1, 0, 0, 0, False)),
        512,
    ),
    "small": (tuple(Layer(filters, 3, 1, 1, 2, 2, False) for filters in (16, 32, 64)), 64),
}
CONVOLUTIONS, CONNECTED = ("conv1", "conv2", "conv3"), ("fc4", "fc5")


class SDNetInit(HeadInit):
    """`model.init` of an SDNet."""

    conv: WeightLaw = "kaiming_uniform"
    conv_bias: BiasLaw = "zeros"
    hidden: WeightLaw = "kaiming_uniform"
    hidden_bias: BiasLaw = "zeros"


class SDNetConfig(Section):
    """`model: {name: sdnet, ...}`."""

    name: Literal["sdnet"] = "sdnet"
    size: Literal["small", "vgg-m"] = Field("small", description="vgg-m: MetaSDNet's, whose weights `weights` names.")
    weights: str | None = Field(
        None, description="Of vgg-m: path of imagenet-vgg-m.mat (MatConvNet's), or of a state dict of torch's."
    )
    init: SDNetInit = SDNetInit()


@backbone("sdnet")
class SDNet(Backbone):
    """Crops [n, 3, side, side] to the logits of background and target [n, 2]."""

    Config = SDNetConfig
    batches_tasks_on_cpu: ClassVar[bool] = False

    def __init__(self, config: SDNetConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 3:
            raise refuse_shape("sdnet", "images", input_shape, "mlp")
        if (config.size == "vgg-m") != (config.weights is not None):
            need = "starts from those of VGG-M: name imagenet-vgg-m.mat (MatConvNet's) or a state dict of torch's"
            raise UserError(
                f"model.weights: found {config.weights or 'none'}, but sdnet of size {config.size} "
                + (need if config.size == "vgg-m" else "is trained from scratch: leave it out")
            )
        self._layers, units = SIZES[config.size]
        self._scale = GREY if config.size == "vgg-m" else 1.0  # VGG-M's pixels are not divided
        channels, side = input_shape[0], input_shape[1]
        for name, layer in zip(CONVOLUTIONS, self._layers, strict=True):
            convolution = nn.Conv2d(channels, layer.filters, layer.kernel)
            fill(convolution.weight, config.init.conv)
            assert convolution.bias is not None
            fill(convolution.bias, config.init.conv_bias, convolution.weight)
            self.add_module(name, convolution)
            channels, side = layer.filters, (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
            side = (side - layer.window) // layer.pool + 1 if layer.pool else side
        if side < 1:
            raise UserError(
                f"task.side: found {input_shape[1]}, but crops of it shrink to nothing in sdnet {config.size}"
            )
        self.convolved_size = channels * side * side
        for name, inputs in zip(CONNECTED, (self.convolved_size, units), strict=True):
            self.add_module(name, linear(inputs, units, config.init.hidden, config.init.hidden_bias))
        self.feature_size = units
        self.add_head(outputs, config.init.head, config.init.head_bias)
        if config.weights is not None:
            self._load(Path(config.weights))

    def prepare(self, x: Tensor) -> Tensor:
        return x * self._scale

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        return self.connected(self.convolved(prepared, weights, now), weights, now)

    def convolved(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        """What the convolutions make of prepared inputs, [n, `convolved_size`]."""
        h = prepared
        for name, layer in zip(CONVOLUTIONS, self._layers, strict=True):
            h = F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], layer.stride, layer.padding)
            h = F.relu(h)
            h = normalised(h) if layer.normalised else h
            h = F.max_pool2d(h, layer.window, layer.pool) if layer.pool else h
            for change in now.on_block:
                h = change(h, name, now)
        return h.flatten(1)

    def connected(self, h: Tensor, weights: Weights, now: Pass) -> Tensor:
        """What the connected layers make of that, [n, F]."""
        for name in CONNECTED:
            h = F.relu(F.linear(h, weights[f"{name}.weight"], weights[f"{name}.bias"]))
            for change in now.on_block:
                h = change(h, name, now)
        return h

    def blocks(self) -> tuple[str, ...]:
        return (*CONVOLUTIONS, *CONNECTED)

    def _load(self, path: Path) -> None:
        for name, (weight, bias) in zip(CONVOLUTIONS, convolutions(path, len(CONVOLUTIONS), "VGG-M"), strict=True):
            own: Any = getattr(self, name)
            if weight.shape != own.weight.shape or bias.shape != own.bias.shape:
                raise UserError(f"{path}: its {name} is {list(weight.shape)}, and VGG-M's is {list(own.weight.shape)}")
            with torch.no_grad():
                own.weight.copy_(weight)
                own.bias.copy_(bias)


def normalised(h: Tensor) -> Tensor:
    """Local response normalisation over five neighbouring channels, [n, C, H, W]."""
    squares = F.pad(h.square(), (0, 0, 0, 0, 2, 2))
    channels = h.shape[1]
    total = sum(squares[:, first : first + channels] for first in range(5))
    return h / (2 + 1e-4 * total) ** 0.75
