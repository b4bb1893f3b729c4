"""GradNoise: noise that is added to the gradients of the inner loop.

g' = g + sigma * z,  z ~ N(0, 1);  off in evaluation
"""

from typing import Any, ClassVar

from pydantic import Field

from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Weights
from raymeta.problem import Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section


class GradNoiseConfig(Section):
    """Defaults: ours."""

    sigma: Number = Field(0.01, ge=0, description="The noise's standard deviation.")


@regularizer("gradnoise")
class GradNoise(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = GradNoiseConfig
    acts_on: ClassVar[str] = "inner gradients"
    neutral: ClassVar[dict[str, Any]] = {"sigma": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        return Hooks(inner_gradients=self.noisy)

    def noisy(self, gradients: Weights, context: Context) -> Weights:
        assert context.noise is not None
        return {name: g + self.numbers.sigma * context.noise.normal(g) for name, g in gradients.items()}
