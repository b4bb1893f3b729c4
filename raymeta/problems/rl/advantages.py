"""What a trajectory's steps are worth: returns, the linear baseline, generalised advantages.

Schulman et al.: High-Dimensional Continuous Control Using Generalized Advantage Estimation (ICLR 2016);
Duan et al. (ICML 2016), appendix, for the baseline's features.

Arrays are float64 of E trajectories of one task, [E, H]; `valid` is 1 up to and with a trajectory's last step and 0 in
the padding behind it, where rewards are 0.
"""

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import Repeatable

Array = NDArray[np.float64]
RIDGE, RIDGES, EPS = 1e-5, 6, 1e-8


def weights(valid: Array) -> Array:
    """[E, H] with which a sum is the weighted mean: over a trajectory's steps, then over trajectories."""
    found: Array = valid / valid.sum(1, keepdims=True) / len(valid)
    return found


def discounted(rewards: Array, gamma: float) -> Array:
    """Discounted returns from every step on, [E, H]."""
    found, ahead = np.zeros_like(rewards), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        found[:, t] = ahead = rewards[:, t] + gamma * ahead
    return found


def baseline(observations: Array, rewards: Array, valid: Array, gamma: float) -> Array:
    """Values V_t [E, H], 0 in the padding: ridge regression of discounted returns on features of the observations.

    The features are o, o^2, t/100, (t/100)^2, (t/100)^3 and 1, fitted on the trajectories that they are used on.

    Args:
        observations: [E, H, D].
        rewards: [E, H].
        valid: [E, H].
        gamma: discount.

    Raises:
        Repeatable: no solution is finite.
    """
    time = np.broadcast_to(np.arange(valid.shape[1]) / 100, valid.shape)
    x = np.concatenate(
        [observations, observations**2, *(part[..., None] for part in (time, time**2, time**3, np.ones_like(time)))], -1
    )
    steps = valid > 0
    chosen, returns = x[steps], discounted(rewards, gamma)[steps]
    squares, products = chosen.T @ chosen, chosen.T @ returns
    for power in range(RIDGES):
        try:
            solution = np.linalg.solve(squares + RIDGE * 10**power * np.eye(len(squares)), products)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(solution).all():
            return (x @ solution) * valid
    raise Repeatable("the linear baseline has no finite solution: the rewards or observations are not finite")


def advantages(rewards: Array, values: Array, valid: Array, gamma: float, lam: float) -> Array:
    """GAE, [E, H]: A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t, with V past the end 0."""
    after = np.concatenate([values[:, 1:], np.zeros((len(values), 1))], 1)
    return discounted(rewards + gamma * after - values, gamma * lam) * valid


def normalised(found: Array, valid: Array) -> Array:
    """Less their weighted mean, over their weighted deviation; 0 in the padding."""
    w = weights(valid)
    centred = found - (w * found).sum()
    scaled: Array = centred / (np.sqrt((w * centred**2).sum()) + EPS) * valid
    return scaled
