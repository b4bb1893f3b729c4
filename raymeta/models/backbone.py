"""What a backbone is: a network that runs on weights it is given."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from raymeta.norm import NormMode, NormPass
from raymeta.schema import Section

Weights = dict[str, Tensor]  # parameter name to tensor, in the order of `named_parameters`


class Backbone(nn.Module, ABC):
    """A network whose forward pass takes its weights as an argument, so that inner loops can change them.

    Args:
        config: the `model` section.
        input_shape: of one example without the batch: (C, H, W), or (D,).
        outputs: logits, or predicted values.
        steps: inner steps S, for norms that keep a row for each.
    """

    Config: ClassVar[type[Section]]
    batches_tasks_on_cpu: ClassVar[bool]  # whether vmap over tasks beats a loop on a CPU
    norm_mode: NormMode = "batch"

    def __init__(self, config: Any, input_shape: tuple[int, ...], outputs: int, steps: int) -> None:
        super().__init__()

    def weights(self) -> Weights:
        """The parameters by name."""
        return dict(self.named_parameters())

    def prepare(self, x: Tensor) -> Any:
        """What every pass over the same inputs [n, *input_shape] computes alike, made once for all inner steps."""
        return x

    @abstractmethod
    def forward(self, prepared: Any, weights: Weights, norm: NormPass) -> Tensor:
        """Outputs [n, outputs] of prepared inputs under the given weights."""

    @abstractmethod
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parameter names by layer, from the input to the output; the last group is the head."""

    def scope(self, layers: str) -> frozenset[str]:
        """Parameter names of a scope: `all`, `head`, `last` (the last block and the head), `first`, `body`."""
        groups = list(self.groups().values())
        chosen = {"all": groups, "head": groups[-1:], "last": groups[-2:], "first": groups[:1], "body": groups[:-1]}
        return frozenset(name for group in chosen[layers] for name in group)

    def norm_names(self) -> frozenset[str]:
        """Names of the scales and shifts of normalisation."""
        return frozenset(name for name, _ in self.named_parameters() if ".norm." in name)
