"""BOIL: the inner loop adapts the body alone.

Oh, Yoo, Kim, Yun: BOIL: Towards Representation Change for Few-shot Learning (ICLR 2021).

    body_{j+1} = body_j - alpha * dLs(body_j, head)/dbody;  the head is that of theta

The norm's scales and shifts are part of the body and move with it. The head learns in the outer loop like everything
else; second-order terms cross it. One Adam throughout: the authors' code makes a new one every 100 outer steps
(`outer.restart_every`).

In a ResNet the shortcuts' convolutions and norms learn in the outer loop alone: the authors' code passes them by in its
inner loop. `adapt_shortcuts` adapts them, too. Its last block without a shortcut: `model.plain_blocks`.

With `centering` the head's weight is used less the mean of its rows, W_k - (1/N) sum of W_k', in training and
evaluation: a constant shift of all logits of an image, which changes neither probabilities nor gradients, but for the
drift that Adam gives that mean. The authors subtract it in place before every outer step.
"""

from typing import Any, ClassVar

from pydantic import Field

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.learner import InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.models.init import TORCH
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML


class BOILConfig(InnerLoopConfig):
    """Defaults: the authors' code for Conv-4."""

    inner_steps: int = Field(1, ge=0, description="S; the authors' 1.")
    inner_lr: Number = Field(0.5, ge=0, description="alpha; the authors' 0.5 for Conv-4, 0.3 for ResNet-12.")
    adapt_norm: bool = Field(True, description="Adapt the norm's scale and shift too, as the authors do.")
    adapt_shortcuts: bool = Field(False, description="Adapt the shortcuts of a ResNet too; the authors' code: false.")
    centering: bool = Field(False, description="Use the head's weight less the mean of its rows, the authors' option.")
    outer_fix: bool = Field(False, description="Leave the head as it is in the outer loop, too: the authors' option.")


@method("boil")
class BOIL(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = BOILConfig
    adapts: ClassVar[str] = "the body, norm included"
    learns: ClassVar[str] = "theta"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    networks: ClassVar[dict[str, dict[str, Any]]] = {
        "conv4": {"init": TORCH},
        "resnet12": {"variant": "b"},
    }
    cost: ClassVar[float | None] = 1.0
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_steps", "eval_steps", "inner_lr", "adapt_norm"})

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        if self.settings.centering and problem.labels is None:
            raise UserError(
                f"boil.centering: found true, but it is for logits, and {problem.name} has values; allowed: false"
            )
        if self.settings.outer_fix:
            for name in self.model.scope("head"):
                self.model.weights()[name].requires_grad_(False)

    def moving(self) -> list[str]:
        fixed = self.model.scope("head")
        if not self.settings.adapt_shortcuts:
            fixed |= self.model.shortcut_names()
        return [name for name in super().moving() if name not in fixed]

    def initial(self, support: Support) -> Weights:
        theta = super().initial(support)
        if not self.settings.centering:
            return theta
        rows = theta["head.weight"]
        return theta | {"head.weight": rows - rows.mean(0).detach()}
