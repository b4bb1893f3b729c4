"""DropGrad: noise on the gradients of the inner loop.

Tseng, Chen, Tsai, Liu, Lin, Yang: Regularizing Meta-Learning via Gradient Dropout (ACCV 2020).

    g' = g * n, then the learner's own update with g'
    binary:   n = 1[u > p] / (1 - p)
    gaussian: n ~ N(1, p / (1 - p)), so the standard deviation is sqrt(p / (1 - p))

Drawn anew for every element, tensor, inner step and task; never differentiated; off in evaluation. Both kinds have mean
1 and variance p / (1 - p). The linear ramp grows p (binary) or the standard deviation (gaussian) with the full budget,
as the authors' code does. Their code trains in first order only; here the noise is a constant factor in second order
too.

An element's noise depends on neither the kind nor the scope: what is left alone uses up its place in the stream.

Scopes (`layers`) are the paper's, on ResNet-18; its code knows `all` alone:

| layers | paper | ResNet-10, ResNet-18 | Conv-4 |
| --- | --- | --- | --- |
| all | full | all that the inner loop moves, biases and norms too | the same |
| head | fc | head | head |
| last | block4 + fc | last stage with its shortcuts, head | block 4, head |
| start | conv1 + block1 | 7x7 convolution with its norm, first stage | block 1 |
| stem | conv1 | 7x7 convolution with its norm | there is none: refused |
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.engine.noise import Noise
from raymeta.engine.numbers import Numbers
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone, Weights
from raymeta.problem import Problem, Tasks
from raymeta.registry import regularizer
from raymeta.schema import MIXED, Number, Section


class DropGradConfig(Section):
    """Defaults: the authors' code."""

    rate: Number = Field(0.1, ge=0, lt=1, description="p; the paper recommends 0.1 to 0.2.")
    noise: Annotated[Literal["gaussian", "binary"], MIXED] = "gaussian"
    layers: Annotated[Literal["all", "last", "head", "start", "stem"], MIXED] = Field(
        "all",
        description="Whose gradients: every layer, the last block and the head, the head, the first block with what is "
        "before it, the convolution before the first block.",
    )
    ramp: Annotated[Literal["constant", "linear"], MIXED] = "constant"


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
        self._places = {name: place for place, name in enumerate(model.weights())}
        covered = [float(self.covers(name)) for name in (*self._places, "what is no weight of the model")]
        self.numbers = Numbers(
            config, binary=float(config.noise == "binary"), linear=float(config.ramp == "linear"), covered=covered
        )

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        if context.mixed:
            return Hooks(inner_gradients=self._mixed(next(learner.parameters()).dtype, context))
        return Hooks(inner_gradients=self.on_inner_gradients)

    def on_inner_gradients(self, gradients: Weights, context: Context) -> Weights:
        assert context.noise is not None, "DropGrad is off in evaluation"
        ramp = context.progress if self.settings.ramp == "linear" else 1.0
        found = dict(gradients)
        for name, gradient in gradients.items():
            if self.covers(name):
                found[name] = gradient * self.factor(gradient.detach(), ramp, context)
            else:
                context.noise.skip(gradient)
        return found

    def covers(self, name: str) -> bool:
        # `all` has those too that are no weights of the model (CAVIA's).
        return self.settings.layers == "all" or name in self.scope

    def factor(self, like: Tensor, ramp: float | Tensor, context: Context) -> Tensor:
        """n, in the shape of `like`; exactly 1 where the rate is 0."""
        assert context.noise is not None
        if self.settings.noise == "gaussian":
            return 1 + ramp * torch.sqrt(self.numbers.rate / (1 - self.numbers.rate)) * context.noise.normal(like)
        rate = ramp * self.numbers.rate
        return (context.noise.uniform(like) >= rate).to(like.dtype) / (1 - rate)

    def _mixed(self, dtype: torch.dtype, context: Context) -> Callable[[Weights, Context], Weights]:
        """`on_inner_gradients` of a lane, whose kind, scope and ramp are numbers: a tensor's factor is

            scale * normal + (high if u >= p else low)

        with a scale of 0 for binary noise, high and low of 1 for gaussian noise and outside of the scope.
        """
        numbers, covered = self.numbers, self.numbers.covered > 0
        ramp = numbers.linear * context.progress + (1 - numbers.linear)
        rate = ramp * numbers.rate
        one, zero = torch.ones_like(numbers.covered), torch.zeros_like(numbers.covered)
        binary = covered & (numbers.binary > 0)
        deviation = ramp * torch.sqrt(numbers.rate / (1 - numbers.rate))
        # In lanes a number is a tensor of all of them: left in float64 it would make the noise float64.
        scales = torch.where(covered & ~binary, deviation, zero).to(dtype)
        lows, highs = (
            torch.where(binary, zero, one).to(dtype),
            torch.where(binary, 1 / (1 - rate).to(dtype), one).to(dtype),
        )
        rate = rate.to(dtype)

        def changed(name: str, gradient: Tensor, noise: Noise) -> Tensor:
            place = self._places.get(name, -1)
            scale, low, high = scales[place], lows[place], highs[place]
            return gradient * noise.either(
                gradient.detach(), lambda u, n: scale * n + torch.where(u >= rate, high, low)
            )

        def on_inner_gradients(gradients: Weights, context: Context) -> Weights:
            assert context.noise is not None
            return {name: changed(name, gradient, context.noise) for name, gradient in gradients.items()}

        return on_inner_gradients
