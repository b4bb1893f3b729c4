"""Residual networks for few-shot learning: ResNet-10, ResNet-18 and two ResNet-12, with a linear head on the mean.

| name | variant | blocks | activation | halves the image in | used by |
| --- | --- | --- | --- | --- | --- |
| resnet10 | | stem, 4 of 1 basic block | relu | stem (twice), blocks 2-4 | CloserLookFewShot, MGAug |
| resnet18 | | stem, 4 of 2 basic blocks | relu | stem (twice), blocks 2-4 | CloserLookFewShot, DropGrad |
| resnet12 | a | 4 of 3 convolutions | relu | blocks 1-3 (block 3 pools with padding 1) | ALFA, L2F |
| resnet12 | b | 4 of 3 convolutions | leaky_relu, 0.1 | blocks 1-4 | BOIL, after MetaOptNet |

The head sees the mean of the last block's output over its places. No convolution has a bias. Initial values are those
of the code that the last column names (`model.init`). Variant a is ALFA's code; its paper pools in every block. In
resnet12 the last `plain_blocks` have no shortcut: BOIL's "disconnection trick", 0 to 4 for its `--blocks-type` a to e.
Whether shortcuts adapt in an inner loop is the learner's to say (`boil.adapt_shortcuts`).

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (CVPR 2016). Chen et al.: A Closer Look at Few-shot
Classification (ICLR 2019). Lee et al.: Meta-Learning with Differentiable Convex Optimization (CVPR 2019).
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.models.backbone import Backbone, refuse_shape
from raymeta.models.chunks import Affine, Chunked, chunked
from raymeta.models.init import BiasLaw, HeadInit, WeightLaw, fill
from raymeta.models.norm import BatchNorm, NormConfig, NormInit
from raymeta.models.passes import Pass, Weights
from raymeta.registry import backbone
from raymeta.schema import Section

Channels = Annotated[int, Field(ge=1)]
BLOCKS = ("block1", "block2", "block3", "block4")


class ResNetInit(HeadInit, NormInit):
    """`model.init` of ResNet-10 and ResNet-18: MAML's in CloserLookFewShot's and DropGrad's code."""

    conv: WeightLaw = "fan_out"
    head: WeightLaw = "torch"


class ResNet12Init(NormInit):
    """`model.init` of ResNet-12. What is null is the variant's: ALFA's, or BOIL's."""

    conv: WeightLaw | None = Field(None, description="null: a xavier, b fan_out.")
    head: WeightLaw | None = Field(None, description="null: a xavier, b torch.")
    head_bias: BiasLaw | None = Field(None, description="null: a zeros, b torch.")

    def of(self, variant: str) -> ResNetInit:
        """The laws, with those of a variant in place of null."""
        of_variant = {"a": ("xavier", "xavier", "zeros"), "b": ("fan_out", "torch", "torch")}[variant]
        laws = dict(zip(("conv", "head", "head_bias"), of_variant, strict=True))
        return ResNetInit(**laws | self.model_dump(exclude_none=True))


class ResNetConfig(NormConfig):
    """What all of them have."""

    name: str
    channels: tuple[Channels, Channels, Channels, Channels] = Field(
        (64, 128, 256, 512), description="Filters of blocks 1 to 4; the stem has as many as block 1."
    )


class ResNet10Config(ResNetConfig):
    """`model: {name: resnet10, ...}`."""

    name: Literal["resnet10"] = "resnet10"
    init: ResNetInit = ResNetInit()


class ResNet18Config(ResNetConfig):
    """`model: {name: resnet18, ...}`."""

    name: Literal["resnet18"] = "resnet18"
    init: ResNetInit = ResNetInit()


class ResNet12Config(ResNetConfig):
    """`model: {name: resnet12, ...}`."""

    name: Literal["resnet12"] = "resnet12"
    variant: Literal["a", "b"] = Field("a", description="a: ALFA, L2F; b: BOIL, MetaOptNet.")
    plain_blocks: int = Field(
        0, ge=0, le=4, description="So many blocks, the last, have no shortcut; BOIL's blocks-type b: 1."
    )
    init: ResNet12Init = ResNet12Init()


class ConvNorm(Chunked):
    """A convolution without bias that keeps the size, but for its stride; then its norm."""

    def __init__(self, inputs: int, outputs: int, size: int, config: ResNetConfig, steps: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, size // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size))
        self.norm = BatchNorm(outputs, config, steps)
        fill(self.weight, "fan_out")  # until `finish`

    def forward(self, x: Tensor, now: Pass, layer: str) -> Tensor:
        """[n, inputs, H, W] to [n, outputs, h, w]."""
        weight, given, name = self.weight, (self.norm.weight, self.norm.bias), f"{layer}.norm"

        def convolve(part: Tensor) -> Tensor:  # with the weight of now: `functional_call` takes it back
            return F.conv2d(*self.rounded(part, weight), None, self.stride, self.padding).to(part.dtype)

        if not self.in_chunks(x, now):
            return self.end(self.norm(convolve(x), *given, now, name))

        def scaled(own: Callable[[], Affine]) -> Affine:
            return self.norm.affine(own, *given, now, name)

        assert self.chunk is not None
        return chunked(
            x, self.chunk, convolve, scaled, lambda h, a, b: self.end(h * a[:, None, None] + b[:, None, None])
        )

    def end(self, h: Tensor) -> Tensor:
        """What follows the norm, image by image."""
        return h


class Stem(ConvNorm):
    """Convolution, norm, ReLU, 3x3 max-pooling with stride 2."""

    def end(self, h: Tensor) -> Tensor:
        h = F.max_pool2d(h, 3, stride=2, padding=1)
        return F.relu(h)  # after the pooling: it is monotonic, so the values are the same for less work


class Residual(nn.Module):
    """3x3 convolutions with norms, a shortcut beside them, the activation after their sum, then perhaps 2x2 pooling.

    The first convolution and the shortcut have the `stride`. The shortcut is a 1x1 convolution with a norm (`project`),
    or the input as it is, or none (`plain`). `slope` is the activation's below 0; `pool` is the pooling's padding, and
    None no pooling.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: ResNetConfig,
        steps: int,
        *,
        convolutions: int,
        stride: int = 1,
        project: bool = True,
        plain: bool = False,
        slope: float = 0.0,
        pool: int | None = None,
    ) -> None:
        super().__init__()
        self.slope, self.pool, self.plain = slope, pool, plain
        self._names = tuple(f"conv{i + 1}" for i in range(convolutions))
        self.conv1 = ConvNorm(inputs, outputs, 3, config, steps, stride=stride)
        for name in self._names[1:]:
            self.add_module(name, ConvNorm(outputs, outputs, 3, config, steps))
        self.shortcut = ConvNorm(inputs, outputs, 1, config, steps, stride=stride) if project and not plain else None

    def forward(self, x: Tensor, now: Pass, layer: str) -> Tensor:
        h = self.conv1(x, now, f"{layer}.conv1")
        for name in self._names[1:]:
            h = getattr(self, name)(self._activate(h), now, f"{layer}.{name}")
        if not self.plain:
            h = h + (x if self.shortcut is None else self.shortcut(x, now, f"{layer}.shortcut"))
        h = self._activate(h if self.pool is None else F.max_pool2d(h, 2, padding=self.pool))
        for change in now.on_block:
            h = change(h, layer, now)
        return h  # type: ignore[no-any-return]

    def _activate(self, h: Tensor) -> Tensor:
        return F.leaky_relu(h, self.slope) if self.slope else F.relu(h)


class Stage(nn.ModuleList):
    """Residual blocks, one after the other."""

    def forward(self, x: Tensor, now: Pass, layer: str) -> Tensor:
        for i, block in enumerate(self):
            x = block(x, now, f"{layer}.{i}")
        return x


class ResNet(Backbone):
    """What all of them do: run the blocks on given weights, and average the last one's output over its places."""

    batches_tasks_on_cpu: ClassVar[bool] = False  # vmap turns into grouped convolutions, which are slow on a CPU

    def __init__(self, config: ResNetConfig, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        if len(input_shape) != 3:
            raise refuse_shape(config.name, "images", input_shape, "mlp")
        self.norm_mode = config.norm
        self.feature_size = config.channels[-1]

    def finish(self, outputs: int | None, init: ResNetInit) -> None:
        """Add the head, and draw convolutions again whose law is another; to be called when all blocks are there."""
        for module in self.modules():
            if isinstance(module, ConvNorm) and init.conv != "fan_out":
                fill(module.weight, init.conv)
        self.add_head(outputs, init.head, init.head_bias)

    def run(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        h = prepared
        for layer in self.blocks():
            own = {name.removeprefix(f"{layer}."): w for name, w in weights.items() if name.startswith(f"{layer}.")}
            h = torch.func.functional_call(getattr(self, layer), own, (h, now, layer))
        return h

    def features(self, prepared: Tensor, weights: Weights, now: Pass) -> Tensor:
        return self.maps(prepared, weights, now).mean((-2, -1))

    def blocks(self) -> tuple[str, ...]:
        return BLOCKS

    def shortcut_names(self) -> frozenset[str]:
        return frozenset(name for name in self.weights() if ".shortcut." in name)


@backbone("resnet10")
class ResNet10(ResNet):
    """Inputs [n, C, H, W] of any size."""

    Config: ClassVar[type[Section]] = ResNet10Config
    stem_blocks: ClassVar[tuple[str, ...]] = ("stem",)
    depth: ClassVar[int] = 1  # basic blocks of a stage

    def __init__(
        self,
        config: ResNet10Config | ResNet18Config,
        input_shape: tuple[int, ...],
        outputs: int | None,
        steps: int,
    ) -> None:
        super().__init__(config, input_shape, outputs, steps)
        inputs = config.channels[0]
        self.stem = Stem(input_shape[0], inputs, 7, config, steps, stride=2)
        for name, width in zip(BLOCKS, config.channels, strict=True):
            stage, stride = Stage(), 1 if name == BLOCKS[0] else 2
            for _ in range(self.depth):
                project = stride > 1 or inputs != width
                stage.append(Residual(inputs, width, config, steps, convolutions=2, stride=stride, project=project))
                inputs, stride = width, 1
            self.add_module(name, stage)
        self.map_shape = (inputs, *(-(-side // 32) for side in input_shape[1:]))
        self.finish(outputs, config.init)

    def blocks(self) -> tuple[str, ...]:
        return (*self.stem_blocks, *BLOCKS)

    def ends(self) -> tuple[str, ...]:
        return tuple(f"{block}.{self.depth - 1}" for block in BLOCKS)


@backbone("resnet18")
class ResNet18(ResNet10):
    """As ResNet-10, with two basic blocks in a stage."""

    Config: ClassVar[type[Section]] = ResNet18Config
    depth: ClassVar[int] = 2


@backbone("resnet12")
class ResNet12(ResNet):
    """Inputs [n, C, H, W] with H, W >= 4 (variant a) or 16 (b)."""

    Config: ClassVar[type[Section]] = ResNet12Config

    def __init__(self, config: ResNet12Config, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__(config, input_shape, outputs, steps)
        variant_a = config.variant == "a"
        pools, slope, smallest = ((0, 0, 1, None), 0.0, 4) if variant_a else ((0, 0, 0, 0), 0.1, 16)
        inputs, *size = input_shape
        if min(size) < smallest:
            model, takes = f"resnet12 (variant {config.variant})", f"images of at least {smallest}x{smallest} pixels"
            raise refuse_shape(model, takes, input_shape, "resnet10, resnet18")
        for number, (name, width, pool) in enumerate(zip(BLOCKS, config.channels, pools, strict=True)):
            plain = number >= len(BLOCKS) - config.plain_blocks
            block = Residual(inputs, width, config, steps, convolutions=3, plain=plain, slope=slope, pool=pool)
            self.add_module(name, block)
            inputs = width
        self.map_shape = (inputs, *(side // 8 + 1 if variant_a else side // 16 for side in size))
        self.finish(outputs, config.init.of(config.variant))
