"""The gradients of a single trial's outer steps as a CUDA graph."""

from typing import Any

import torch
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.engine.graphs import Captured
from raymeta.engine.noise import as_words, keys_of
from raymeta.engine.transfer import sent
from raymeta.errors import UserError
from raymeta.learner import Learner
from raymeta.learner.program import Program, phase_of, with_gradients
from raymeta.problem import Tasks
from raymeta.training.device import graphs_of, one_by_one
from raymeta.training.outer import OuterStep, OuterUpdate


class CapturedGradients:
    """What an outer step of batched tasks adds to the gradients of a learner.

    Attributes:
        active: they are captured, or will be.

    Raises:
        UserError: `engine.graphs` is `on`, and they can't be.
    """

    def __init__(
        self, config: TrialConfig, learner: Learner, update: OuterStep, device: torch.device, *, vectorized: bool
    ) -> None:
        graphs = graphs_of(config, device)
        self._reason = _reason(config, learner, update, vectorized=vectorized) if graphs else ""
        self.active = graphs is not None and not self._reason
        if self._reason and config.engine.graphs == "on":
            raise UserError(f"engine.graphs: found 'on', but {self._reason}; allowed: auto, off")
        if graphs is not None and isinstance(update, OuterUpdate):
            self._learner, self._update, self._seed = learner, update, config.seed
            self._program = Program(learner, vectorized=True, per_task=update.per_task)
            self._weight = 1 / config.outer.tasks_per_step if config.outer.reduction == "mean" else 1.0
            self._captured = Captured(self._computed, graphs)

    @property
    def problem(self) -> str:
        """Why they are not captured where that would be faster, or ""."""
        error = self._captured.problem if self.active else None
        return f"{type(error).__name__}: {error}" if error else self._reason

    def add(self, outer_step: int, tasks: Tasks, progress: float, drawn: list[Any]) -> Tensor:
        """Add the gradients of all tasks of an outer step; returns their mean loss, []."""
        device, learner = tasks.device, self._learner
        state = {name: tensor.detach() for name, tensor in learner.named_parameters()} | dict(learner.named_buffers())
        words = sent(as_words((self._seed, outer_step)), device)
        share = torch.full((), progress, dtype=torch.float64, device=device)
        inputs = (words, tasks.support, tasks.query, share, drawn)
        losses, found = self._captured(phase_of(learner, progress), state, inputs)
        self._update.add(found)
        mean: Tensor = losses.double().mean()  # the losses are overwritten at the next call
        return mean

    def _computed(self, phase: Any, state: dict[str, Tensor], inputs: tuple[Any, ...]) -> tuple[Tensor, Any]:
        """Losses [T], and gradients by name as the outer step weighs them."""
        words, count, per_task = inputs[0], len(inputs[1].x), self._update.per_task
        keys = keys_of(words[0], words[1], torch.arange(count, dtype=torch.int32, device=words.device))

        def losses_of(own: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            named = {f"learner.{name}": tensor for name, tensor in (rest if per_task else rest | own).items()}
            found: Tensor = torch.func.functional_call(self._program, named, (phase, own, keys, *inputs[1:]))
            return found

        def spread(tensor: Tensor) -> Tensor:
            return tensor.expand(count, *tensor.shape)

        if not per_task:
            return with_gradients(losses_of, state, self._update.learned, self._weight)
        losses, each = with_gradients(losses_of, state, self._update.learned, 1.0, spread)
        return losses, {name: g.sum(0) * self._weight for name, g in torch.vmap(self._update.clipped)(each).items()}


def _reason(config: TrialConfig, learner: Learner, update: OuterStep, *, vectorized: bool) -> str:
    """Why a trial's outer steps can't be captured, or ""."""
    if not vectorized:
        return one_by_one(config, learner) or "engine.tasks computes one after the other"
    asks_for_more = not isinstance(update, OuterUpdate)
    return f"outer.optimizer {config.outer.optimizer} asks for more than gradients" if asks_for_more else ""
