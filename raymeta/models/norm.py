"""Batch normalisation as meta-learning needs it: which statistics, always explicit.

Papers disagree here more than anywhere else, and by points (`docs/conventions.md`). The modes of `model.norm`:

- `batch`: statistics of the images in the pass, in training and at test: transductive, as MAML, MAML++, ALFA, L2F and
  CloserLookFewShot do. Support and query are separate passes.
- `support`: the query is normalised with the support set's statistics under the adapted weights, and gradients flow
  through them: not transductive (Meta-Dataset's Proto-MAML).
- `running`: statistics of the pass in training, their running averages in evaluation, support and query alike.
- `per_step`: as `batch`, with a scale and shift of its own for every inner step, [S, C] (MAML++).

`norm_scale: false` leaves out the scale, as TensorFlow's contrib layers do by default (MAML, Meta-Dropout).
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.models.passes import Pass
from raymeta.schema import Section

NormMode = Literal["batch", "support", "running", "per_step"]


class NormInit(Section):
    """What `model.init` of a network with batch norm says of it; shifts start at 0."""

    bn_gamma: Literal["ones", "uniform"] = Field("ones", description="Scales; uniform: from U(0, 1) (learn2learn).")


class NormConfig(Section):
    """What the `model` section of a network with batch norm says of it."""

    init: NormInit = NormInit()
    norm: NormMode = Field("batch", description="Whose statistics normalise a pass; see raymeta/models/norm.py.")
    norm_eps: float = Field(1e-5, gt=0, description="Added to variances; MAML, Meta-Dropout: 1e-3.")
    norm_momentum: float = Field(0.1, gt=0, le=1, description="norm running: share of a pass in the averages.")
    norm_scale: bool = Field(True, description="Whether there is a scale gamma; MAML, Meta-Dropout: false.")


class BatchNorm(nn.Module):
    """One layer's parameters and buffers; the weights of a pass may be fast weights.

    Args:
        channels: C.
        config: see the module's docstring; eps is a hidden hyperparameter of some methods, so it is a key.
        steps: rows of scale and shift in `per_step` mode, S.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, config: NormConfig, steps: int) -> None:
        super().__init__()
        mode = self.mode = config.norm
        self.eps, self.momentum = config.norm_eps, config.norm_momentum
        shape = (steps, channels) if mode == "per_step" else (channels,)
        self.weight: nn.Parameter | None = None
        if config.norm_scale:
            self.weight = nn.Parameter(torch.ones(shape) if config.init.bn_gamma == "ones" else torch.rand(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        if mode == "running":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor, now: Pass, layer: str) -> Tensor:
        """Normalise x [n, C, H, W] with `weight` and `bias` ([C], or [S, C] in `per_step` mode); no weight: 1."""
        weight, bias = self.of_step(weight, bias, now)
        if self.mode == "running":
            averages = self.running_mean, self.running_var
            return F.batch_norm(x, *averages, weight, bias, now.training, self.momentum, self.eps)
        if self.mode == "support":
            scale, shift = self.affine(lambda: moments(x), weight, bias, now, layer)
            return x * scale[:, None, None] + shift[:, None, None]
        if now.vectorized:
            # Under vmap, torch 2.15 differentiates batch_norm's gradient for its scale wrongly, and says nothing.
            x = F.batch_norm(x, None, None, training=True, eps=self.eps)
            return x * weight[:, None, None] + bias[:, None, None]
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    def of_step(self, weight: Tensor | None, bias: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Scale and shift [C] of a pass, of which `per_step` has rows; without a scale: 1."""
        if weight is None:
            weight = torch.ones_like(bias)
        return (weight[now.step], bias[now.step]) if self.mode == "per_step" else (weight, bias)

    def affine(
        self, own: Callable[[], tuple[Tensor, Tensor]], weight: Tensor | None, bias: Tensor, now: Pass, layer: str
    ) -> tuple[Tensor, Tensor]:
        """The norm as x * scale + shift, both [C]; not for `running`.

        Args:
            own: computes mean and biased variance of the pass's activations; not called where the support's are used.
            weight: the scale, [C], or [S, C] in `per_step` mode; None: 1.
            bias: the shift, likewise.
            now: the pass.
            layer: the layer's name.
        """
        weight, bias = self.of_step(weight, bias, now)
        if self.mode == "support" and now.moments is not None:
            mean, variance = now.moments[layer]
        else:
            mean, variance = now.recorded[layer] = own()
        scale = weight * torch.rsqrt(variance + self.eps)
        return scale, bias - mean * scale


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of [n, C, H, W] by channel; `var_mean` is slow in channels-last memory."""
    rows = x.movedim(-3, -1).flatten(0, -2)
    mean = rows.mean(0)
    return mean, (rows - mean).square().mean(0)
