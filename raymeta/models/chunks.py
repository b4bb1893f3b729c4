"""Passes over so many images at a time (`engine.chunk`), with the same values and gradients.

A norm needs the moments of all images, so a network can't be run on some of them alone; a convolution with its norm
can. What is between its input and its output is there for one chunk at a time: it is computed once for the moments,
once for the output, and both again in a backward pass. Of parts with n_c places, means m_c and biased variances v_c

    mean = sum_c n_c m_c / n,  variance = sum_c n_c (v_c + (m_c - mean)^2) / n
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raymeta.errors import UserError
from raymeta.models.norm import moments
from raymeta.models.passes import Pass
from raymeta.models.precision import Rounding

if TYPE_CHECKING:
    from raymeta.config import TrialConfig
    from raymeta.learner import Learner

Affine = tuple[Tensor, Tensor]


class Chunked(Rounding):
    """A part of a network that can be run on chunks.

    Attributes:
        chunk: images at a time; None: all.
    """

    chunk: int | None = None

    def in_chunks(self, x: object, now: Pass) -> bool:
        """Whether a pass over these inputs is made of several."""
        return self.chunk is not None and isinstance(x, Tensor) and len(x) > self.chunk and not now.vectorized


def chunked(
    x: Tensor,
    size: int,
    convolve: Callable[[Tensor], Tensor],
    scaled: Callable[[Callable[[], Affine]], Affine],
    end: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """A convolution with its norm and what follows, [n, ...].

    Args:
        x: inputs, [n, C, H, W].
        size: images at a time.
        convolve: inputs to maps.
        scaled: the norm's scale and shift, [channels] each, from what computes mean and biased variance of all maps.
        end: (maps, scale, shift) to the output, image by image.
    """
    parts = torch.split(x, size)

    def own() -> Affine:
        found = [_again(lambda part: torch.stack(moments(convolve(part))), part) for part in parts]
        means, variances = torch.stack(found, 1)  # [parts, channels] each
        share = means.new_tensor([len(part) / len(x) for part in parts])[:, None]
        mean = (share * means).sum(0)
        return mean, (share * (variances + (means - mean).square())).sum(0)

    scale, shift = scaled(own)
    return torch.cat([_again(lambda part: end(convolve(part), scale, shift), part) for part in parts])


def _again(function: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
    """A function of a part, whose intermediate results are computed again where a gradient needs them."""
    if not torch.is_grad_enabled():
        return function(part)
    found: Tensor = checkpoint(function, part, use_reentrant=False, preserve_rng_state=False)
    return found


def use_chunks(learner: "Learner", config: "TrialConfig") -> None:
    """Let a learner's networks compute so many images at a time as `engine.chunk` says.

    Raises:
        UserError: they can't.
    """
    size = config.engine.chunk
    if size is None:
        return
    found = f"engine.chunk: found {size}, but"
    parts = [module for module in learner.modules() if isinstance(module, Chunked)]
    if not parts:
        raise UserError(f"{found} model.name {config.model.name} has no convolutions; allowed: null")
    if learner.model.norm_mode == "running":
        raise UserError(f"{found} model.norm running updates its averages image set by image set; allowed: null")
    for one in learner.regularizers:
        if "convolutions" in one.needs:  # type: ignore[operator]
            raise UserError(f"{found} {one.name} changes what convolutions give for all images; allowed: null")
    for part in parts:
        part.chunk = size
