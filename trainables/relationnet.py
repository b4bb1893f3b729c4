"""RelationNet: a small network says how well a query fits a class.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning (CVPR 2018).

    r_k(x) = g([mean support map of class k, map of x]);   loss = mean (r - onehot(y))^2

Maps keep their places: Conv-4 pools in its first two blocks only (`model.pools: 2`, the default here). g is two blocks
of convolution, norm, ReLU and pooling on the stacked maps, then two linear layers, 8 units between them, and a sigmoid.
As in CloserLookFewShot's code a class is the mean of its support maps (the paper sums them), and `loss: softmax` takes
the cross entropy of g without its sigmoid. With `padding: authors` the convolutions of Conv-4's pooling blocks have no
padding, nor have g's on maps of 10 places or more on a side; with `full` all are padded.
"""

from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.learner import probabilities
from raymeta.models import Backbone
from raymeta.models.conv4 import Block, Conv4, Conv4Config
from raymeta.models.init import BiasLaw, WeightLaw, linear
from raymeta.models.norm import NormMode
from raymeta.models.passes import Pass
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Section
from trainables.protonet import Memory, MetricConfig, ProtoNet, class_means

SMALL = 10  # places on a side, below which the authors pad the relation module's convolutions


class RelationInit(Section):
    """What the relation module starts from. RelationNet's authors: biases zeros, linear layers normal(0.01) and 1."""

    conv: WeightLaw = "fan_out"
    conv_bias: BiasLaw = "torch"
    linear: WeightLaw = "torch"
    linear_bias: BiasLaw = "torch"


class RelationNetConfig(MetricConfig):
    """Defaults: CloserLookFewShot's code."""

    loss: Literal["mse", "softmax"] = "mse"
    padding: Literal["authors", "full"] = Field("authors", description="Of convolutions.")
    hidden: int = Field(8, ge=1, description="Units between the two linear layers of the relation module.")
    norm_momentum: float = Field(1.0, gt=0, le=1, description="As `model.norm_momentum`, of the relation module.")
    init: RelationInit = RelationInit()


class Relation(nn.Module):
    """g: stacked maps [n, 2C, h, w] to relations [n]."""

    def __init__(self, shape: tuple[int, ...], settings: RelationNetConfig, norm: NormMode, model: Section) -> None:
        super().__init__()
        channels, *size = shape
        init = settings.init
        own = {"norm_momentum": settings.norm_momentum, "init": {"conv": init.conv, "conv_bias": init.conv_bias}}
        kept = {key: getattr(model, key) for key in ("norm_eps", "norm_scale") if hasattr(model, key)}
        config = Conv4Config.model_validate({"width": channels, "norm": norm, **kept, **own})
        padded = settings.padding == "full" or max(size) < SMALL
        self.relation1 = Block(2 * channels, config, 1, padded=padded)
        self.relation2 = Block(channels, config, 1, padded=padded)
        for block in (self.relation1, self.relation2):
            size = [block.ends_in(side) for side in size]
        self.hidden = linear(channels * prod(size), settings.hidden, init.linear, init.linear_bias)
        self.score = linear(settings.hidden, 1, init.linear, init.linear_bias)

    def forward(self, pairs: Tensor, now: Pass) -> Tensor:
        weights = dict(self.named_parameters())
        h = self.relation2(self.relation1(pairs, weights, now, "relation1"), weights, now, "relation2")
        return self.score(F.relu(self.hidden(h.flatten(1)))).squeeze(1)  # type: ignore[no-any-return]


@method("relationnet")
class RelationNet(ProtoNet):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = RelationNetConfig
    adapts: ClassVar[str] = "class means of feature maps"
    learns: ClassVar[str] = "the features, the relation module"
    presets_of: ClassVar[tuple[str, ...]] = ("protonet",)
    cost: ClassVar[float | None] = 0.4
    defaults: ClassVar[dict[str, Any]] = {"model": {"pools": 2}}
    networks: ClassVar[dict[str, dict[str, Any]]] = {"conv4": {"init": {"conv": "fan_out", "conv_bias": "torch"}}}

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        shape, norm = self.model.map_shape, self.model.norm_mode
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise UserError(
                f"relationnet needs maps of 4x4 places or more; {config.model.name} here ends in {shape[1:]}"
            )
        if norm not in ("batch", "running"):
            raise UserError(f"model.norm: found '{norm}', but relationnet compares pairs; allowed: batch, running")
        self.relation = Relation(shape, self.settings, norm, config.model)

    def build_model(self, config: TrialConfig, problem: Problem) -> Backbone:
        if config.model.name != "conv4" or self.settings.padding == "full":
            return super().build_model(config, problem)
        return Conv4(config.model, problem.input_shape, None, 1, unpadded=config.model.pools)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.settings.loss == "softmax":
            return super().loss(outputs, y)
        return F.mse_loss(outputs, probabilities(y, outputs.shape[1], outputs.dtype))

    def features(self, x: Tensor, now: Pass) -> Tensor:
        """Maps, [n, C, h, w]."""
        return self.model.maps(self.model.prepare(x), self.model.weights(), replace(now, cuts_head=False))

    def compare(self, adapted: Memory, support: Tensor, query: Tensor) -> Tensor:
        classes = class_means(support, adapted.support.y, adapted.classes)
        shape = (len(query), len(classes), *query.shape[1:])
        pairs = torch.cat([classes.expand(shape), query[:, None].expand(shape)], 2)
        scores: Tensor = self.relation(pairs.flatten(0, 1), replace(adapted.query, support=0)).reshape(shape[:2])
        return scores.sigmoid() if self.settings.loss == "mse" else scores
