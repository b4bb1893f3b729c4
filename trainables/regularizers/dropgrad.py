"""DropGrad: noise on the gradients of the inner loop.

Tseng, Chen, Tsai, Liu, Lin, Yang: Regularizing Meta-Learning via Gradient Dropout (ACCV 2020).

    g' = g * n, then the learner's own update with g'
    binary:   n = 1[u > p] / (1 - p)
    gaussian: n ~ N(1, p / (1 - p)), so the standard deviation is sqrt(p / (1 - p))

Drawn anew for every element, tensor, inner step and task; never differentiated; off in evaluation. Both kinds have mean
1 and variance p / (1 - p). The linear ramp grows p (binary) or the standard deviation (gaussian) with the full budget,
as the authors' code does. Their code trains in first order only; here the noise is a constant factor in second order
too.

Scopes (`layers`) are the paper's, on ResNet-18; its code knows `all` alone:

| layers | paper | ResNet-10, ResNet-18 | Conv-4 |
| --- | --- | --- | --- |
| all | full | all that the inner loop moves, biases and norms too | the same |
| head | fc | head | head |
| last | block4 + fc | last stage with its shortcuts, head | block 4, head |
| start | conv1 + block1 | 7x7 convolution with its norm, first stage | block 1 |
| stem | conv1 | 7x7 convolution with its norm | there is none: refused |
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone, Weights
from raymeta.problem import Problem, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section


class DropGradConfig(Section):
    """Defaults: the authors' code."""

    rate: Number = Field(0.1, ge=0, lt=1, description="p; the paper recommends 0.1 to 0.2.")
    noise: Literal["gaussian", "binary"] = "gaussian"
    layers: Literal["all", "last", "head", "start", "stem"] = Field(
        "all",
        description="Whose gradients: every layer, the last block and the head, the head, the first block with what is "
        "before it, the convolution before the first block.",
    )
    ramp: Literal["constant", "linear"] = "constant"


@regularizer("dropgrad")
class DropGrad(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = DropGradConfig
    acts_on: ClassVar[str] = "inner gradients"
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0}
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})
    of_policies: ClassVar[bool] = True
    of_windows: ClassVar[bool] = True

    def __init__(self, config: DropGradConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        self.scope = model.scope(config.layers)
        if not self.scope:
            raise UserError(
                f"regularizers.dropgrad.layers: found '{config.layers}', but the model has none; allowed: all, last, "
                "head, start"
            )

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        return Hooks(inner_gradients=self.on_inner_gradients)

    def on_inner_gradients(self, gradients: Weights, context: Context) -> Weights:
        ramp = context.progress if self.settings.ramp == "linear" else 1.0
        return {
            name: gradient * self.factor(gradient.detach(), ramp, context) if self.covers(name) else gradient
            for name, gradient in gradients.items()
        }

    def covers(self, name: str) -> bool:
        # `all` has those too that are no weights of the model (CAVIA's).
        return self.settings.layers == "all" or name in self.scope

    def factor(self, like: Tensor, ramp: float | Tensor, context: Context) -> Tensor:
        """n, in the shape of `like`; exactly 1 where the rate is 0."""
        assert context.noise is not None, "DropGrad is off in evaluation"
        if self.settings.noise == "gaussian":
            return 1 + ramp * torch.sqrt(self.numbers.rate / (1 - self.numbers.rate)) * context.noise.normal(like)
        rate = ramp * self.numbers.rate
        return (context.noise.uniform(like) >= rate).to(like.dtype) / (1 - rate)
