"""Proto-MAML: MAML whose head starts, in every task, as ProtoNet's classifier.

Triantafillou et al.: Meta-Dataset (ICLR 2020).

    w_k = 2 c_k, b_k = -||c_k||^2 with c_k the mean support feature of class k at theta;  then MAML on body and head

The outer gradient flows into the body through w and b, in first order too: that stops the inner gradients only. The
model's own head is neither used nor learned. The query is normalised with the support's statistics (`model.norm:
support`, the default here). `rule: alfa` takes ALFA's update.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from raymeta.config import TrialConfig
from raymeta.inner import Step
from raymeta.learner import Support
from raymeta.models import Weights
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Section
from trainables.alfa import AdaptiveConfig, AdaptiveRule
from trainables.maml import MAML
from trainables.protonet import class_means


class ProtoMAMLConfig(AdaptiveConfig):
    """Defaults: Meta-Dataset's code."""

    order: Literal["first", "second"] = "first"
    rule: Literal["sgd", "alfa"] = Field("sgd", description="alfa: ALFA's update, with depth, state and decay.")


@method("protomaml")
class ProtoMAML(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ProtoMAMLConfig
    adapts: ClassVar[str] = "body and head, from prototypes"
    learns: ClassVar[str] = "the body (rule alfa: its MLP and multipliers)"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.2
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    defaults: ClassVar[dict[str, Any]] = {"model": {"norm": "support"}}
    networks: ClassVar[dict[str, dict[str, Any]]] = {
        "conv4": {"conv_bias": False, "init": {"conv": "truncated_normal(0.1)"}}
    }
    own_settings: ClassVar[frozenset[str]] = frozenset({"eval_steps"})

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        theta = self.model.weights()
        self.rule: AdaptiveRule | None = None
        if self.settings.rule == "alfa":
            self.refuse_more_eval_steps()
            self.rule = AdaptiveRule({name: theta[name] for name in self.adapted}, self.settings)
        for name in self.model.scope("head"):
            theta[name].requires_grad_(False)

    def initial(self, support: Support) -> Weights:
        theta = self.model.weights()
        features = self.model.features(support.x, theta, support.context.at())
        means = class_means(features, support.y, support.context.outputs or self.problem.outputs)
        return {**theta, "head.weight": 2 * means, "head.bias": -means.square().sum(1)}

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        if self.rule is None:
            return super().update(step, moving, gradients)
        return self.rule(step, moving, gradients)  # type: ignore[no-any-return]

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        return {} if self.rule is None else self.rule.generated(step)
