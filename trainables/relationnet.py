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
from raymeta.models.passes import Pass
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Section
from trainables.protonet import Memory, MetricConfig, ProtoNet, class_means

SMALL = 10  # places on a side, below which the authors pad the relation module's convolutions


class RelationNetConfig(MetricConfig):
    """Defaults: CloserLookFewShot's code."""

    loss: Literal["mse", "softmax"] = "mse"
    padding: Literal["authors", "full"] = Field("authors", description="Of convolutions.")
    hidden: int = Field(8, ge=1, description="Units between the two linear layers of the relation module.")


class Relation(nn.Module):
    """g: stacked maps [n, 2C, h, w] to relations [n]."""

    def __init__(self, shape: tuple[int, ...], settings: RelationNetConfig, norm: Any, eps: float) -> None:
        super().__init__()
        channels, height, width = shape
        config = Conv4Config(width=channels, norm=norm, norm_eps=eps, init="fan_out")
        padding = int(settings.padding == "full" or max(height, width) < SMALL)
        self.relation1 = Block(2 * channels, config, 1, padding=padding)
        self.relation2 = Block(channels, config, 1, padding=padding)
        for _ in range(2):
            height, width = ((side - 2 + 2 * padding) >> 1 for side in (height, width))
        self.hidden = nn.Linear(channels * height * width, settings.hidden)
        self.score = nn.Linear(settings.hidden, 1)

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

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        shape, norm = self.model.map_shape, self.model.norm_mode
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise UserError(
                f"relationnet needs maps of 4x4 places or more; {config.model.name} here ends in {shape[1:]}"
            )
        if norm not in ("batch", "running"):
            raise UserError(f"model.norm: found '{norm}', but relationnet compares pairs; allowed: batch, running")
        self.relation = Relation(shape, self.settings, norm, getattr(config.model, "norm_eps", 1e-5))

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
