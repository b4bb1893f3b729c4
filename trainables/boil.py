"""BOIL: the inner loop adapts the body alone.

Oh, Yoo, Kim, Yun: BOIL: Towards Representation Change for Few-shot Learning (ICLR 2021).

    body_{j+1} = body_j - alpha * dLs(body_j, head)/dbody;  the head is that of theta

The norm's scales and shifts are part of the body and move with it. The head learns in the outer loop like everything
else; second-order terms cross it. One Adam throughout: the authors' code makes a new one every 100 outer steps.
"""

from typing import Any, ClassVar

from pydantic import Field

from raymeta.learner import InnerLoopConfig
from raymeta.models.init import TORCH
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML


class BOILConfig(InnerLoopConfig):
    """Defaults: the authors' code for Conv-4."""

    inner_steps: int = Field(1, ge=0, description="S; the authors' 1.")
    inner_lr: Number = Field(0.5, ge=0, description="alpha; the authors' 0.5 for Conv-4, 0.3 for ResNet-12.")
    adapt_norm: bool = Field(True, description="Adapt the norm's scale and shift too, as the authors do.")


@method("boil")
class BOIL(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = BOILConfig
    adapts: ClassVar[str] = "the body, norm included"
    learns: ClassVar[str] = "theta"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    networks: ClassVar[dict[str, dict[str, Any]]] = {
        "conv4": {"init": TORCH},
        "resnet12": {"init": {"conv": "fan_out", "head": "torch", "head_bias": "torch"}},
    }
    cost: ClassVar[float | None] = 1.0
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_steps", "eval_steps", "inner_lr", "adapt_norm"})

    def moving(self) -> list[str]:
        return [name for name in super().moving() if name not in self.model.scope("head")]
