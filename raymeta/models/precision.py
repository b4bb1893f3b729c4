"""In which numbers networks multiply (`engine.precision`).

`bf16` rounds what convolutions multiply, and give, to bfloat16, of 8 bits; norms, heads and weights stay as they are.
`tf32` lets a GPU round what it multiplies to 10 bits, in all products. Both change gradients, and are never chosen
unsaid.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raymeta.errors import UserError

if TYPE_CHECKING:
    from raymeta.config import TrialConfig

SAID = {
    "tf32": "products are rounded to TF32, 10 bits: gradients differ from float32's",
    "bf16": "convolutions are rounded to bfloat16, 8 bits: gradients can be off by a quarter and more",
}


class Rounding(nn.Module):
    """A part of a network that convolves.

    Attributes:
        bf16: what it multiplies is rounded to bfloat16.
    """

    bf16 = False

    def rounded(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors as they are multiplied."""
        return (x.bfloat16(), weight.bfloat16()) if self.bf16 else (x, weight)


def use_precision(learner: nn.Module, config: "TrialConfig") -> None:
    """Let a learner's networks multiply as `engine.precision` says.

    Raises:
        UserError: they can't.
    """
    if config.engine.precision != "bf16":
        return
    if config.engine.kernels == "native":
        raise UserError("engine.precision: found 'bf16', but engine.kernels native is float32; allowed: float32")
    parts = [module for module in learner.modules() if isinstance(module, Rounding)]
    if not parts:
        raise UserError(
            f"engine.precision: found 'bf16', but model.name {config.model.name} has no convolutions to round; "
            "allowed: float32, tf32"
        )
    for part in parts:
        part.bf16 = True


def set_products(config: "TrialConfig") -> None:
    """Let torch compute what comes next as `engine.precision` says; it has it for the whole process."""
    tf32 = config.engine.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
