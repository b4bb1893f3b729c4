"""What a forward pass through a backbone must know."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]  # parameter name to tensor, in the order of `named_parameters`
Moments = dict[str, tuple[Tensor, Tensor]]  # a pair of tensors [C] by layer
Changes = tuple[Callable[..., Any], ...]  # hooks; raymeta/hooks.py says with which arguments


@dataclass(frozen=True)
class Pass:
    """A forward pass: at which inner step, normalised with what, changed by which hooks.

    Attributes:
        training: False in evaluation; only the norm `running` differs.
        step: index of the inner step, the row of `per_step`.
        vectorized: the pass is one of a batch of tasks under vmap.
        moments: statistics to normalise with (`support` mode, query pass); None: those of the pass itself.
        recorded: where a `support` pass leaves its statistics, by layer.
        penalties: where hooks leave terms of the task's outer loss.
        query: the examples are a task's query set.
        support: of the examples so many, the first, are a task's support set, and the others its query set, seen in one
            pass; 0: they are of one set.
        cuts_head: maps of another size than the model's are not averaged to it (see `raymeta.hooks.Hooks`).
        task: which of the outer step's tasks it is; under vmap the batched index, [] as a task sees it.
        outputs: of the head that the task uses, its first ones; None: all.
        noise: where hooks draw random numbers; None if they have none to draw.
        on_weights, on_convolution, on_normalised, on_block, on_outputs: what changes weights and activations on the
            way: `on_normalised` before a block's nonlinearity, `on_block` at its end.
    """

    training: bool = True
    step: int = 0
    vectorized: bool = False
    moments: Moments | None = None
    recorded: Moments = field(default_factory=dict)
    penalties: list[Tensor] = field(default_factory=list)
    query: bool = False
    support: int = 0
    cuts_head: bool = False
    task: int | Tensor = 0
    outputs: int | None = None
    noise: Any = None
    on_weights: Changes = ()
    on_convolution: Changes = ()
    on_normalised: Changes = ()
    on_block: Changes = ()
    on_outputs: Changes = ()

    def hooked(self, on_block: Callable[..., Tensor]) -> "Pass":
        """This pass with one more hook on the blocks' outputs."""
        return replace(self, on_block=(*self.on_block, on_block))
