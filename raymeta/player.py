"""The learner of now in the hands of a bank that makes its examples with it: rollouts of its policy, say."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raymeta.engine.noise import EVALUATION, Noise, task_keys
from raymeta.engine.tasks import Examples, Tasks
from raymeta.inner import Context

if TYPE_CHECKING:
    from raymeta.hooks import Hooks
    from raymeta.learner import Learner


@dataclass(frozen=True)
class Player:
    """Adapts to what a bank has drawn so far and acts, exactly as the outer step or the evaluation does later: the same
    hooks, and of each task the same noise.

    Attributes:
        learner: with its present weights.
        context: what surrounds the tasks, but for what differs between them.
        keys: of the tasks' noise, int32 [T, 2].
        hooks: what the regularizers do in tasks.
    """

    learner: "Learner"
    context: Context
    keys: Tensor
    hooks: Callable[[Tasks], tuple["Hooks", ...]]

    @classmethod
    def in_evaluation(cls, learner: "Learner", first: int, count: int, steps: int | None = None) -> "Player":
        """For tasks `first` .. `first + count - 1` of a bank."""
        context = Context(False, steps=steps)
        keys = task_keys(0, 0, torch.arange(first, first + count, dtype=torch.int32), EVALUATION)
        return cls(learner, context, keys, lambda tasks: learner.hooks(tasks, context))

    @property
    def steps(self) -> int:
        """Inner steps that the tasks are adapted with in the end, of learners that make any."""
        return self.learner.steps(self.context)  # type: ignore[operator, no-any-return]

    def adapted(self, support: Examples, steps: int) -> list[Any]:
        """The learner's state after some inner steps on each task's support, x and y [T, ...]."""
        tasks = Tasks(support, support)
        plain = replace(self.context, vectorized=False, steps=steps)
        hooks = self.hooks(tasks)
        with torch.no_grad():
            return [
                self.learner.adapt(tasks.task(i).support, plain.of_task(i, Noise(self.keys[i]), hooks))
                for i in range(tasks.size)
            ]

    def outputs(self, adapted: Any, x: Tensor) -> Tensor:
        """Outputs [n, outputs] for inputs [n, ...] under such a state."""
        with torch.no_grad():
            return self.learner.predict(adapted, x)

    @property
    def dtype(self) -> torch.dtype:
        """Of the learner's weights."""
        return next(self.learner.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.learner.parameters()).device
