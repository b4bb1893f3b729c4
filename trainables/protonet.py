"""ProtoNet: the query goes to the class whose mean support feature is nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning (NeurIPS 2017).

    c_k = mean of f(x) over the support of class k;  logits_k = -||f(x) - c_k||^2

No inner loop and no head: all of f is meta-learned. `passes` says which images share the statistics of a batch norm:
with `joint` support and query go through f together, as in the code of Snell, CloserLookFewShot and learn2learn in
training (in evaluation they take running averages, `model.norm: running`); with `separate` each is a pass of its own,
as in MGAug's code. With `model.norm: support` both come to the same.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.inner import Context
from raymeta.learner import Learner, backbone
from raymeta.models import Backbone
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Section


class MetricConfig(Section):
    """What learners have that compare the query with the support in feature space."""

    passes: Literal["joint", "separate"] = Field(
        "joint",
        description="Support and query share the norm's statistics, or have their own; Snell, CloserLookFewShot: "
        "joint; MGAug, RelationNet's authors: separate.",
    )


class ProtoNetConfig(MetricConfig):
    """Defaults: Snell's code."""


@dataclass(frozen=True)
class Memory:
    """A task's support set, as queries are compared with it.

    Attributes:
        support: its images and labels.
        classes: N, of the task.
        features: f of its images, [n, ...]; None: computed together with the query's.
        query: the pass that the query is seen in; that of both where they are one.
    """

    support: Examples
    classes: int
    features: Tensor | None
    query: Pass


@method("protonet")
class ProtoNet(Learner):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ProtoNetConfig
    adapts: ClassVar[str] = "class means in feature space"
    learns: ClassVar[str] = "the features"
    cost: ClassVar[float | None] = 0.3
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    networks: ClassVar[dict[str, dict[str, Any]]] = {"conv4": {"init": {"conv": "torch", "conv_bias": "torch"}}}

    def build_model(self, config: TrialConfig, problem: Problem) -> Backbone:
        return backbone(config, problem.input_shape, None)

    def adapt(self, support: Examples, context: Context) -> Any:
        classes, now = context.outputs or self.problem.outputs, context.at()
        support_statistics = self.model.norm_mode == "support"
        if self.settings.passes == "joint" and not support_statistics:
            return Memory(support, classes, None, replace(now, support=len(support.y)))
        features = self.features(support.x, now)
        query = context.at(moments=now.recorded if support_statistics else None, query=True)
        return Memory(support, classes, features, query)

    def predict(self, adapted: Memory, x: Tensor) -> Tensor:
        if adapted.features is not None:
            return self.compare(adapted, adapted.features, self.features(x, adapted.query))
        both, count = self.features(torch.cat([adapted.support.x, x]), adapted.query), len(adapted.support.x)
        return self.compare(adapted, both[:count], both[count:])

    def features(self, x: Tensor, now: Pass) -> Tensor:
        """f(x), [n, F]."""
        return self.model.features(self.model.prepare(x), self.model.weights(), now)

    def compare(self, adapted: Memory, support: Tensor, query: Tensor) -> Tensor:
        """Logits [m, N] of queries.

        Args:
            adapted: the task.
            support: features of its support set, [n, ...].
            query: features of the queries, [m, ...].
        """
        classes = class_means(support, adapted.support.y, adapted.classes)
        return -(query[:, None] - classes).square().sum(-1)


def class_means(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """Mean features of every class: [n, ...] with labels [n] to [N, ...]."""
    member = (y == torch.arange(classes, device=y.device)[:, None]).to(features.dtype)
    means: Tensor = member @ features.flatten(1) / member.sum(1, keepdim=True)
    return means.reshape(classes, *features.shape[1:])
