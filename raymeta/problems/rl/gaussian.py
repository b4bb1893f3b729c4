"""Gaussian policies with a diagonal covariance, on what a policy's model gives: means and log-deviations, [..., 2 A].

    pi(a|o) = N(mu(o), diag exp(2 s)),  s = max(log-deviation, ln 1e-6)

Log-probabilities and divergences are sums over the dimensions of an action (learn2learn takes means).
"""

import math

import torch
from torch import Tensor

LEAST = math.log(1e-6)  # of log-deviations


def parts(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Means [..., A] and log-deviations [..., A] of a model's outputs [..., 2 A]."""
    mean, deviation = outputs.chunk(2, -1)
    return mean, deviation.clamp(min=LEAST)


def log_probability(outputs: Tensor, actions: Tensor) -> Tensor:
    """Log pi(a|o), [...], of actions [..., A]."""
    mean, deviation = parts(outputs)
    scaled = (actions - mean) * (-deviation).exp()
    return (-0.5 * scaled.square() - deviation - 0.5 * math.log(2 * math.pi)).sum(-1)


def divergence(outputs: Tensor, old: Tensor) -> Tensor:
    """KL(pi || pi_old), [...]; its gradient at pi = pi_old is exactly 0."""
    (mean, deviation), (old_mean, old_deviation) = parts(outputs), parts(old)
    ratio, moved = deviation - old_deviation, (mean - old_mean) * (-old_deviation).exp()
    return (0.5 * (torch.expm1(2 * ratio) + moved.square()) - ratio).sum(-1)


def entropy(outputs: Tensor) -> Tensor:
    """Of pi, [...], in nats."""
    return (parts(outputs)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
