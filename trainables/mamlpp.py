"""MAML++: MAML with a loss after every step, learned rates per tensor and step, and a norm of its own for every step.

Antoniou, Edwards, Storkey: How to Train Your MAML (ICLR 2019).

    theta_{j+1} = theta_j - a_{p,j} * grad Ls(theta_j)      a: one learned number per tensor p and step j
    outer loss  = sum_j v_j Lq(theta_{j+1})                 while the multi-step loss is on, then Lq(theta_S)

With r from 0 to 1 over `msl_share` of the full budget, v_j = max((1 - r)/S, 0.03/S) for all steps but the last, which
has the rest of 1; then the weight is on the last step alone, at once (the authors' code, per epoch there).

Its six switches, each alone: `multi_step_loss`; `learned_rates`; `model.norm: per_step` (the default here; statistics
are always the pass's own, as the authors' running ones are stored and never used); `first_order_share`;
`outer.schedule: cosine`; `order`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.engine.numbers import Numbers
from raymeta.inner import Phase, Step
from raymeta.learner import Adapted, InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import MIXED, Section
from trainables.maml import MAML


class MAMLPPConfig(InnerLoopConfig):
    """Defaults: the authors' code on miniImageNet, with the inner rate of the paper."""

    inner_steps: int = Field(5, ge=1, description="S.")
    multi_step_loss: bool = True
    msl_share: Annotated[float, MIXED] = Field(
        0.15, ge=0, le=1, description="Share of the budget with the multi-step loss: 15 of 100 epochs; Omniglot: 0.1."
    )
    learned_rates: bool = Field(True, description="Learn a rate per tensor and step, from inner_lr on; else constant.")


@dataclass(frozen=True)
class Steps(Adapted):
    """Adapted weights with those after every step: (weight of its loss, weights, query pass)."""

    path: tuple[tuple[float | Tensor, Weights, Pass], ...] = ()


@dataclass(frozen=True)
class MultiStepPhase(Phase):
    """Whether the multi-step loss is on."""

    multi_step: bool


@method("mamlpp")
class MAMLPP(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MAMLPPConfig
    adapts: ClassVar[str] = "as MAML"
    learns: ClassVar[str] = "theta, a rate per tensor and step, a norm per step"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 2.1
    defaults: ClassVar[dict[str, Any]] = {"model": {"norm": "per_step"}, "outer": {"clip_scope": "model"}}
    own_settings: ClassVar[frozenset[str]] = frozenset({"eval_steps"})

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        settings = self.settings
        self.numbers = Numbers(settings, msl_share=settings.msl_share)
        self.rates: nn.Parameter | None = None  # [adapted tensors, S]
        if settings.learned_rates:
            self.refuse_more_eval_steps()
            self.rates = nn.Parameter(torch.full((len(self.adapted), settings.inner_steps), settings.inner_lr))

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        if self.rates is None:
            return super().update(step, moving, gradients)
        return {
            name: weight - rate * gradients[name]
            for (name, weight), rate in zip(moving.items(), self.rates[:, step], strict=True)
        }

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        if self.rates is None:
            return {}
        return {"rate": dict(zip(self.adapted, self.rates[:, step.number], strict=True))}

    def phase(self, progress: float) -> "MultiStepPhase":
        share = self.settings.msl_share
        on = self.settings.multi_step_loss and (progress < share or share == 1)
        return MultiStepPhase(super().phase(progress).second_order, on)

    def adapted_state(self, support: Support, path: list[Weights]) -> Adapted:
        last, context = super().adapted_state(support, path), support.context
        if not (context.training and self.phase_of(context).multi_step) or len(path) == 1:  # type: ignore[attr-defined]
            return last
        share = self.numbers.msl_share if context.mixed else self.settings.msl_share
        shares = multi_step_weights(context.progress / share, len(path) - 1)
        if isinstance(context.progress, Tensor):  # a product of tensors would have the larger of their types
            shares = [share.to(next(iter(path[0].values())).dtype) for share in shares]
        steps = [
            (share, weights, self.query_pass(support, weights, step))
            for step, (share, weights) in enumerate(zip(shares[:-1], path[1:-1], strict=True))
        ]
        return Steps(last.weights, last.query, (*steps, (shares[-1], last.weights, last.query)))

    def query_loss(self, adapted: Adapted, query: Examples) -> Tensor:
        if not isinstance(adapted, Steps):
            return super().query_loss(adapted, query)
        return self._over_steps(self.loss, adapted, query)

    def query_losses(self, adapted: Adapted, query: Examples) -> Tensor:
        if not isinstance(adapted, Steps):
            return super().query_losses(adapted, query)
        return self._over_steps(self.losses, adapted, query)

    def _over_steps(self, loss: Callable[[Tensor, Tensor], Tensor], adapted: "Steps", query: Examples) -> Tensor:
        x = self.model.prepare(query.x)
        losses = [share * loss(self.outputs(x, weights, now), query.y) for share, weights, now in adapted.path]
        return torch.stack(losses).sum(0)

    def with_hook(self, adapted: Adapted, on_block: Callable[..., Tensor]) -> Adapted:
        changed: Adapted = super().with_hook(adapted, on_block)
        if isinstance(changed, Steps):
            path = tuple((share, weights, now.hooked(on_block)) for share, weights, now in changed.path)
            return replace(changed, path=path)
        return changed


def multi_step_weights(progress: float | Tensor, steps: int) -> list[Any]:
    """v_0 .. v_{S-1}, which sum to 1; progress runs from 0 to 1 over the time that the multi-step loss is on."""
    early, least = (1 - progress) / steps, 0.03 / steps
    early = early.clamp(min=least) if isinstance(early, Tensor) else max(early, least)
    return [early] * (steps - 1) + [1 - (steps - 1) * early]
