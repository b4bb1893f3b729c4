"""Learners that adapt by gradient steps.

`GradientLearner` owns the inner loop and every promise that it makes to regularizers; a learner of this kind says what
moves, from where and by which rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.hooks import Regularizer
from raymeta.inner import Context, Phase, Step, descend
from raymeta.learner.base import Learner
from raymeta.models import Pass, Weights
from raymeta.problem import Examples, Problem


@dataclass(frozen=True)
class Adapted:
    """A task's state after adaptation: the weights, and what the query pass must know."""

    weights: Weights
    query: Pass


@dataclass(frozen=True)
class Support:
    """A task's support set, as the steps of its inner loop see it: inputs prepared, labels or values, the context."""

    x: Any
    y: Tensor
    context: Context


class GradientLearner(Learner):
    """A learner that adapts by gradient steps. With nothing overridden it is MAML.

    It keeps every promise to regularizers: weights that they freeze stay as they are; a step's loss is the mean of as
    many noisy passes as they ask for; they change the gradients before the update does; passes are normalised with the
    statistics that `model.norm` says; and the same under vmap, in first and in second order.

    Attributes:
        adapted: names of what the inner loop moves, without what is frozen.
    """

    inner_loop: ClassVar[bool] = True

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        regularizers: list[Regularizer] = list(self.regularizers)  # type: ignore[arg-type]
        self.adapted = [name for name in self.moving() if not any(one.freezes(name) for one in regularizers)]
        if not self.adapted:
            raise UserError(f"{config.spec}: nothing is left for {self.name} to adapt")
        for regularizer in regularizers:
            if not any(regularizer.covers(name) for name in self.adapted):
                raise UserError(f"{config.spec}: {self.name} adapts nothing in the scope of {regularizer.name}")
        if self.model.norm_mode == "per_step":
            self._refuse_steps_without_norm()

    @property
    def idle(self) -> Mapping[str, str]:
        return {} if self.model.norm_names() else {"adapt_norm": "scales and shifts of a norm"}

    # What a learner may say of itself

    def moving(self) -> list[str]:
        """What the inner loop moves, by name: all weights that may move, but for the norm's unless `adapt_norm`."""
        fixed = self.model.fixed_names() | (frozenset() if self.settings.adapt_norm else self.model.norm_names())
        return [name for name in self.model.weights() if name not in fixed]

    def initial(self, support: Support) -> Weights:
        """Where a task's inner loop starts: theta, and whatever else the loss depends on."""
        return self.model.fitted(self.model.weights(), support.y)

    def step_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        """The loss that the inner loop descends, a function of (weights, step)."""

        def loss(weights: Weights, step: int) -> Tensor:
            now, samples = support.context.at(step), support.context.samples
            x, y = self.problem.of_step(Examples(support.x, support.y), step)
            losses = [self.loss(self.outputs(x, weights, now), y) for _ in range(samples)]
            return losses[0] if samples == 1 else torch.stack(losses).mean()

        return loss

    def update_of(self, support: Support) -> Callable[[int, Weights, Weights], Weights]:
        """How a task's moved tensors are updated, in `update`'s terms: by `update`, unless that depends on the task."""
        return self.update

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        """The moved tensors after a step, by the learner's rule."""
        return {name: weight - self.numbers.inner_lr * gradients[name] for name, weight in moving.items()}

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        """What is learned or made for an inner step beside the weights, by kind and tensor, as the step used it: a
        number for a tensor or one for each element. {}: there is nothing.

        Args:
            support: the task's.
            step: with the gradients that `update` was given.
        """
        return {}

    def phase(self, progress: float) -> Phase:
        """Which program is run when a share of the budget is done, 0 to 1."""
        settings, share = self.settings, self.settings.first_order_share
        return Phase(bool(settings.order == "second" and share < 1 and progress >= share))

    def outputs(self, x: Any, weights: Weights, now: Pass) -> Tensor:
        """Logits or values of prepared inputs under the weights of a task."""
        return self.model(x, weights, now)  # type: ignore[no-any-return]

    # The inner loop

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        path = descend(
            self.step_loss(own),
            self.initial(own),
            self.adapted,
            self.update_of(own),
            steps=self.steps(context),
            second_order=self.second_order(context),
            context=context,
        )
        return self.adapted_state(own, path)

    def unadapted(self, support: Examples, context: Context) -> Adapted:
        """The state before the first inner step."""
        own = self.prepared(support, context)
        return self.adapted_state(own, [self.initial(own)])

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.outputs(self.model.prepare(x), adapted.weights, adapted.query)

    def prepared(self, support: Examples, context: Context) -> Support:
        """A support set with what all steps share computed once."""
        return Support(self.model.prepare(support.x), support.y, context)

    def adapted_state(self, support: Support, path: list[Weights]) -> Adapted:
        """What the query is predicted with, from the weights before and after every step."""
        return Adapted(path[-1], self.query_pass(support, path[-1], max(len(path) - 2, 0)))

    def query_pass(self, support: Support, weights: Weights, step: int) -> Pass:
        """How the query is normalised after inner step `step`: in `support` mode with the support's statistics."""
        if self.model.norm_mode != "support":
            return support.context.at(step, query=True)
        self.outputs(support.x, weights, now := support.context.at(step))
        return support.context.at(step, now.recorded, query=True)

    def steps(self, context: Context) -> int:
        """Inner steps, in training or evaluation, unless the context says how many."""
        settings = self.settings
        if context.steps is not None:
            return context.steps
        if context.training or settings.eval_steps is None:
            return int(settings.inner_steps)
        return int(settings.eval_steps)

    def phase_of(self, context: Context) -> Phase:
        """The phase that a task is in. In lanes their progress is a tensor, and the phase is said beside it."""
        return context.phase or self.phase(context.progress)  # type: ignore[arg-type]

    def second_order(self, context: Context) -> bool:
        """Whether this outer step differentiates through the inner gradients; never in evaluation."""
        return context.training and self.phase_of(context).second_order

    def refuse_more_eval_steps(self) -> None:
        """Where something is learned for every inner step there is nothing for steps beyond them.

        Raises:
            UserError: evaluation takes more steps than training.
        """
        if (self.settings.eval_steps or 0) > self.settings.inner_steps:
            raise UserError(
                f"{self.name}.eval_steps: found {self.settings.eval_steps}, but {self.name} learns something for each "
                f"of its inner_steps ({self.settings.inner_steps}) and has nothing for more"
            )

    def _refuse_steps_without_norm(self) -> None:
        settings = self.settings
        if settings.inner_steps < 1:
            raise UserError(f"{self.name}.inner_steps: found 0, but model.norm per_step has a row for each of them")
        if self.model.norm_names() & set(self.adapted):
            raise UserError(
                f"{self.name} adapts the norm's scales and shifts here, but with model.norm per_step they are "
                "learned per step"
            )
        if (settings.eval_steps or 0) > settings.inner_steps:
            raise UserError(
                f"{self.name}.eval_steps: found {settings.eval_steps}, but model.norm per_step has only "
                f"inner_steps ({settings.inner_steps}) rows"
            )
