"""The functional inner loop: gradients of a task's loss, first and second order, looped over or batched with vmap."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raymeta.engine.noise import Noise
from raymeta.models.backbone import Weights
from raymeta.models.norm import Moments, Pass

if TYPE_CHECKING:
    from raymeta.learner import Regularizer


ON_PASSES = ("on_weights", "on_convolution", "on_block", "on_outputs")  # the hooks that a `Pass` carries


@dataclass(frozen=True)
class Context:
    """What surrounds a task: how it is to be computed and what may change its maths.

    Attributes:
        training: False in evaluation, where no outer graph is built and regularizers are off.
        progress: outer steps done over the full budget, 0 to 1; schedules are keyed to it.
        vectorized: the task is one of a batch under vmap.
        noise: where a regularizer draws random numbers; None if nothing draws any.
        regularizers: the hooks to call, in the order of the composition; in evaluation those that act there too.
        task: which of the outer step's tasks it is; under vmap the batched index, [] as a task sees it.
        steps: inner steps; None: as many as the learner's settings say.
        ways: classes of the task where tasks differ in them; None: as many as `task.ways` says.
    """

    training: bool
    progress: float = 0.0
    vectorized: bool = False
    noise: Noise | None = None
    regularizers: tuple["Regularizer", ...] = ()
    task: int | Tensor = 0
    steps: int | None = None
    ways: int | None = None

    def at(self, step: int = 0, moments: Moments | None = None, *, query: bool = False) -> Pass:
        """A forward pass of this task: at an inner step, normalised with given statistics or its own."""
        hooks: dict[str, Any] = {name: tuple(getattr(one, name) for one in self.having(name)) for name in ON_PASSES}
        return Pass(
            self.training, step, self.vectorized, moments,
            query=query, task=self.task, ways=self.ways, noise=self.noise, **hooks,
        )  # fmt: skip

    def having(self, hook: str) -> tuple["Regularizer", ...]:
        """The regularizers that have a hook of this name."""
        return tuple(one for one in self.regularizers if one.has(hook))

    @property
    def perturbed(self) -> bool:
        """Passes over the same images are not alike: regularizers change weights or activations."""
        return any(self.having(name) for name in ON_PASSES)

    @property
    def samples(self) -> int:
        """Noisy passes whose mean is the support loss of an inner step."""
        return max((one.samples(self.training) for one in self.regularizers), default=1)


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


def regularized(gradients: Weights, context: Context) -> Weights:
    """Inner gradients after all regularizers had their say."""
    for regularizer in context.having("on_inner_gradients"):
        gradients = regularizer.on_inner_gradients(gradients, context)
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
        weights: everything that the loss depends on by name: the model's weights theta, and whatever a method adds.
        adapted: names of the tensors that move; the rest are passed through.
        update: (step, adapted tensors, their gradients) to the new adapted tensors: the method's rule.
        steps: S.
        second_order: let outer gradients flow through the inner gradients; never done in evaluation.
        context: the gradients pass through its regularizers before the update.

    Returns:
        The weights before the first update and after each, S + 1 of them.
    """
    names = list(adapted)
    second_order = second_order and context.training
    path = [weights]
    for step in range(steps):
        frozen = weights if second_order else {name: weight.detach() for name, weight in weights.items()}
        moving = {name: weights[name] for name in names}
        found = gradients(
            lambda moving, step=step, frozen=frozen: loss({**frozen, **moving}, step),  # type: ignore[misc]
            moving,
            second_order=second_order,
            vectorized=context.vectorized,
        )
        weights = {**weights, **update(step, moving, regularized(found, context))}
        path.append(weights)
    return path
