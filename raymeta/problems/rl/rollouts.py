"""Rollouts of policies in environments that go on side by side, in this process."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from raymeta.problems.rl.advantages import Array
from raymeta.problems.rl.gaussian import parts
from raymeta.problems.rl.trajectories import Act


class Environments(Protocol):
    """B environments side by side, a goal each."""

    def reset(self, goals: Array, noise: Array) -> Array:
        """Begin episodes.

        Args:
            goals: [B, G].
            noise: uniform numbers [B, R], all the randomness that an episode's start and course may have.

        Returns:
            Observations [B, D].
        """
        ...

    def step(self, actions: Array, going: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.bool_]]:
        """A step of those that are going; what is returned of others is not looked at.

        Args:
            actions: [B, A].
            going: [B].

        Returns:
            Observations [B, D], rewards [B], and which episodes end with this step [B].
        """
        ...


class Rollouts(NamedTuple):
    """Of T tasks with E episodes of at most H steps, padded with zeros."""

    observations: Array  # [T, E, H, D]
    actions: Array  # [T, E, H, A]
    rewards: Array  # [T, E, H]
    valid: Array  # [T, E, H]


def rollouts(
    environments: Environments, policies: Sequence[Act], goals: Array, starts: Array, noise: Array, dtype: torch.dtype
) -> Rollouts:
    """Let each task's policy act in its environments, a = mu + sigma * noise.

    When one of them has diverged all stop, and no reward is a number.

    Args:
        environments: T * E of them, task by task.
        policies: T of them.
        goals: [T, G].
        starts: uniform numbers [T, E, R].
        noise: standard normal numbers [T, E, H, A].
        dtype: of observations as policies take them.
    """
    count, episodes, horizon, size = noise.shape
    seen = environments.reset(np.repeat(goals, episodes, 0), starts.reshape(count * episodes, -1))
    observations = np.zeros((count, episodes, horizon, seen.shape[1]))
    actions, rewards = np.zeros_like(noise), np.zeros((count, episodes, horizon))
    valid = np.zeros_like(rewards)
    going = np.ones(count * episodes, bool)
    for t in range(horizon):
        now = going.reshape(count, episodes)
        x = torch.from_numpy(seen).to(dtype).view(count, episodes, -1)
        mean, deviation = parts(torch.stack([act(own) for act, own in zip(policies, x, strict=True)]))
        drawn = mean + deviation.exp() * torch.from_numpy(noise[:, :, t]).to(dtype)
        observations[:, :, t], valid[:, :, t] = x.double().numpy() * now[..., None], now
        actions[:, :, t] = drawn.double().numpy() * now[..., None]
        if not np.isfinite(actions[:, :, t]).all():
            rewards[:] = np.nan
            break
        seen, reward, ended = environments.step(actions[:, :, t].reshape(-1, size), going)
        rewards[:, :, t] = np.where(going, reward, 0).reshape(count, episodes)
        going = going & ~ended
        if not going.any():
            break
    return Rollouts(observations, actions, rewards, valid)
