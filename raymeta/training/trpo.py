"""TRPO as an outer step: a natural gradient step within a limit on how far the policies of the tasks move.

Schulman, Levine, Abbeel, Jordan, Moritz: Trust Region Policy Optimization (ICML 2015);
Finn, Abbeel, Levine (ICML 2017) for the outer step of MAML.

    L(theta) = mean over tasks of the outer loss of theta'_i(theta)          K(theta) likewise of the divergence
    b = grad L;  C = grad^2 K + damping I;  C x = b  by conjugate gradients;  beta = sqrt(x C x / (2 limit))
    theta_k = theta - ratio^k x / beta, k = 0, 1, ...: the first with L(theta_k) < L(theta) and K(theta_k) < limit

Both are functions of theta through the adaptation on trajectories that stay the same, with the noise that they were
made with. If no theta_k will do, or the curvature is not positive, theta stays as it is.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.learner import Learner
from raymeta.schema import Number, Section
from raymeta.training.outer import Landscape, OuterStep, refuse_without_policy

SMALL = 1e-10  # squared residual at which conjugate gradients stop


class TRPOConfig(Section):
    """Defaults: pytorch-maml-rl's, which DropGrad takes."""

    optimizer: Literal["trpo"] = "trpo"
    tasks_per_step: int = Field(20, ge=1, description="Tasks of one outer step; navigation: 20, locomotion: 40.")
    limit: Number = Field(0.01, gt=0, description="Of the mean KL divergence of a step.")
    damping: Number = Field(1e-5, ge=0, description="Added to the curvature.")
    conjugate_steps: int = Field(10, ge=1, description="Of conjugate gradients.")
    tries: int = Field(15, ge=1, description="Of the line search.")
    ratio: float = Field(0.8, gt=0, lt=1, description="Of a try's length to the one before; learn2learn: 0.5.")


@registry.outer("trpo")
class TRPO(OuterStep):
    """See the module's docstring.

    Attributes:
        skipped: outer steps so far that left the parameters as they were.
    """

    Config: ClassVar[type[Section]] = TRPOConfig

    def __init__(self, config: TrialConfig, learner: Learner) -> None:
        super().__init__(config, learner)
        refuse_without_policy("trpo", learner)
        self._outer: TRPOConfig = config.outer
        self.skipped = 0

    def follow(self, tasks: Landscape) -> Tensor:
        outer, parameters, measure = self._outer, list(self.learned.values()), tasks.surface()
        loss, distance = measure()
        slope = _flat(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
        rise = _flat(torch.autograd.grad(distance, parameters, create_graph=True, materialize_grads=True))

        def curvature(vector: Tensor) -> Tensor:
            found = torch.autograd.grad(rise @ vector, parameters, retain_graph=True, materialize_grads=True)
            return _flat(found) + outer.damping * vector

        way = conjugate_gradients(curvature, slope, outer.conjugate_steps)
        bend = way @ curvature(way)
        start, found = _flat(parameters).detach(), loss.detach()
        if not (bend > 0 and bend.isfinite() and loss.isfinite()):
            self.skipped += 1
            return found
        step = way * (2 * outer.limit / bend).sqrt()
        with torch.no_grad():
            for number in range(outer.tries):
                self._move(start - outer.ratio**number * step)
                there, far = measure()
                if there < loss and far < outer.limit:
                    return there
            self._move(start)
        self.skipped += 1
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["skipped"]

    def _move(self, values: Tensor) -> None:
        """Give the parameters values, all of them flat in a row."""
        parts = torch.split(values, [parameter.numel() for parameter in self.learned.values()])
        for parameter, part in zip(self.learned.values(), parts, strict=True):
            parameter.data.copy_(part.view_as(parameter))


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, steps: int, stop: float = SMALL) -> Tensor:
    """X with A x = b, A symmetric and positive definite.

    Args:
        product: x to A x, [n] each.
        b: [n].
        steps: at most.
        stop: squared residual at which they are enough.
    """
    x, residual, way = torch.zeros_like(b), b.clone(), b.clone()
    size = residual @ residual
    for _ in range(steps):
        if size < stop:
            break
        bent = product(way)
        length = size / (way @ bent)
        x, residual = x + length * way, residual - length * bent
        new = residual @ residual
        way, size = residual + new / size * way, new
    return x


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
