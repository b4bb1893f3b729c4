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
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.norm import BatchNorm, NormMode
from raymeta.models.passes import Pass, Weights
from raymeta.registry import backbone
from raymeta.schema import Section

BLOCKS = 4


class Conv4Config(Section):
    """`model: {name: conv4, ...}`."""

    name: Literal["conv4"] = "conv4"
    width: int = Field(64, ge=1, description="Filters of each block.")
    norm: NormMode = Field("batch", description="Whose statistics normalise a pass; see raymeta/models/norm.py.")
    norm_eps: float = Field(1e-5, gt=0)
    activation: Literal["relu", "leaky_relu"] = "relu"
    conv_bias: bool = True
    pools: int = Field(4, ge=1, le=4, description="Blocks that pool, from the first on; CloserLook's RelationNet: 2.")
    init: Literal["xavier", "fan_out"] = Field(
        "xavier", description="xavier: uniform (MAML++); fan_out: N(0, 2/(9*width)) convolutions (CloserLookFewShot)."
    )


class Patches(NamedTuple):
    """What passes over the same images share.

    Attributes:
        rows: [n, H*W, 9*C + 1]: the 3x3 neighbourhood of every place, then a 1 that carries shifts.
        mean: [9*C], over all pixels of all images.
        covariance: [9*C, 9*C], likewise.
        size: (H, W), of the convolution's output.
    """

    rows: Tensor
    mean: Tensor
    covariance: Tensor
    size: tuple[int, int]


class Block(nn.Module):
    """The parameters of one block, and the block as a function of its input and of the weights it is given.

    This is the unit that a fused kernel may replace: it sees all of convolution, norm, activation and pooling.
    """

    def __init__(self, channels: int, config: Conv4Config, steps: int, pool: bool = True, padding: int = 1) -> None:
        super().__init__()
        self.padding = padding
        self.slope = 0.01 if config.activation == "leaky_relu" else 0.0
        self.pool = pool
        self.weight = nn.Parameter(torch.empty(config.width, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(config.width)) if config.conv_bias else None
        self.norm = BatchNorm(config.width, config.norm, steps, config.norm_eps)
        if config.init == "xavier":
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.normal_(self.weight, std=sqrt(2 / (9 * config.width)))

    def forward(self, x: Any, weights: Weights, now: Pass, layer: str) -> Tensor:
        """[n, C, H, W] (the first block: `Patches`) to [n, width, H//2, W//2] (H, W without pooling).

        Channels last in memory. Without padding H and W are first less by 2.
        """
        h = self.normalised(x, weights, now, layer)
        if self.pool:
            h = F.max_pool2d(h, 2)  # before the activation, which is monotonic: the same values, a quarter of the work
        for change in now.on_normalised:
            h = change(h, layer, now)
        h = F.leaky_relu(h, self.slope) if self.slope else F.relu(h)
        for change in now.on_block:
            h = change(h, layer, now)
        return h

    def normalised(self, x: Any, weights: Weights, now: Pass, layer: str) -> Tensor:
        """Convolution and norm, [n, width, H, W]."""
        h = self.convolve(x, weights[f"{layer}.weight"], weights.get(f"{layer}.bias"))
        for change in now.on_convolution:
            h = change(h, lambda weight, bias: self.convolve(x, weight, bias), layer, now)
        return self.norm(h, *self._norm_weights(weights, layer), now, layer)  # type: ignore[no-any-return]

    def convolve(self, x: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The block's input convolved with a weight [width, C, 3, 3]: [n, width, H, W]."""
        return F.conv2d(x, weight, bias, padding=self.padding)

    @staticmethod
    def _norm_weights(weights: Weights, layer: str) -> tuple[Tensor, Tensor]:
        return weights[f"{layer}.norm.weight"], weights[f"{layer}.norm.bias"]


class FirstBlock(Block):
    """The block that sees the images, whose activations are the largest: one matrix product with the patches.

    A linear map of the patches has mean w.m and variance w.C.w, for their mean m and covariance C, so the norm needs no
    pass over the activations: it is folded into the matrix. And the product, [n, H*W, width], is channels-last memory,
    which all later operations keep; from an image with one channel torch would take the layout in which pooling is ten
    times slower.
    """

    def prepare(self, x: Tensor) -> Patches:
        """The patches of images [n, C, H, W]."""
        rows = F.pad(F.unfold(x, kernel_size=3, padding=self.padding).transpose(-1, -2), (0, 1), value=1.0)
        flat = rows.flatten(0, 1)
        mean = flat.mean(0)
        # Centred before the product, or what is left after it is rounding; and in float64, since in float32 some
        # processors' sums of so many products keep four digits.
        centred = (flat - mean).double()
        covariance = (centred.t() @ centred / len(flat)).to(x.dtype)
        less = 2 - 2 * self.padding
        return Patches(rows, mean[:-1], covariance[:-1, :-1], (x.shape[-2] - less, x.shape[-1] - less))

    def normalised(self, x: Patches, weights: Weights, now: Pass, layer: str) -> Tensor:
        if self.norm.mode == "running" or now.on_convolution:
            return super().normalised(x, weights, now, layer)
        weight, bias = self._matrix(weights[f"{layer}.weight"], weights.get(f"{layer}.bias"))

        def moments() -> tuple[Tensor, Tensor]:
            return weight @ x.mean + bias, ((weight @ x.covariance) * weight).sum(1)

        scale, shift = self.norm.affine(moments, *self._norm_weights(weights, layer), now, layer)
        folded = torch.cat([(scale[:, None] * weight).t(), (scale * bias + shift)[None]])
        return self._image(x.rows @ folded, x.size)

    def convolve(self, x: Patches, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight, bias = self._matrix(weight, bias)
        return self._image(x.rows @ torch.cat([weight, bias[:, None]], 1).t(), x.size)

    @staticmethod
    def _matrix(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """[width, C, 3, 3] as [width, 9*C], and a bias for each row."""
        weight = weight.flatten(1)
        return weight, weight.new_zeros(len(weight)) if bias is None else bias

    @staticmethod
    def _image(h: Tensor, size: tuple[int, int]) -> Tensor:
        return h.reshape(*h.shape[:-2], *size, h.shape[-1]).movedim(-1, -3)


@backbone("conv4")
class Conv4(Backbone):
    """See the module's docstring; inputs [n, C, H, W] with H, W >= 16.

    Args:
        unpadded: so many blocks, from the first on, have convolutions without padding (RelationNet's).
    """

    Config = Conv4Config
    offers: ClassVar[frozenset[str]] = frozenset({"convolutions"})
    batches_tasks_on_cpu: ClassVar[bool] = False  # vmap turns into grouped convolutions, which are slow on a CPU
    block1: FirstBlock

    def __init__(
        self,
        config: Conv4Config,
        input_shape: tuple[int, ...],
        outputs: int | None,
        steps: int,
        *,
        unpadded: int = 0,
    ) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 3:
            raise refuse_shape("conv4", "images", input_shape, "mlp")
        channels, *size = input_shape
        self.norm_mode = config.norm
        for i in range(BLOCKS):
            kind, pool, padding = FirstBlock if i == 0 else Block, i < config.pools, int(i >= unpadded)
            self.add_module(f"block{i + 1}", kind(channels, config, steps, pool=pool, padding=padding))
            size = [(side - 2 + 2 * padding) >> pool for side in size]
            channels = config.width
        self.map_shape = (channels, *size)
        self.feature_size = prod(self.map_shape)
        self.film_channels = (config.width,) * BLOCKS
        self.add_head(outputs)

    def prepare(self, x: Tensor) -> Patches:
        return self.block1.prepare(x)

    def run(self, prepared: Patches, weights: Weights, now: Pass) -> Tensor:
        h: Any = prepared
        for layer in self.blocks():
            h = getattr(self, layer)(h, weights, now, layer)
        return h  # type: ignore[no-any-return]

    def blocks(self) -> tuple[str, ...]:
        return tuple(f"block{i + 1}" for i in range(BLOCKS))
