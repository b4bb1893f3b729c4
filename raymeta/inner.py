"""The functional inner loop: gradients of a task's loss, first and second order, looped over or batched with vmap."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raymeta.engine.noise import EVALUATION, Noise, task_keys
from raymeta.engine.tasks import Examples, Tasks, for_each
from raymeta.engine.transfer import sent
from raymeta.models.passes import Changes, Moments, Pass, Weights

if TYPE_CHECKING:
    from raymeta.hooks import Hooks
    from raymeta.learner import Learner


@dataclass(frozen=True)
class Phase:
    """What of a learner's program changes over the budget: two moments of one phase are computed alike."""

    second_order: bool


@dataclass(frozen=True)
class Context:
    """What surrounds a task: how it is to be computed and what may change its maths.

    Attributes:
        training: False in evaluation, where no outer graph is built and most regularizers are off.
        progress: outer steps done over the full budget, 0 to 1; schedules are keyed to it. In lanes a tensor [].
        vectorized: the task is one of a batch under vmap.
        noise: where hooks draw random numbers; None if there are none.
        hooks: what acts in the task, in the order of the composition.
        task: which of the outer step's tasks it is; under vmap the batched index, [] as a task sees it.
        steps: inner steps; None: as many as the learner's settings say.
        outputs: of the model that the task uses where tasks differ in them; None: all.
        phase: which program a learner with an inner loop runs; None: as it says of the progress.
        mixed: it is one of lanes, which may differ in settings marked `MIXED`: those are read from tensors.
    """

    training: bool
    progress: float | Tensor = 0.0
    vectorized: bool = False
    noise: Noise | None = None
    hooks: tuple["Hooks", ...] = ()
    task: int | Tensor = 0
    steps: int | None = None
    outputs: int | None = None
    phase: Phase | None = None
    mixed: bool = False

    def of_task(self, number: int | Tensor, noise: Noise, hooks: tuple["Hooks", ...]) -> "Context":
        """What surrounds one of the tasks that this surrounds."""
        return replace(self, task=number, noise=noise, hooks=hooks)

    def at(self, step: int = 0, moments: Moments | None = None, *, query: bool = False) -> Pass:
        """A forward pass of this task: at an inner step, normalised with given statistics or its own."""
        every = self.hooks
        return Pass(
            self.training, step, self.vectorized, moments,
            query=query, task=self.task, outputs=self.outputs, noise=self.noise,
            cuts_head=any(one.cuts_head for one in every),
            on_weights=_used(one.weights for one in every), on_convolution=_used(one.convolution for one in every),
            on_block=_used(one.block for one in every), on_outputs=_used(one.outputs for one in every),
        )  # fmt: skip

    @property
    def perturbed(self) -> bool:
        """Passes over the same examples are not alike: hooks change weights or activations."""
        now = self.at()
        return bool(now.on_weights or now.on_convolution or now.on_block or now.on_outputs)

    @property
    def samples(self) -> int:
        """Noisy passes whose mean is the support loss of an inner step."""
        return max((one.samples for one in self.hooks), default=1)


def in_evaluation(
    learner: "Learner", task: "Tasks", number: int = 0, *, outputs: int | None = None, steps: int | None = None
) -> Context:
    """What surrounds one task in evaluation, as in `raymeta.problem.predictions`: the noise from its start.

    Args:
        learner: with its present weights.
        task: one task, T = 1.
        number: of the task in its bank.
        outputs: that the task uses; None: as tasks of a bank do.
        steps: inner steps; None: the learner's own.
    """
    key = task_keys(0, 0, torch.full((1,), number, dtype=torch.int32, device=task.device), EVALUATION)[0]
    plain = Context(False, steps=steps, outputs=outputs or learner.problem.outputs_of(task))
    return plain.of_task(0, Noise(key), learner.hooks(task, plain))


def _used(hooks: Iterable[Any]) -> Changes:
    return tuple(hook for hook in hooks if hook is not None)


def gradients(loss: Callable[[Weights], Tensor], weights: Weights, *, second_order: bool, vectorized: bool) -> Weights:
    """Gradients of a scalar loss for the given weights.

    In second order they stay a function of whatever `weights` depend on; in first order they are constants and nothing
    of the pass is kept (Finn et al. 2017, section 5.2).
    """
    if not second_order:
        weights = {name: weight.detach() for name, weight in weights.items()}
    if vectorized:
        result: Weights = torch.func.grad(loss)(weights)
        # Else they would still depend on learned tensors that the loss uses beside the weights.
        return result if second_order else {name: gradient.detach() for name, gradient in result.items()}
    with torch.enable_grad():
        # Each is a variable of its own: a view cuts off what one owes to another (Proto-MAML's head, made from the
        # body), and what depends on nothing yet, a frozen weight or a context vector of zeros, becomes a leaf.
        weights = {n: w.view_as(w) if w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
        values = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=second_order)
    return dict(zip(weights, values, strict=True))


@dataclass(frozen=True)
class Step:
    """An inner step, as hooks see it.

    Attributes:
        number: of the step, from 0.
        loss: the support loss as a function of the adapted tensors, the others being as they are at this step.
        weights: the adapted tensors, where the gradients are taken.
        gradients: of the loss for them.
    """

    number: int
    loss: Callable[[Weights], Tensor]
    weights: Weights
    gradients: Weights


def regularized(step: Step, context: Context) -> Weights:
    """The gradients of an inner step after all hooks had their say; those that only look see what is left to them."""
    gradients = step.gradients
    for hooks in context.hooks:
        if hooks.inner_step is not None:
            hooks.inner_step(replace(step, gradients=gradients), context)
        if hooks.inner_gradients is not None:
            gradients = hooks.inner_gradients(gradients, context)
    return gradients


def descend(
    loss: Callable[[Weights, int], Tensor],
    weights: Weights,
    adapted: Iterable[str],
    update: Callable[[int, Weights, Weights], Weights],
    *,
    steps: int,
    second_order: bool,
    context: Context,
) -> list[Weights]:
    """Run the inner loop of one task.

    Args:
        loss: the support loss under (weights, step).
        weights: everything that the loss depends on by name: the model's weights theta, and whatever a learner adds.
        adapted: names of the tensors that move; the rest are passed through.
        update: (step, adapted tensors, their gradients) to the new adapted tensors: the learner's rule.
        steps: S.
        second_order: let outer gradients flow through the inner gradients; never done in evaluation.
        context: the gradients pass through its hooks before the update.

    Returns:
        The weights before the first update and after each, S + 1 of them.
    """
    names = list(adapted)
    second_order = second_order and context.training
    path = [weights]
    for step in range(steps):
        frozen = weights if second_order else {name: weight.detach() for name, weight in weights.items()}
        moving = {name: weights[name] for name in names}

        def of_moving(moving: Weights, step: int = step, frozen: Weights = frozen) -> Tensor:
            return loss({**frozen, **moving}, step)

        found = gradients(of_moving, moving, second_order=second_order, vectorized=context.vectorized)
        used = regularized(Step(step, of_moving, moving, found), context)
        weights = {**weights, **update(step, moving, used)}
        path.append(weights)
    return path


@dataclass(frozen=True)
class Player:
    """The learner of now in the hands of a bank that makes its examples with it: rollouts of its policy, say.

    It adapts to what a bank has drawn so far and acts, exactly as the outer step or the evaluation does later: the same
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


def predictions(
    learner: "Learner", tasks: Tasks, vectorized: bool, numbers: int | Sequence[int] = 0, steps: int | None = None
) -> Tensor:
    """Outputs for the query sets in evaluation, each task adapted to by itself: [T, n, outputs].

    Args:
        learner: with its present weights.
        tasks: T of them.
        vectorized: batch them with vmap.
        numbers: of the tasks in their bank, the first or all, the seeds of what noise there is in evaluation.
        steps: inner steps; None: the learner's own.
    """
    if isinstance(numbers, int):
        numbers = range(numbers, numbers + tasks.size)
    keys = task_keys(0, 0, sent(torch.tensor(numbers, dtype=torch.int32), tasks.device), EVALUATION)
    plain = Context(False, vectorized=vectorized, steps=steps, outputs=learner.problem.outputs_of(tasks))
    hooks = learner.hooks(tasks, plain)

    def predict(number: int | Tensor, key: Tensor, support: Examples, x: Tensor) -> Tensor:
        context = plain.of_task(number, Noise(key), hooks)
        return learner.predict(learner.adapt(Examples(*support), context), x)

    found = for_each(predict, keys, tasks.support, tasks.query.x, vectorized=vectorized)
    return found if isinstance(found, Tensor) else torch.stack(found)
