"""CREST: features of a window, fewer channels by a 1x1 convolution, and one correlation filter of the target's size.

    map = filter * (reduce(features(window) x Hann window)),  * with zeros around

MetaCREST's network (Park and Berg, ECCV 2018, after Song et al., ICCV 2017) is `size: vgg-16`, on windows of 380
pixels: VGG-16 up to conv4_3 with two poolings (cells of 4 pixels, 512 channels) with weights from a file, frozen; 64
channels; a filter that is kept as 19 x 13 and resized to the target, as are rates of its weights. `size: small` is a
laptop's: two 3x3 convolutions of 16 and 32 with a pooling between (cells of 2 pixels), meta-learned from scratch. No
inner loop moves the features of either.

The filter of a task stands in the middle of a canvas as large as the largest target's, so that all tasks have one
shape; what is beside it is 0 and stays so. Outputs are the map, flat, and the size that the filter was made for.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, fill
from raymeta.models.passes import Pass, Weights
from raymeta.problems.tracking.crest.maps import extent, inside, largest, resizing
from raymeta.problems.tracking.frames import GREY
from raymeta.problems.tracking.vgg import convolutions
from raymeta.registry import backbone
from raymeta.schema import Section


class Size(NamedTuple):
    """Convolutions by name, 3x3 with ReLU, to their filters; after which is pooled; pixels of a cell."""

    filters: dict[str, int]
    pooled: tuple[str, ...]
    cell: int


VGG = {f"conv{stage}_{place}": 64 * 2 ** (stage - 1) for stage in (1, 2, 3, 4) for place in range(1, 3 + (stage > 2))}
SIZES = {
    "small": Size({"conv1": 16, "conv2": 32}, ("conv1",), 2),
    "vgg-16": Size(VGG, ("conv1_2", "conv2_2"), 4),
}
MEAN = (123.68, 116.779, 103.939)  # of VGG-16's inputs
SIZE = "head.size"  # of a task's weights: shares of the window that the target has, (w, h)


class CrestInit(HeadInit):
    """`model.init` of a CREST."""

    conv: WeightLaw = "kaiming_uniform"
    conv_bias: BiasLaw = "zeros"
    reduce: WeightLaw = "kaiming_uniform(1.0)"
    reduce_bias: BiasLaw = "zeros"
    head: WeightLaw = "kaiming_uniform(0.1)"


class CrestConfig(Section):
    """`model: {name: crest, ...}`."""

    name: Literal["crest"] = "crest"
    size: Literal["small", "vgg-16"] = Field("small", description="vgg-16: MetaCREST's, whose weights `weights` names.")
    weights: str | None = Field(
        None,
        description="Of vgg-16: path of imagenet-vgg-verydeep-16.mat (MatConvNet's), or of a state dict of torch's.",
    )
    channels: int = Field(16, ge=1, description="That the filter sees; MetaCREST: 64.")
    rows: int = Field(11, ge=3, description="Of the filter as it is kept; MetaCREST: 19.")
    columns: int = Field(9, ge=3, description="MetaCREST: 13.")
    init: CrestInit = CrestInit()


@backbone("crest")
class Crest(Backbone):
    """Windows [n, 3, side, side] to maps and sizes, [n, G G + 2]."""

    Config = CrestConfig
    offers: ClassVar[frozenset[str]] = frozenset({"filter"})
    needs: ClassVar[frozenset[str]] = frozenset({"windows"})
    batches_tasks_on_cpu: ClassVar[bool] = False

    def __init__(self, config: CrestConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 3:
            raise refuse_shape("crest", "images", input_shape, "mlp")
        self._size = SIZES[config.size]
        self._frozen = config.size == "vgg-16"
        if self._frozen != (config.weights is not None):
            files = "imagenet-vgg-verydeep-16.mat (MatConvNet's) or a state dict of torch's"
            raise UserError(
                f"model.weights: found {config.weights or 'none'}, but crest of size {config.size} "
                + (
                    f"starts from those of VGG-16: name {files}"
                    if self._frozen
                    else "is trained from scratch: leave it out"
                )
            )
        channels, side, cell = input_shape[0], input_shape[1], self._size.cell
        self.grid = side // cell
        if side % cell or self.grid % 2 == 0:
            near = [cell * (self.grid - (self.grid + 1) % 2 + more) for more in (0, 2)]
            raise UserError(
                f"task.side: found {side}, but crest of size {config.size} needs an odd number of cells of {cell} "
                f"pixels; allowed: {near[0]}, {near[1]}, …"
            )
        for name, filters in self._size.filters.items():
            self.add_module(name, _drawn(channels, filters, (3, 3), config.init.conv, config.init.conv_bias))
            channels = filters
        reduce, own = config.channels, (config.rows, config.columns)
        self.reduce = _drawn(channels, reduce, (1, 1), config.init.reduce, config.init.reduce_bias)
        self.add_module("head", _drawn(reduce, 1, own, config.init.head, config.init.head_bias))
        self.map_shape = (reduce, self.grid, self.grid)
        self.feature_size = reduce * self.grid**2
        if config.weights is not None:
            self._load(Path(config.weights))

    def prepare(self, x: Tensor) -> Tensor:
        """Windows as they are; features of them where these are frozen."""
        if not self._frozen:
            return x
        mean = torch.tensor(MEAN, dtype=x.dtype, device=x.device)[:, None, None]
        return self._features(GREY + GREY * x - mean, self.weights(), None)

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        h = prepared if self._frozen else self._features(prepared, weights, now)
        hann = torch.hann_window(self.grid, periodic=False, dtype=h.dtype, device=h.device)
        h = F.conv2d(h * torch.outer(hann, hann), weights["reduce.weight"], weights["reduce.bias"])
        for change in now.on_block:
            h = change(h, "reduce", now)
        return h

    def classify(self, features: Tensor, weights: Weights, first: int | None = None) -> Tensor:
        """The map by the filter, and the size that this was made for; of weights that are fitted to no task 0."""
        kernel, size = weights["head.weight"], weights.get(SIZE)
        if size is None:
            size = torch.zeros(2, dtype=features.dtype, device=features.device)
        else:
            kernel = kernel * self._inside(size)
        around = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
        found = F.conv2d(features.reshape(-1, *self.map_shape), kernel, weights["head.bias"], padding=around)
        found = found[..., : self.grid, : self.grid]  # of a filter of even sides one more comes out
        return torch.cat([found.flatten(1), size.expand(len(found), 2)], 1)

    def fitted(self, values: Weights, y: Tensor) -> Weights:
        """With the filter, or what stands in its place, resized to the target of a support set's y [n, 4]."""
        size = y[0, 2:].to(next(iter(values.values())).dtype)
        if (own := values.get("head.weight")) is None:
            return {**values, SIZE: size}
        columns, rows = (
            resizing(extent(share, self.grid), largest(self.grid), own.shape[axis])
            for share, axis in zip(size.unbind(), (-1, -2), strict=True)
        )
        return {**values, "head.weight": rows @ own @ columns.T, SIZE: size}

    def blocks(self) -> tuple[str, ...]:
        return (*(() if self._frozen else self._size.filters), "reduce")

    def fixed_names(self) -> frozenset[str]:
        return frozenset(name for name in self.weights() if name.partition(".")[0] in self._size.filters)

    def _inside(self, size: Tensor) -> Tensor:
        """1 where a task's filter is on the canvas."""
        columns, rows = (inside(extent(share, self.grid), largest(self.grid)) for share in size.unbind())
        return torch.outer(rows, columns)

    def _features(self, h: Tensor, weights: Weights, now: Pass | None) -> Tensor:
        for name in self._size.filters:
            h = F.relu(F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))
            if name in self._size.pooled:
                h = F.max_pool2d(h, 2)
            for change in now.on_block if now is not None else ():
                h = change(h, name, now)
        return h

    def _load(self, path: Path) -> None:
        for name, (weight, bias) in zip(
            self._size.filters, convolutions(path, len(self._size.filters), "VGG-16"), strict=True
        ):
            own: Any = getattr(self, name)
            if weight.shape != own.weight.shape or bias.shape != own.bias.shape:
                raise UserError(f"{path}: its {name} is {list(weight.shape)}, and VGG-16's is {list(own.weight.shape)}")
            with torch.no_grad():
                own.weight.copy_(weight)
                own.bias.copy_(bias)
            own.requires_grad_(False)


def _drawn(inputs: int, outputs: int, kernel: tuple[int, int], weight: str, bias: str) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, kernel)
    fill(made.weight, weight)
    assert made.bias is not None
    fill(made.bias, bias, made.weight)
    return made
