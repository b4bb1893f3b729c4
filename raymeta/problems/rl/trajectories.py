"""Trajectories as examples: x observations [N, D], y what was done there and what it was worth, N = E * H steps.

The columns of y are the action (A), the outputs that it was drawn from (2 A), the advantage, the step's weight in means
(0 in the padding) and its reward.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.problems.rl.gaussian import divergence, log_probability


class Steps(NamedTuple):
    """The columns of y, [..., n] each."""

    actions: Tensor
    old: Tensor
    advantages: Tensor
    weights: Tensor
    rewards: Tensor

    @classmethod
    def of(cls, y: Tensor) -> "Steps":
        """Take y [..., 3 A + 3] apart."""
        actions = (y.shape[-1] - 3) // 3
        first, second, *rest = torch.split(y, [actions, 2 * actions, 1, 1, 1], -1)
        return cls(first, second, *(part.squeeze(-1) for part in rest))

    @property
    def y(self) -> Tensor:
        """Put together again."""
        return torch.cat([self.actions, self.old, *(part[..., None] for part in self[2:])], -1)


def policy_gradient(outputs: Tensor, y: Tensor) -> Tensor:
    """REINFORCE's loss, []: - wmean log pi(a|o) A."""
    steps = Steps.of(y)
    return -(steps.weights * steps.advantages * log_probability(outputs, steps.actions)).sum()


def surrogate(outputs: Tensor, y: Tensor, clip: float | None = None) -> Tensor:
    """TRPO's loss, []: - wmean r A, r = pi(a|o) / pi_old(a|o); at pi = pi_old its gradient is REINFORCE's.

    With `clip` it is PPO's: - wmean min(r A, r' A), where r' is r within 1 +- clip.
    """
    steps = Steps.of(y)
    old = log_probability(steps.old, steps.actions)
    ratio = (log_probability(outputs, steps.actions) - old).exp()
    gained = ratio * steps.advantages
    if clip is not None:
        gained = torch.minimum(gained, ratio.clamp(1 - clip, 1 + clip) * steps.advantages)
    return -(steps.weights * gained).sum()


def mean_divergence(outputs: Tensor, y: Tensor) -> Tensor:
    """Wmean KL(pi || pi_old), []."""
    steps = Steps.of(y)
    return (steps.weights * divergence(outputs, steps.old)).sum()


def mean_return(y: Tensor, trajectories: int) -> Tensor:
    """Mean over trajectories of their sums of rewards, [...] of y [..., N, columns]."""
    return Steps.of(y).rewards.sum(-1) / trajectories


Act = Callable[[Tensor], Tensor]  # observations [E, D] to a policy's outputs [E, 2 A]
