"""ProtoNet: the query goes to the class whose mean support feature is nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning (NeurIPS 2017).

    c_k = mean of f(x) over the support of class k;  logits_k = -||f(x) - c_k||^2

No inner loop and no head: all of f is meta-learned. Support and query are separate passes, each normalised as
`model.norm` says.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.inner import Context
from raymeta.learner import Learner, backbone
from raymeta.models import Backbone
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Section


class ProtoNetConfig(Section):
    """ProtoNet has no hyperparameters of its own."""


@dataclass(frozen=True)
class Prototypes:
    """A task's classes in feature space, [N, ...], and how the query is to be normalised."""

    classes: Tensor
    query: Pass


@method("protonet")
class ProtoNet(Learner):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ProtoNetConfig
    adapts: ClassVar[str] = "class means in feature space"
    learns: ClassVar[str] = "the features"
    cost: ClassVar[float | None] = 0.3
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def build_model(self, config: TrialConfig, problem: Problem) -> Backbone:
        return backbone(config, problem.input_shape, None)

    def adapt(self, support: Examples, context: Context) -> Any:
        now = context.at()
        features = self.features(support.x, now)
        query = context.at(moments=now.recorded) if self.model.norm_mode == "support" else now
        return Prototypes(class_means(features, support.y, context.outputs or self.problem.outputs), query)

    def features(self, x: Tensor, now: Pass) -> Tensor:
        """f(x), [n, F]."""
        return self.model.features(self.model.prepare(x), self.model.weights(), now)

    def predict(self, adapted: Prototypes, x: Tensor) -> Tensor:
        return -(self.features(x, adapted.query)[:, None] - adapted.classes).square().sum(-1)


def class_means(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """Mean features of every class: [n, ...] with labels [n] to [N, ...]."""
    member = (y == torch.arange(classes, device=y.device)[:, None]).to(features.dtype)
    means: Tensor = member @ features.flatten(1) / member.sum(1, keepdim=True)
    return means.reshape(classes, *features.shape[1:])
