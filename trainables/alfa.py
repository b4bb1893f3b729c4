"""ALFA: learning rates and weight decays made anew for every tensor, step and task.

Baik, Choi, Choi, Kim, Lee: Meta-Learning with Adaptive Hyperparameters (NeurIPS 2020).

    tau = [mean theta_p]_p ++ [mean dLs/dtheta_p]_p;   (A, W) = MLP(tau), two numbers per tensor p, unbounded
    theta_p <- (1 - W_p b_{p,j}) theta_p - A_p a_{p,j} dLs/dtheta_p

a starts at `inner_lr`, b at `inner_lr * decay`; both are learned, a number per tensor and step. The gradients in tau
are constants to the outer loop, the weights in it are not. (The paper writes W b where its code has 1 - W b, which is
what trains.) A starts near zero with either sign: expect a slow start.

`initialisation: random`: theta and the norm stay as they were drawn, and only the rule is learned:

    theta_p <- (1 - c_p * W_p b_{p,j}) * theta_p - A_p a_{p,j} dLs/dtheta_p,   c in theta's shapes, from 5e-6; b from 1

`attenuate`: L2F's attenuation first, differentiated through its gradients ("ALFA on L2F").
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import Step
from raymeta.learner import InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.l2f import Attenuator, attenuated, attenuation
from trainables.maml import MAML


class AdaptiveConfig(InnerLoopConfig):
    """What the update rule needs; defaults: the paper's."""

    depth: Literal[2, 3] = Field(3, description="Linear layers of the MLP; the paper: 3, its code since a clean-up: 2.")
    state: Literal["both", "weights", "gradients"] = Field("both", description="What the MLP sees of every tensor.")
    decay: Number = Field(5e-4, ge=0, description="lambda; b starts at inner_lr * lambda.")


class ALFAConfig(AdaptiveConfig):
    """Defaults: the paper's."""

    initialisation: Literal["learned", "random"] = Field("learned", description="learned: MAML's theta; random: drawn.")
    attenuate: bool = Field(False, description="L2F before the inner loop.")


class AdaptiveRule(nn.Module):
    """The update rule and what it learns.

    Args:
        weights: the adapted tensors by name.
        settings: as `AdaptiveConfig`.
        elementwise: decay every element by a number of its own, c (random initialisation).
    """

    def __init__(self, weights: Weights, settings: AdaptiveConfig, *, elementwise: bool = False) -> None:
        super().__init__()
        count = len(weights)
        self.state = settings.state
        inputs = 2 * count if self.state == "both" else count
        layers: list[nn.Module] = []
        for _ in range(settings.depth - 1):
            layers += [nn.Linear(inputs, 2 * count), nn.ReLU()]
            inputs = 2 * count
        self.generator = nn.Sequential(*layers, nn.Linear(inputs, 2 * count))
        rates = torch.full((count, settings.inner_steps), settings.inner_lr)
        self.rates = nn.Parameter(rates)
        self.decays = nn.Parameter(torch.ones_like(rates) if elementwise else rates * settings.decay)
        scales = [torch.full_like(weight, 5e-6) for weight in weights.values()] if elementwise else []
        self.scales = nn.ParameterList(scales)

    def forward(self, step: int, weights: Weights, gradients: Weights) -> Weights:
        """The adapted tensors after a step."""
        rate, decay = self.made(step, weights, gradients)
        scales = list(self.scales) or [1.0] * len(weights)
        return {
            name: (1 - c * w) * weight - a * gradients[name]
            for (name, weight), a, w, c in zip(weights.items(), rate, decay, scales, strict=True)
        }

    def made(self, step: int, weights: Weights, gradients: Weights) -> Tensor:
        """A a and W b of a step: [2, P]."""
        means = [] if self.state == "gradients" else [weight.mean() for weight in weights.values()]
        if self.state != "weights":
            means += [gradients[name].detach().mean() for name in weights]
        made = self.generator(torch.stack(means))
        found: Tensor = made.unflatten(0, (2, -1)) * torch.stack([self.rates[:, step], self.decays[:, step]])
        return found

    def generated(self, step: Step) -> dict[str, Weights]:
        """What multiplies the gradients, A a, and what the weights, 1 - W b, of each tensor."""
        rate, decay = self.made(step.number, step.weights, step.gradients)
        scales = list(self.scales) or [1.0] * len(rate)
        factors = [1 - c * w for w, c in zip(decay, scales, strict=True)]
        return {
            "rate": dict(zip(step.weights, rate, strict=True)),
            "decay factor": dict(zip(step.weights, factors, strict=True)),
        }


@method("alfa")
class ALFA(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ALFAConfig
    adapts: ClassVar[str] = "as MAML, by a rule made for the task"
    learns: ClassVar[str] = "theta, the MLP of the rule, its multipliers"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.1
    of_policies: ClassVar[bool] = True
    exact: ClassVar[dict[str, Any]] = {"state": "weights"}  # the gradients that the MLP sees are constants
    own_settings: ClassVar[frozenset[str]] = frozenset({"eval_steps"})

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        settings, random = self.settings, self.settings.initialisation == "random"
        self.refuse_more_eval_steps()
        if random and settings.attenuate:
            raise UserError("alfa.attenuate: it attenuates a learned initialisation; not with initialisation 'random'")
        if settings.attenuate and "policy" in problem.offers:
            raise UserError(
                f"alfa.attenuate: found True, but an attenuated policy has no trajectories of its own in "
                f"{problem.name} to be adapted to; allowed: False"
            )
        theta = self.model.weights()
        self.rule = AdaptiveRule({name: theta[name] for name in self.adapted}, settings, elementwise=random)
        self.attenuator = Attenuator(len(self.adapted)) if settings.attenuate else None
        self.model.requires_grad_(not random)

    def initial(self, support: Support) -> Weights:
        if self.attenuator is None:
            return super().initial(support)
        return attenuated(self, self.attenuator, support, graph=True)

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        return self.rule(step, moving, gradients)  # type: ignore[no-any-return]

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        found = self.rule.generated(step)
        if self.attenuator is not None and step.number == 0:
            found["attenuation"] = attenuation(self, self.attenuator, support, graph=False)
        return found
