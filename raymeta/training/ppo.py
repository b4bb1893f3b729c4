"""PPO as an outer step: several steps of Adam on the same trajectories, which stops paying for moving far.

Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal Policy Optimization Algorithms (2017), section 3;
Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019) for several of them as one outer step of MAML.

    L(theta) = mean over tasks of - wmean min(r A, clip(r, 1 - eps, 1 + eps) A),  r = pi_theta'_i(a|o) / old_i(a|o)
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.learner import Learner
from raymeta.schema import Number, Section
from raymeta.training.outer import Landscape, OuterStep, refuse_without_policy


class PPOConfig(Section):
    """Defaults: PPO's clip, Adam's usual step."""

    optimizer: Literal["ppo"] = "ppo"
    tasks_per_step: int = Field(20, ge=1, description="Tasks of one outer step.")
    lr: Number = Field(1e-3, gt=0, description="Of Adam.")
    clip_ratio: Number = Field(0.2, gt=0, lt=1, description="eps, of the ratio of probabilities; PPO: 0.2.")
    gradient_steps: int = Field(5, ge=1, description="Of Adam on the same trajectories.")


@registry.outer("ppo")
class PPO(OuterStep):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = PPOConfig

    def __init__(self, config: TrialConfig, learner: Learner) -> None:
        super().__init__(config, learner)
        refuse_without_policy("ppo", learner)
        self._outer: PPOConfig = config.outer
        self.optimizer = torch.optim.Adam(self.learned.values(), lr=self._outer.lr)

    def begin(self, outer_step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._outer.lr  # a checkpoint may have another

    def follow(self, tasks: Landscape) -> Tensor:
        measure, first = tasks.surface(self._outer.clip_ratio), None
        for _ in range(self._outer.gradient_steps):
            loss, _ = measure()
            first = loss.detach() if first is None else first
            if not loss.isfinite():
                return loss.detach()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        assert first is not None
        return first

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
