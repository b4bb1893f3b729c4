"""Conv-4: four blocks of 3x3 convolution, batch norm, activation and 2x2 max-pooling, then a linear head.

One class for the variants of the papers; `width`, `activation`, `conv_bias`, the norm's keys and how the image shrinks
tell them apart, and `init` what they start from (docs/initial-values.md):

| variant | width | activation | conv_bias | used by |
| --- | --- | --- | --- | --- |
| B1 | 32 | relu | true | MAML, Meta-Dropout, CAVIA, MetaMix |
| B2 | 48 | leaky_relu | true | MAML++, ALFA |
| B3 | 48 | leaky_relu | false | L2F, CxGrad |
| B4 | 64 | relu | true | CloserLookFewShot, DropGrad, MGAug, BOIL, ModGrad |

On Omniglot 64 filters, and MAML's convolutions have stride 2 in place of pooling (`stride: 2, pools: 0`), MetaMix's
neither (`pools: 0`); the head of both sees the mean over places (`spatial_mean`). A convolution of stride 2 is padded
as TensorFlow's `same` is: at the bottom and right only where a side is even. MAML's norm and Meta-Dropout's have no
scale and an eps of 1e-3 (`norm_scale: false, norm_eps: 0.001`).
"""

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.chunks import Affine, Chunked, chunked
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, fill
from raymeta.models.norm import BatchNorm, NormConfig, NormInit, moments
from raymeta.models.passes import Pass, Weights
from raymeta.ops.block import block
from raymeta.ops.convolution import Geometry, conv3x3, kernel_layout
from raymeta.ops.first import Images, first, folded
from raymeta.ops.library import takes
from raymeta.ops.tail import Tail, tail
from raymeta.registry import backbone

BLOCKS = 4


class Conv4Init(HeadInit, NormInit):
    """`model.init` of Conv-4; what a learner's authors do is its default."""

    conv: WeightLaw = "xavier"
    conv_bias: BiasLaw = "zeros"


class Conv4Config(NormConfig):
    """`model: {name: conv4, ...}`."""

    name: Literal["conv4"] = "conv4"
    width: int = Field(64, ge=1, description="Filters of each block.")
    activation: Literal["relu", "leaky_relu"] = "relu"
    conv_bias: bool = True
    stride: Literal[1, 2] = Field(1, description="Of every convolution; MAML on Omniglot: 2, with pools 0.")
    pools: int = Field(4, ge=0, le=4, description="Blocks that pool, from the first on; CloserLook's RelationNet: 2.")
    spatial_mean: bool = Field(False, description="The head sees means over places; MAML, MetaMix on Omniglot: true.")
    init: Conv4Init = Conv4Init()


class Patches(NamedTuple):
    """What passes over the same images share.

    Attributes:
        rows: [n, h*w, 9*C + 1]: the 3x3 neighbourhood of every place, then a 1 that carries shifts.
        mean: [9*C], over all places of all images.
        covariance: [9*C, 9*C], likewise.
        size: (h, w), of the convolution's output.
    """

    rows: Tensor
    mean: Tensor
    covariance: Tensor
    size: tuple[int, int]

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype


class Block(Chunked):
    """The parameters of one block, and the block as a function of its input and of the weights it is given.

    Attributes:
        native: it runs on raymeta's own kernels (`raymeta/ops`) where they can compute what a pass asks for.
        geometry: how they go over maps.
    """

    native = False

    def __init__(self, channels: int, config: Conv4Config, steps: int, pool: bool = True, padded: bool = True) -> None:
        super().__init__()
        self.stride, self.pool, self.geometry = config.stride, pool, Geometry(int(padded))
        self.slope = 0.01 if config.activation == "leaky_relu" else 0.0
        self.weight = nn.Parameter(fill(torch.empty(config.width, channels, 3, 3), config.init.conv))
        self.bias = nn.Parameter(torch.empty(config.width)) if config.conv_bias else None
        if self.bias is not None:
            fill(self.bias, config.init.conv_bias, self.weight)
        self.norm = BatchNorm(config.width, config, steps)

    def ends_in(self, side: int) -> int:
        """Places on a side of what `forward` makes of a side; 0: none."""
        side = max(-(-(side - 2 + 2 * self.geometry.padding) // self.stride), 0)
        return side // 2 if self.pool else side

    def use_native(self, tile: int = 2) -> None:
        """Run on raymeta's own kernels from now on, by tiles of that side (`engine.tiles`); the weight's memory is put
        in the order in which they read it.
        """
        self.native, self.geometry = True, self.geometry._replace(tile=tile)
        self.weight.data = kernel_layout(self.weight.data)

    def forward(self, x: Any, weights: Weights, now: Pass, layer: str) -> Tensor:
        """[n, C, H, W] (the first block: what `prepare` made) to [n, width, h, w], channels last in memory."""
        compute = self.fused if self.is_native(x, now) else self.composed
        h = (self.by_chunks if self.in_chunks(x, now) else compute)(x, weights, now, layer)
        if now.on_normalised:
            for change in now.on_normalised:
                h = change(h, layer, now)
            h = self.activate(h)
        for change in now.on_block:
            h = change(h, layer, now)
        return h

    def is_native(self, x: Any, now: Pass) -> bool:
        """Whether a pass uses raymeta's own kernels."""
        return self.native and not now.vectorized and takes(x)

    def is_whole(self, x: Any, now: Pass) -> bool:
        """Whether they have a single operation for all of the block."""
        by_maps = self.norm.mode in ("batch", "per_step")
        return by_maps and not now.on_convolution and isinstance(x, Tensor) and self.stride == 1

    def runs_on(self, x: Any, now: Pass) -> str:
        """Whose kernels compute which part of the block in a pass, in words."""
        if not self.is_native(x, now):
            return "torch"
        if self.in_chunks(x, now):
            return f"convolution, pooling and activation native, {self.chunk} images at a time"
        if self.is_whole(x, now):
            return "native, as one operation"
        convolution = "native" if isinstance(x, Tensor) and self.stride == 1 else "torch"
        norm = {"running": "torch", "support": "its moments on torch"}.get(self.norm.mode, "native")
        between = ", with hooks on the convolution" if now.on_convolution else ""
        return f"convolution {convolution}, norm {norm}, pooling and activation native{between}"

    def composed(self, x: Any, weights: Weights, now: Pass, layer: str) -> Tensor:
        """The block by torch's operations, up to the activation if something comes before it."""
        h = self.normalised(x, weights, now, layer)
        if self.pool:
            h = F.max_pool2d(h, 2)  # before the activation, which is monotonic: the same values, a quarter of the work
        return h if now.on_normalised else self.activate(h)

    def fused(self, x: Any, weights: Weights, now: Pass, layer: str) -> Tensor:
        """The same on raymeta's own kernels."""
        norm, given = self.norm, self._norm_weights(weights, layer)
        how = Tail(self.pool, 1.0 if now.on_normalised else self.slope, None)
        if norm.mode == "running":  # torch's, which keeps the averages
            h = self.normalised(x, weights, now, layer, native=True)
            return tail(h, torch.ones_like(given[1]), torch.zeros_like(given[1]), how)
        weight, bias, by_maps = weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), norm.mode != "support"
        if self.is_whole(x, now):
            return block(x, weight, *norm.of_step(*given, now), bias, self.geometry, how._replace(eps=norm.eps))
        h = self.convolved(x, weight, bias, now, layer, native=True)
        if by_maps:
            return tail(h, *norm.of_step(*given, now), how._replace(eps=norm.eps))
        return tail(h, *norm.affine(lambda: moments(h), *given, now, layer), how)

    def by_chunks(self, x: Tensor, weights: Weights, now: Pass, layer: str) -> Tensor:
        """The same on some images at a time."""
        weight, bias, native = weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), self.is_native(x, now)
        slope = 1.0 if now.on_normalised else self.slope

        def end(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            if native:
                return tail(h, scale, shift, Tail(self.pool, slope, None))
            h = h * scale[:, None, None] + shift[:, None, None]
            h = F.max_pool2d(h, 2) if self.pool else h
            return h if now.on_normalised else self.activate(h)

        def convolve(part: Tensor) -> Tensor:
            return Block.convolve(self, part, weight, bias, native)

        def scaled(own: Callable[[], Affine]) -> Affine:
            return self.norm.affine(own, *self._norm_weights(weights, layer), now, layer)

        assert self.chunk is not None
        return chunked(x, self.chunk, convolve, scaled, end)

    def activate(self, h: Tensor) -> Tensor:
        return F.leaky_relu(h, self.slope) if self.slope else F.relu(h)

    def normalised(self, x: Any, weights: Weights, now: Pass, layer: str, native: bool = False) -> Tensor:
        """Convolution and norm, [n, width, h, w]."""
        h = self.convolved(x, weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), now, layer, native)
        return self.norm(h, *self._norm_weights(weights, layer), now, layer)  # type: ignore[no-any-return]

    def convolved(
        self, x: Any, weight: Tensor, bias: Tensor | None, now: Pass, layer: str, native: bool = False
    ) -> Tensor:
        """`convolve`, then what hooks make of it."""
        h = self.convolve(x, weight, bias, native)
        for change in now.on_convolution:
            h = change(h, lambda weight, bias: self.convolve(x, weight, bias, native), layer, now)
        return h

    def convolve(self, x: Any, weight: Tensor, bias: Tensor | None, native: bool = False) -> Tensor:
        """The block's input convolved with a weight [width, C, 3, 3]: [n, width, h, w]."""
        if native and self.stride == 1:
            h = conv3x3(x, weight, self.geometry)
            return h if bias is None else h + bias[:, None, None]
        padding = 0 if self.stride != 1 else self.geometry.padding
        x = self.pad(x) if self.stride != 1 else x
        if not self.bf16:
            return F.conv2d(x, weight, bias, self.stride, padding)
        h = F.conv2d(*self.rounded(x, weight), None, self.stride, padding).to(x.dtype)
        return h if bias is None else h + bias[:, None, None]

    def pad(self, x: Tensor) -> Tensor:
        """Images with the zeros around them that TensorFlow's `same` has; as they are, if the block is unpadded."""
        if not self.geometry.padding:
            return x
        before = [int(self.stride == 1 or side % 2 == 1) for side in x.shape[-2:]]
        return F.pad(x, (before[1], 1, before[0], 1))

    @staticmethod
    def _norm_weights(weights: Weights, layer: str) -> tuple[Tensor | None, Tensor]:
        return weights.get(f"{layer}.norm.weight"), weights[f"{layer}.norm.bias"]


class FirstBlock(Block):
    """The block that sees the images, whose activations are the largest: one matrix product with the patches.

    A linear map of the patches has mean w.m and variance w.C.w, for their mean m and covariance C, so the norm needs no
    pass over the activations: it is folded into the matrix. And the product, [n, h*w, width], is channels-last memory,
    which all later operations keep; from an image with one channel torch would take the layout in which pooling is ten
    times slower.
    """

    def prepare(self, x: Tensor) -> Patches | Images | Tensor:
        """What passes over images [n, C, H, W] share; of images that are seen in chunks they themselves."""
        if self.native and self.stride == 1 and takes(x) and not x.requires_grad:
            return Images(x, self.geometry.padding)
        return x if self.chunk is not None and len(x) > self.chunk else self.patches(x)

    def patches(self, x: Tensor) -> Patches:
        """The patches of images [n, C, H, W]."""
        x = self.pad(x)
        rows = F.pad(F.unfold(x, kernel_size=3, stride=self.stride).transpose(-1, -2), (0, 1), value=1.0)
        flat = rows.flatten(0, 1)
        mean = flat.mean(0)
        # Centred before the product, or what is left after it is rounding; and in float64, since in float32 some
        # processors' sums of so many products keep four digits.
        centred = (flat - mean).double()
        covariance = (centred.t() @ centred / len(flat)).to(x.dtype)
        height, width = ((side - 3) // self.stride + 1 for side in x.shape[-2:])
        return Patches(rows, mean[:-1], covariance[:-1, :-1], (height, width))

    def is_whole(self, x: Patches | Images, now: Pass) -> bool:
        return isinstance(x, Images) and self.norm.mode != "running" and not now.on_convolution

    def fused(self, x: Patches | Images, weights: Weights, now: Pass, layer: str) -> Tensor:
        if isinstance(x, Patches) or not self.is_whole(x, now):
            return super().fused(x, weights, now, layer)
        matrix, bias = weights[f"{layer}.weight"].permute(2, 3, 1, 0).flatten(0, 2), weights.get(f"{layer}.bias")
        norm, given = self.norm, self._norm_weights(weights, layer)
        slope = 1.0 if now.on_normalised else self.slope
        if norm.mode != "support":
            return first(x, *folded(x, matrix, *norm.of_step(*given, now), bias, norm.eps), self.pool, slope)

        def moments() -> tuple[Tensor, Tensor]:
            mean, covariance = x.moments
            shift = mean @ matrix
            return shift if bias is None else shift + bias, ((covariance @ matrix) * matrix).sum(0)

        scale, shift = norm.affine(moments, *given, now, layer)
        shift = shift if bias is None else scale * bias + shift
        return first(x, matrix * scale, shift, self.pool, slope)

    def normalised(self, x: Patches | Images, weights: Weights, now: Pass, layer: str, native: bool = False) -> Tensor:
        if self.norm.mode == "running" or now.on_convolution:
            return super().normalised(x, weights, now, layer, native)
        patches = self._as_patches(x)
        weight, bias = self._matrix(weights[f"{layer}.weight"], weights.get(f"{layer}.bias"))

        def moments() -> tuple[Tensor, Tensor]:
            return weight @ patches.mean + bias, ((weight @ patches.covariance) * weight).sum(1)

        scale, shift = self.norm.affine(moments, *self._norm_weights(weights, layer), now, layer)
        folded = torch.cat([(scale[:, None] * weight).t(), (scale * bias + shift)[None]])
        return self._image(self._product(patches.rows, folded), patches.size)

    def convolve(self, x: Patches | Images, weight: Tensor, bias: Tensor | None, native: bool = False) -> Tensor:
        patches = self._as_patches(x)
        weight, bias = self._matrix(weight, bias)
        return self._image(self._product(patches.rows, torch.cat([weight, bias[:, None]], 1).t()), patches.size)

    def _product(self, rows: Tensor, matrix: Tensor) -> Tensor:
        if not self.bf16:
            return rows @ matrix
        (left, right), shift = self.rounded(rows[..., :-1], matrix[:-1]), matrix[-1]
        return (left @ right).to(rows.dtype) + shift

    def _as_patches(self, x: Patches | Images) -> Patches:
        return x if isinstance(x, Patches) else x.once(self.patches)

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
    """See the module's docstring; inputs [n, C, H, W] that do not shrink to nothing: H, W >= 16 by default.

    Args:
        unpadded: so many blocks, from the first on, have convolutions without padding (RelationNet's).
    """

    Config = Conv4Config
    offers: ClassVar[frozenset[str]] = frozenset({"convolutions"})
    batches_tasks_on_cpu: ClassVar[bool] = False  # vmap turns into grouped convolutions, which are slow on a CPU
    has_kernels: ClassVar[bool] = True
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
        self.norm_mode, self.spatial_mean = config.norm, config.spatial_mean
        for i in range(BLOCKS):
            kind, pool, padded = FirstBlock if i == 0 else Block, i < config.pools, i >= unpadded
            block = kind(channels, config, steps, pool=pool, padded=padded)
            self.add_module(f"block{i + 1}", block)
            size = [block.ends_in(side) for side in size]
            channels = config.width
            if not all(size):
                raise UserError(
                    f"model: images of {'x'.join(map(str, input_shape[1:]))} pixels shrink to nothing in block {i + 1} "
                    f"of conv4 with stride {config.stride} and pools {config.pools}; use larger images or fewer pools"
                )
        self.map_shape = (channels, *size)
        self.feature_size = channels if self.spatial_mean else prod(self.map_shape)
        self.film_channels = (config.width,) * BLOCKS
        self.add_head(outputs, config.init.head, config.init.head_bias)

    def prepare(self, x: Tensor) -> Patches | Images | Tensor:
        return self.block1.prepare(x)

    def run(self, prepared: Patches | Images | Tensor, weights: Weights, now: Pass) -> Tensor:
        h: Any = prepared
        for layer in self.blocks():
            h = getattr(self, layer)(h, weights, now, layer)
        return h  # type: ignore[no-any-return]

    def features(self, prepared: Patches | Images | Tensor, weights: Weights, now: Pass) -> Tensor:
        if not self.spatial_mean:
            return super().features(prepared, weights, now)
        return self.maps(prepared, weights, now).mean((-2, -1))

    def blocks(self) -> tuple[str, ...]:
        return tuple(f"block{i + 1}" for i in range(BLOCKS))
