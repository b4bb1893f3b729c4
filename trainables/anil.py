"""ANIL: the inner loop adapts the head alone.

Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML
(ICLR 2020).

    head_{j+1} = head_j - alpha * dLs(body, head_j)/dhead;  the body is that of theta

The body learns in the outer loop, through the query's features and, in second order, through the support's. As it does
not move, a task's support features are computed once. There is no code by its authors.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.learner import InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Section
from trainables.maml import MAML


class ANILConfig(InnerLoopConfig):
    """Defaults: MAML's; learn2learn's example takes 5 steps of 0.1, the ANIL of BOIL's code one step of 0.5."""


@method("anil")
class ANIL(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ANILConfig
    adapts: ClassVar[str] = "the head"
    learns: ClassVar[str] = "theta"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 0.4
    of_policies: ClassVar[bool] = True
    own_settings: ClassVar[frozenset[str]] = frozenset({"adapt_norm"})

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        if self.settings.adapt_norm:
            raise UserError("anil.adapt_norm: found True, but anil adapts the head, which has no norm; allowed: False")
        if self.model.norm_mode == "per_step":
            raise UserError("model.norm: found 'per_step', but anil computes a task's features once, for all steps")

    def moving(self) -> list[str]:
        return [name for name in self.model.weights() if name in self.model.scope("head")]

    def step_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        if support.context.perturbed:
            return super().step_loss(support)  # of features that are new at every step
        features = self.model.features(support.x, self.model.weights(), support.context.at())
        if not self.second_order(support.context):
            features = features.detach()

        def loss(weights: Weights, step: int) -> Tensor:
            own, y = self.problem.of_step(Examples(features, support.y), step)
            return self.loss(self.model.classify(own, weights, support.context.outputs), y)

        return loss
