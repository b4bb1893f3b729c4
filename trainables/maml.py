"""MAML: model-agnostic meta-learning, second and first order.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks (ICML 2017).

    theta_0 = theta;  theta_{j+1} = theta_j - alpha * grad Ls(theta_j),  j = 0 .. S-1
    outer loss = mean over tasks of Lq(theta_S)

`first_order_share` trains in first order before the second (derivative-order annealing, MAML++).

Adapts every tensor but the norm's scale and shift (`adapt_norm` adds them); meta-learns theta and the norm's. First
order takes the inner gradients as constants, so that the outer gradient is grad Lq at theta_S.

Losses are means over images. The authors' code divides the support loss by K instead of N*K, so a published `inner_lr`
is to be multiplied by N here (miniImageNet 0.01 becomes 0.05 for 5 ways).

`zero_head`, with `order: first`, is the fo-MAML of Meta-Dataset's code (Triantafillou et al., ICLR 2020): in every task
the head starts from 0, a constant, and is not learned. The first inner step then moves the head alone, as the gradient
for the features is a product with its weight.
"""

from typing import ClassVar

import torch
from pydantic import Field

from raymeta.config import TrialConfig
from raymeta.learner import GradientLearner, InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Section


class MAMLConfig(InnerLoopConfig):
    """Defaults: the MAML of the MAML++, ALFA and L2F repositories on miniImageNet."""

    zero_head: bool = Field(
        False, description="The head is 0 at the start of every task, and not learned (Meta-Dataset's fo-MAML)."
    )


@method("maml")
class MAML(GradientLearner):
    """See the module's docstring. But for `zero_head` this is what `GradientLearner` does."""

    Config: ClassVar[type[Section]] = MAMLConfig
    adapts: ClassVar[str] = "all weights but the norm's"
    learns: ClassVar[str] = "the weights theta"
    cost: ClassVar[float | None] = 1.0
    of_policies: ClassVar[bool] = True
    of_windows: ClassVar[bool] = True

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        # Most learners that are made from this one have no such key.
        self._zeros = self.model.scope("head") if getattr(self.settings, "zero_head", False) else frozenset()
        for name in self._zeros:
            self.model.weights()[name].requires_grad_(False)

    def initial(self, support: Support) -> Weights:
        theta = super().initial(support)
        return theta | {name: torch.zeros_like(theta[name]) for name in self._zeros}
