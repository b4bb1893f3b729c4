"""The outer losses of a trial's tasks as a function of tensors alone: what is computed for many trials at once, traced
or captured.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from raymeta.engine.noise import Noise
from raymeta.engine.tasks import for_each
from raymeta.inner import Context
from raymeta.learner.base import Learner, task_loss
from raymeta.learner.gradient import GradientLearner
from raymeta.problem import Examples, Task, Tasks


class OfLearner(nn.Module):
    """A function that uses a learner, as a module: torch can then run it on other parameters."""

    def __init__(self, learner: Learner, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.learner, self._function = learner, function

    def forward(self, *arguments: Any) -> Tensor:
        return self._function(*arguments)


class Program(nn.Module):
    """The outer losses of a trial's tasks, [T], as a function of all that its numbers decide.

    Args:
        learner: whose parameters and buffers are below `learner`.
        vectorized: batch the tasks with vmap.
        per_task: every task has parameters of its own.
        mixed: settings that lanes may differ in are read from tensors.
        computed: of how many tasks T it computes how many, copies of the first ones after them.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        vectorized: bool,
        per_task: bool,
        mixed: bool = False,
        computed: Callable[[int], int] = lambda count: count,
    ) -> None:
        super().__init__()
        self.learner, self.vectorized, self.per_task = learner, vectorized, per_task
        self._mixed, self._computed = mixed, computed

    def forward(self, phase: Any, own: Any, *inputs: Any) -> Tensor:
        """The losses.

        Args:
            phase: of the learner.
            own: parameters of each task, [T, ...], if they have their own.
            inputs: keys of the tasks' noise, support, query, progress, and what regularizers drew.
        """
        keys, support, query, progress, drawn = inputs
        tasks = Tasks(Examples(*support), Examples(*query))
        outputs = self.learner.problem.outputs_of(tasks)
        # Tasks or lanes are batched by vmap around it.
        plain = Context(True, progress, vectorized=True, outputs=outputs, phase=phase, mixed=self._mixed)
        hooks = self.learner.hooks(tasks, plain, drawn=drawn)

        def loss_of(number: int | Tensor, key: Tensor, support: Any, query: Any) -> Tensor:
            task = Task(Examples(*support), Examples(*query))
            return task_loss(self.learner, task, plain.of_task(number, Noise(key), hooks))

        of_task = OfLearner(self.learner, loss_of)

        def with_own(number: int | Tensor, own: dict[str, Tensor], *rest: Any) -> Tensor:
            named = {f"learner.{name}": tensor for name, tensor in own.items()}
            found: Tensor = torch.func.functional_call(of_task, named, (number, *rest))
            return found

        arguments, of_one = (
            ((own, keys, support, query), with_own) if self.per_task else ((keys, support, query), loss_of)
        )
        if not self.vectorized:
            return torch.stack(for_each(of_one, *arguments, vectorized=False))  # type: ignore[arg-type]
        count, most = tasks.size, self._computed(tasks.size)
        numbers = torch.arange(most, device=keys.device) % count
        if most > count:
            arguments = tree_map(lambda of_each: torch.cat([of_each, of_each[: most - count]]), arguments)
        found: Tensor = torch.vmap(of_one)(numbers, *arguments)
        return found[:count]


def with_gradients(
    losses_of: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor],
    state: Mapping[str, Tensor],
    learned: Iterable[str],
    weight: float,
    spread: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses, and the gradients of their weighted sum by name; what the losses don't depend on is missing.

    Args:
        losses_of: of the learned tensors and of the others.
        state: parameters and buffers by name.
        learned: names of what the gradients are for.
        weight: of each loss.
        spread: a learned tensor as one for each task; all of `state` are then the others.
    """
    leaves = {name: state[name].detach() for name in learned}
    rest = {name: tensor for name, tensor in state.items() if spread or name not in leaves}
    if spread is not None:
        leaves = {name: spread(tensor) for name, tensor in leaves.items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in leaves.items()}
    losses = losses_of(leaves, rest)
    values = torch.autograd.grad(losses.sum() * weight, list(leaves.values()), allow_unused=True)
    return losses.detach(), {name: g for name, g in zip(leaves, values, strict=True) if g is not None}


def phase_of(learner: Learner, progress: float) -> Any:
    """Which program a learner runs when a share of the budget is done."""
    return learner.phase(progress) if isinstance(learner, GradientLearner) else None
