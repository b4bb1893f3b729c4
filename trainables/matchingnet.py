"""MatchingNet: the query's label is a mean of the support's, weighted by similarity.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning (NeurIPS 2016).

    p(k | x) = sum over support images i of class k of softmax_i(scale * cos(f(x), f(x_i)))

The log of p is what is returned as logits. Similarities are cosines of the plain embeddings, without the paper's
recurrent ones over the whole support set. The paper does not scale the cosines; CloserLookFewShot's code does, by 100.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta.inner import Context
from raymeta.models.passes import Pass
from raymeta.problem import Examples
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.protonet import ProtoNet

TINY = 1e-6  # added to a probability before its logarithm


class MatchingNetConfig(Section):
    """Defaults: CloserLookFewShot's code."""

    scale: Number = Field(100.0, gt=0, description="Of the cosines, before their softmax; the paper: 1.")


@dataclass(frozen=True)
class Memory:
    """A task's support images in feature space, [N*K, F], of which class each is, [N*K, N], and the query's norm."""

    features: Tensor
    member: Tensor
    query: Pass


@method("matchingnet")
class MatchingNet(ProtoNet):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MatchingNetConfig
    adapts: ClassVar[str] = "the support's features as a memory"
    learns: ClassVar[str] = "the features"
    presets_of: ClassVar[tuple[str, ...]] = ("protonet",)
    cost: ClassVar[float | None] = 0.4

    def adapt(self, support: Examples, context: Context) -> Any:
        now = context.at()
        features = self.features(support.x, now)
        query = context.at(moments=now.recorded) if self.model.norm_mode == "support" else now
        classes = torch.arange(context.outputs or self.problem.outputs, device=support.y.device)
        return Memory(features, (support.y[:, None] == classes).to(features.dtype), query)

    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        query = F.normalize(self.features(x, adapted.query), dim=1)
        attention = (self.numbers.scale * query @ F.normalize(adapted.features, dim=1).t()).softmax(1)
        probability: Tensor = attention @ adapted.member + TINY
        return probability.log()
