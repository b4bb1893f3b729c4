"""MAML with steps of one length: each tensor's gradient is divided by its norm.

theta_{j+1} = theta_j - alpha * g / (|g| + eps),  g = grad Ls(theta_j), tensor by tensor
"""

from typing import ClassVar

from pydantic import Field

from raymeta.learner import GradientLearner, InnerLoopConfig
from raymeta.models import Weights
from raymeta.registry import method
from raymeta.schema import Number, Section


class UnitMAMLConfig(InnerLoopConfig):
    """Defaults: ours."""

    inner_lr: Number = Field(0.1, ge=0, description="alpha: how far a tensor moves in a step.")
    eps: Number = Field(1e-3, gt=0, description="Below this norm a step is shorter.")


@method("unitmaml")
class UnitMAML(GradientLearner):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = UnitMAMLConfig
    adapts: ClassVar[str] = "as MAML, by steps of one length"
    learns: ClassVar[str] = "the weights theta"

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        rates = {name: self.numbers.inner_lr / (g.norm() + self.numbers.eps) for name, g in gradients.items()}
        return {name: weight - rates[name] * gradients[name] for name, weight in moving.items()}
