"""Batch normalisation as meta-learning needs it: which statistics, always explicit.

Papers disagree here more than anywhere else, and by points (`docs/conventions.md`). The modes of `model.norm`:

- `batch`: statistics of the images in the pass, in training and at test: transductive, as MAML, MAML++, ALFA, L2F and
  CloserLookFewShot do. Support and query are separate passes.
- `support`: the query is normalised with the support set's statistics under the adapted weights, and gradients flow
  through them: not transductive (Meta-Dataset's Proto-MAML).
- `running`: statistics of the pass in training, their running averages in evaluation, support and query alike.
- `per_step`: as `batch`, with a scale and shift of its own for every inner step, [S, C] (MAML++).
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymeta.models.passes import Pass

NormMode = Literal["batch", "support", "running", "per_step"]


class BatchNorm(nn.Module):
    """One layer's parameters and buffers; the weights of a pass may be fast weights.

    Args:
        channels: C.
        mode: see the module's docstring.
        steps: rows of scale and shift in `per_step` mode, S.
        eps: added to the variance; a hidden hyperparameter of some methods, so it is a key.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, mode: NormMode, steps: int, eps: float) -> None:
        super().__init__()
        self.mode, self.eps = mode, eps
        shape = (steps, channels) if mode == "per_step" else (channels,)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        if mode == "running":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, now: Pass, layer: str) -> Tensor:
        """Normalise x [n, C, H, W] with `weight` and `bias` ([C], or [S, C] in `per_step` mode)."""
        if self.mode == "running":
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, training=now.training, eps=self.eps
            )
        if self.mode == "support":
            scale, shift = self.affine(lambda: _moments(x), weight, bias, now, layer)
            return x * scale[:, None, None] + shift[:, None, None]
        if self.mode == "per_step":
            weight, bias = weight[now.step], bias[now.step]
        if now.vectorized:
            # Under vmap, torch 2.15 differentiates batch_norm's gradient for its scale wrongly, and says nothing.
            x = F.batch_norm(x, None, None, training=True, eps=self.eps)
            return x * weight[:, None, None] + bias[:, None, None]
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    def affine(
        self, own: Callable[[], tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor, now: Pass, layer: str
    ) -> tuple[Tensor, Tensor]:
        """The norm as x * scale + shift, both [C]; not for `running`.

        Args:
            own: computes mean and biased variance of the pass's activations; not called where the support's are used.
            weight: the scale, [C], or [S, C] in `per_step` mode.
            bias: the shift, likewise.
            now: the pass.
            layer: the layer's name.
        """
        if self.mode == "per_step":
            weight, bias = weight[now.step], bias[now.step]
        if self.mode == "support" and now.moments is not None:
            mean, variance = now.moments[layer]
        else:
            mean, variance = now.recorded[layer] = own()
        scale = weight * torch.rsqrt(variance + self.eps)
        return scale, bias - mean * scale


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of [n, C, H, W] by channel; `var_mean` is slow in channels-last memory."""
    rows = x.movedim(-3, -1).flatten(0, -2)
    mean = rows.mean(0)
    return mean, (rows - mean).square().mean(0)
