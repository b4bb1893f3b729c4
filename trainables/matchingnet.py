"""MatchingNet: the query's label is a mean of the support's, weighted by similarity.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning (NeurIPS 2016).

    p(k | x) = sum over support images i of class k of softmax_i(scale * cos(f(x), f(x_i)))

The log of p is what is returned as logits. Similarities are cosines of the plain embeddings, without the paper's
recurrent ones over the whole support set. The paper does not scale the cosines; CloserLookFewShot's code does, by 100.
"""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta.models.passes import Pass
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.protonet import Memory, MetricConfig, ProtoNet

TINY = 1e-6  # added to a probability before its logarithm


class MatchingNetConfig(MetricConfig):
    """Defaults: CloserLookFewShot's code."""

    scale: Number = Field(100.0, gt=0, description="Of the cosines, before their softmax; the paper: 1.")


@method("matchingnet")
class MatchingNet(ProtoNet):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MatchingNetConfig
    adapts: ClassVar[str] = "the support's features as a memory"
    learns: ClassVar[str] = "the features"
    presets_of: ClassVar[tuple[str, ...]] = ("protonet",)
    cost: ClassVar[float | None] = 0.4

    def features(self, x: Tensor, now: Pass) -> Tensor:
        return super().features(x, replace(now, cuts_head=False))

    def compare(self, adapted: Memory, support: Tensor, query: Tensor) -> Tensor:
        attention = self.numbers.scale * F.normalize(query, dim=1) @ F.normalize(support, dim=1).t()
        y = adapted.support.y
        member = (y[:, None] == torch.arange(adapted.classes, device=y.device)).to(support.dtype)
        probability: Tensor = attention.softmax(1) @ member + TINY
        return probability.log()
