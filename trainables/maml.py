"""MAML: model-agnostic meta-learning, second and first order.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks (ICML 2017).

    theta_0 = theta;  theta_{j+1} = theta_j - alpha * grad Ls(theta_j),  j = 0 .. S-1
    outer loss = mean over tasks of Lq(theta_S)

`first_order_share` trains in first order before the second (derivative-order annealing, MAML++).

Adapts every tensor but the norm's scale and shift (`adapt_norm` adds them); meta-learns theta and the norm's. First
order takes the inner gradients as constants, so that the outer gradient is grad Lq at theta_S.

Losses are means over images. The authors' code divides the support loss by K instead of N*K, so a published `inner_lr`
is to be multiplied by N here (miniImageNet 0.01 becomes 0.05 for 5 ways).
"""

from typing import ClassVar

from raymeta.learner import GradientLearner, InnerLoopConfig
from raymeta.registry import method
from raymeta.schema import Section

MAMLConfig = InnerLoopConfig  # its name in 0.1.0, which methods from outside may import


@method("maml")
class MAML(GradientLearner):
    """See the module's docstring. Nothing is overridden: this is what `GradientLearner` does."""

    Config: ClassVar[type[Section]] = InnerLoopConfig
    adapts: ClassVar[str] = "all weights but the norm's"
    learns: ClassVar[str] = "the weights theta"
    cost: ClassVar[float | None] = 1.0
