"""MatchingNet: the query's label is a mean of the support's, weighted by similarity.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning (NeurIPS 2016).

    p(k | x) = sum over support images i of class k of softmax_i(scale * cos(h(x), g_i))
    cos(a, b) = a . b / ((|a| + eps)(|b| + eps));   outputs log(p + 1e-6);   loss = -mean of the true class's output

With full context embeddings (`fce`) h and g know of the whole support set z_1..z_n = f(x_1)..f(x_n), in its order:

    g_i = z_i + forward_i + backward_i of an LSTM that runs over z both ways
    h = f(x), c = 0;  n times:  r = sum_i softmax_i(h . g_i) g_i
                                h, c = LSTMCell([f(x); r], (h, c));  h <- h + f(x)

without them h = f(x) and g = z. CloserLookFewShot's code has them, cuts negative cosines (`relu`) and scales by
100; the paper does neither. `loss: cross_entropy` normalises p once more, whose sum is a little more than 1.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.learner import probabilities
from raymeta.models.passes import Pass
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.protonet import Memory, MetricConfig, ProtoNet

TINY = 1e-6  # added to a probability before its logarithm


class MatchingNetConfig(MetricConfig):
    """Defaults: CloserLookFewShot's code."""

    scale: Number = Field(100.0, gt=0, description="Of the cosines, before their softmax; the paper: 1.")
    fce: bool = Field(True, description="Full context embeddings.")
    relu: bool = Field(True, description="Negative cosines are 0.")
    eps: Number = Field(1e-5, ge=0, description="Added to the norms.")
    loss: Literal["nll", "cross_entropy"] = "nll"


class FullContext(nn.Module):
    """Embeddings [n, F] that know of the whole support set; their parameters are those of torch's LSTMs.

    The LSTMs are written out, since vmap can't batch torch's own.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.both_ways = nn.LSTM(size, size, bidirectional=True)
        self.cell = nn.LSTMCell(2 * size, size)

    def support(self, z: Tensor) -> Tensor:
        """Embeddings g of support images, [n, F]."""
        there, back = range(len(z)), range(len(z) - 1, -1, -1)
        return z + self.one_way(z, there, "l0") + self.one_way(z, back, "l0_reverse")

    def one_way(self, z: Tensor, order: Iterable[int], of: str) -> Tensor:
        """What the LSTM makes of z [n, F], seen in an order."""
        weights = dict(self.both_ways.named_parameters())
        inputs = F.linear(z, weights[f"weight_ih_{of}"], weights[f"bias_ih_{of}"])
        h = c = torch.zeros_like(z[0])
        seen = [h] * len(z)
        for i in order:
            h, c = gated(inputs[i] + F.linear(h, weights[f"weight_hh_{of}"], weights[f"bias_hh_{of}"]), c)
            seen[i] = h
        return torch.stack(seen)

    def query(self, f: Tensor, g: Tensor) -> Tensor:
        """Embeddings h of queries, [m, F], after as many steps as there are support images."""
        cell, h, c = self.cell, f, torch.zeros_like(f)
        for _ in range(len(g)):
            r = (h @ g.t()).softmax(1) @ g
            inputs = F.linear(torch.cat([f, r], 1), cell.weight_ih, cell.bias_ih)
            h, c = gated(inputs + F.linear(h, cell.weight_hh, cell.bias_hh), c)
            h = h + f
        return h


def gated(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell of an LSTM, [..., F], from its four gates [..., 4F] in torch's order."""
    enter, forget, new, leave = gates.chunk(4, -1)
    c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * c.tanh(), c


@method("matchingnet")
class MatchingNet(ProtoNet):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MatchingNetConfig
    adapts: ClassVar[str] = "the support's features as a memory"
    learns: ClassVar[str] = "the features, the LSTMs of the full context"
    presets_of: ClassVar[tuple[str, ...]] = ("protonet",)
    cost: ClassVar[float | None] = 0.6
    networks: ClassVar[dict[str, dict[str, Any]]] = {"conv4": {"init": {"conv": "fan_out", "conv_bias": "torch"}}}

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        if self.settings.fce:
            self.context = FullContext(self.model.feature_size)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.settings.loss == "cross_entropy":
            return super().loss(outputs, y)
        return -(probabilities(y, outputs.shape[1], outputs.dtype) * outputs).sum(1).mean()

    def features(self, x: Tensor, now: Pass) -> Tensor:
        return super().features(x, replace(now, cuts_head=False))

    def compare(self, adapted: Memory, support: Tensor, query: Tensor) -> Tensor:
        if self.settings.fce:
            support = self.context.support(support)
            query = self.context.query(query, support)
        cosine = self.unit(query) @ self.unit(support).t()
        if self.settings.relu:
            cosine = cosine.relu()
        y = adapted.support.y
        member = (y[:, None] == torch.arange(adapted.classes, device=y.device)).to(support.dtype)
        probability: Tensor = (self.numbers.scale * cosine).softmax(1) @ member + TINY
        return probability.log()

    def unit(self, features: Tensor) -> Tensor:
        """Features [n, F] by their norms."""
        norms: Tensor = features.norm(dim=1, keepdim=True) + self.numbers.eps
        return features / norms.clamp(min=1e-12)
