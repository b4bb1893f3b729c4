"""The outer step: what is done with the tasks of one, found by the name in `outer.optimizer`.

`adam` and `sgd` follow the tasks' gradients: how these are clipped, which optimizer follows them, with which step size
at which moment. Others ask for more than gradients; see `Landscape`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.config.sections import OuterConfig
from raymeta.engine.tasks import for_each
from raymeta.errors import UserError
from raymeta.learner import Learner
from raymeta.learner.program import OfLearner
from raymeta.schema import Section

Gradients = dict[str, Tensor]  # by parameter name


class Landscape(Protocol):
    """The tasks of an outer step, as they look from wherever the learned parameters are."""

    def outer_gradient(self) -> Tensor:
        """Add the gradients of the tasks' losses to the parameters'; returns the mean loss, []."""
        ...

    def surface(self, clip: float | None = None) -> "Surface":
        """The tasks, drawn once; what it gives can be asked again at other values of the parameters.

        Args:
            clip: of the loss, as `Problem.outer_loss` has it.
        """
        ...


Surface = Callable[[], tuple[Tensor, Tensor]]
"""() to the mean outer loss and the mean of `Problem.distance` over the tasks, [] each, with their graph."""


class OuterStep(ABC):
    """What an outer step does to the meta-learned parameters of a learner, by the `outer` section of a trial.

    A new one is a subclass under `@registry.outer("mine")` in a module that an entry point of `raymeta.outersteps`
    names; its `Config` has the key that chooses it, `optimizer: Literal["mine"]`, and `tasks_per_step`.

    Attributes:
        Config: the section `outer`.
        learned: the parameters by name.

    Raises:
        UserError: the learner has nothing that a key is about.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Section]]

    def __init__(self, config: TrialConfig, learner: Learner) -> None:
        self.learned = {name: p for name, p in learner.named_parameters() if p.requires_grad}

    def begin(self, outer_step: int) -> None:  # noqa: B027
        """Make ready for an outer step."""

    @abstractmethod
    def follow(self, tasks: Landscape) -> Tensor:
        """Do the outer step; returns the mean loss that it followed, []."""

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the parameters."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from `state_dict`."""

    def backward(self, loss: Tensor, weight: float) -> None:
        """Add the gradient of a loss of tasks."""
        torch.autograd.backward(loss * weight)

    def batched(self, learner: Learner, loss: Callable[..., Tensor], arguments: Sequence[Any], weight: float) -> Tensor:
        """Add the gradients of the losses of tasks that are batched by vmap.

        Args:
            learner: whose parameters these are.
            loss: of a task, from its number and its own of each argument, [].
            arguments: tensors [T, ...], or tuples of them.
            weight: of each task.

        Returns:
            The losses, [T].
        """
        losses: Tensor = for_each(loss, *arguments, vectorized=True)  # type: ignore[assignment]
        torch.autograd.backward(losses.sum() * weight)
        return losses.detach()


def refuse_without_policy(outer: str, learner: Learner) -> None:
    """Say that an outer step has no meaning without a policy.

    Raises:
        UserError: the learner's problem is of none.
    """
    if "policy" not in learner.problem.offers:
        raise UserError(
            f"outer.optimizer: found '{outer}', but {learner.problem.name} has no policy whose moves it could limit; "
            "allowed: adam, sgd"
        )


class OuterUpdate(OuterStep):
    """The outer update of a learner's meta-learned parameters by an optimizer of PyTorch's.

    `sgd` is PyTorch's: v <- momentum v + g, and lr (g + momentum v) is the step with Nesterov's momentum, lr v without.
    Weight decay is added to the gradient, weight_decay * parameter, for both (Adam's is not the decoupled one), after
    clipping. It is thus the same as weight_decay / 2 times the sum of squares, added to the outer loss.

    Attributes:
        optimizer: of all of them.
        outer: the section.
        names: of the parameters, by group of the optimizer.
        per_task: gradients are clipped task by task, before they are put together.
    """

    Config: ClassVar[type[Section]] = OuterConfig

    def __init__(self, config: TrialConfig, learner: Learner) -> None:
        super().__init__(config, learner)
        outer: OuterConfig = config.outer
        self._steps = config.budget.outer_steps
        self._kinds = _kinds(outer, learner, self.learned)
        self.names = [list(group) for group in self._kinds.values()]
        self.optimizer = _optimizer(outer, [[self.learned[name] for name in group] for group in self.names])
        self._restarted = _restarted(outer, learner, self.learned)
        self._clipped = _clipped(outer, learner, self.learned)
        self.outer = outer
        self.per_task = bool(self._clipped) and outer.clip_when == "per_task"

    def begin(self, outer_step: int) -> None:
        """Make ready for the gradients of an outer step."""
        outer = self.outer
        for group, kind in zip(self.optimizer.param_groups, self._kinds, strict=True):
            group["lr"] = rate(outer, outer_step / self._steps, added=kind.added) * kind.factor
            group["weight_decay"] = outer.weight_decay if kind.decays else 0.0  # a checkpoint may have other numbers
        if outer.restart_every is not None and outer_step % outer.restart_every == 0:
            for parameter in self._restarted:
                self.optimizer.state.pop(parameter, None)
        self.optimizer.zero_grad(set_to_none=True)

    def follow(self, tasks: Landscape) -> Tensor:
        loss = tasks.outer_gradient()
        self.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        # That of a lane is made before its first step.
        return state | {"state": {key: own for key, own in state["state"].items() if own.get("step", 1) > 0}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)

    def step(self) -> None:
        """Clip the parameters' gradients, unless that was done per task, and follow them."""
        if self._clipped and not self.per_task:
            found = {name: p.grad for name, p in self.learned.items() if p.grad is not None}
            for name, gradient in self.clipped(found).items():
                self.learned[name].grad = gradient
        self.optimizer.step()

    def clipped(self, gradients: Gradients, most: Tensor | None = None) -> Gradients:
        """Gradients, of one task or of an outer step, as `outer.clip`, `clip_norm` and `clip_scope` have them.

        A gradient that is not finite stays so, but for an infinite one that is clipped by value.

        Args:
            gradients: by name.
            most: of a lane, [], float64, in place of the number of this trial.
        """
        found, outer = dict(gradients), self.outer
        for part in self._clipped:
            own = {name: gradients[name] for name in part if name in gradients}
            if outer.clip is not None:
                found |= {name: _of_size(g, outer.clip if most is None else most) for name, g in own.items()}
            elif own and outer.clip_norm is not None:
                found |= _of_norm(own, outer.clip_norm if most is None else most)
        return found

    def backward(self, loss: Tensor, weight: float) -> None:
        """Add the gradient of a loss, of one task where gradients are clipped per task."""
        if not self.per_task:
            super().backward(loss, weight)
            return
        values = torch.autograd.grad(loss, list(self.learned.values()), allow_unused=True)
        found = {name: g for name, g in zip(self.learned, values, strict=True) if g is not None}
        self.add({name: g * weight for name, g in self.clipped(found).items()})

    def batched(self, learner: Learner, loss: Callable[..., Tensor], arguments: Sequence[Any], weight: float) -> Tensor:
        if not self.per_task:
            return super().batched(learner, loss, arguments, weight)
        # Every task has the parameters as tensors of its own, so that their gradients are not summed over tasks.
        count, of_learner = len(tree_leaves(arguments)[0]), OfLearner(learner, loss)
        each = {name: p.detach().expand(count, *p.shape).requires_grad_() for name, p in self.learned.items()}

        def with_own(number: Tensor, own: Gradients, *rest: Any) -> Tensor:
            named = {f"learner.{name}": parameter for name, parameter in own.items()}
            return torch.func.functional_call(of_learner, named, (number, *rest))  # type: ignore[no-any-return]

        losses: Tensor = for_each(with_own, each, *arguments, vectorized=True)  # type: ignore[assignment]
        values = torch.autograd.grad(losses.sum(), list(each.values()), allow_unused=True)
        found = {name: g for name, g in zip(each, values, strict=True) if g is not None}
        self.add({name: g.sum(0) * weight for name, g in torch.vmap(self.clipped)(found).items()})
        return losses.detach()

    def add(self, gradients: Gradients) -> None:
        """Add to the parameters' gradients, by name."""
        for name, gradient in gradients.items():
            parameter = self.learned[name]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@registry.outer("adam")
class Adam(OuterUpdate):
    """Adam (Kingma, Ba 2015)."""


@registry.outer("sgd")
class SGD(OuterUpdate):
    """Gradient descent, with momentum or without."""


def rate(outer: OuterConfig, share: float, *, added: bool = False) -> float:
    """The step size when a share of the full budget is done, 0 to 1.

    Args:
        outer: its schedule.
        share: of outer steps.
        added: that of `outer.added`, which may have steps of its own.
    """
    lr = outer.added.lr if added and outer.added.lr is not None else outer.lr
    if added and outer.added.milestones:
        return lr * _stair(share, outer.added.milestones, outer.added.factors)
    if outer.schedule == "cosine":
        return outer.min_lr + (lr - outer.min_lr) * (1 + math.cos(math.pi * share)) / 2
    if outer.schedule == "step":
        return lr * _stair(share, outer.milestones, outer.factors)
    if outer.schedule == "exponential":
        return float(lr * outer.decay ** math.floor(share / outer.every + EXACT))
    return lr


EXACT = 1e-9  # shares are quotients of outer steps: 0.3 of ten steps is to begin with the fourth


def _stair(share: float, milestones: Sequence[float], factors: Sequence[float]) -> float:
    passed = sum(share >= milestone - EXACT for milestone in milestones)
    return (1.0, *factors)[passed]


@dataclass(frozen=True)
class _Kind:
    """What parameters of one group of the optimizer have in common.

    Attributes:
        factor: of the step size.
        added: they are beside the model, and that has settings of its own.
        decays: weight decay is added to their gradients.
    """

    factor: float
    added: bool
    decays: bool


def _kinds(outer: OuterConfig, learner: Learner, learned: Mapping[str, nn.Parameter]) -> dict[_Kind, list[str]]:
    """Names of the parameters by their kind, in the order in which kinds appear."""
    factors = {id(p): float(one.lr_factor) for one in learner.regularizers for p in one.parameters()}  # type: ignore[arg-type]
    own = outer.added.lr is not None or bool(outer.added.milestones)
    norms = {f"model.{name}" for name in learner.model.norm_names()}
    found: dict[_Kind, list[str]] = {}
    for name, parameter in learned.items():
        decays = outer.decay_of == "all" or (parameter.ndim > 1 and name not in norms)
        kind = _Kind(factors.get(id(parameter), 1.0), own and not name.startswith("model."), decays)
        found.setdefault(kind, []).append(name)
    if own and not any(kind.added for kind in found):
        key = "lr" if outer.added.lr is not None else "milestones"
        raise UserError(f"outer.added.{key}: nothing is learned beside the model of {learner.name} here")
    return found


def _optimizer(outer: OuterConfig, groups: Sequence[Sequence[nn.Parameter]]) -> torch.optim.Optimizer:
    of_all = [{"params": list(group)} for group in groups]
    if outer.optimizer == "adam":
        return torch.optim.Adam(of_all, lr=outer.lr, weight_decay=outer.weight_decay)
    return torch.optim.SGD(
        of_all, lr=outer.lr, momentum=outer.momentum, nesterov=outer.nesterov, weight_decay=outer.weight_decay
    )


def _restarted(outer: OuterConfig, learner: Learner, learned: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Whose moments start over."""
    if outer.restart_of == "all":
        return list(learned.values())
    moved = {f"model.{name}" for name in getattr(learner, "adapted", ())}
    return [parameter for name, parameter in learned.items() if name not in moved]


def _clipped(outer: OuterConfig, learner: Learner, learned: Mapping[str, nn.Parameter]) -> list[list[str]]:
    """Names of what is clipped, in parts that have a norm each; none: nothing is."""
    if outer.clip is None and outer.clip_norm is None:
        return []
    if outer.clip_scope == "all":
        return [list(learned)]
    if outer.clip_scope == "model":
        return [[name for name in learned if name.startswith("model.")]]
    if outer.clip_scope == "head":
        head = {f"model.{name}" for name in learner.model.scope("head")}
        if not head & learned.keys():
            raise UserError(
                f"outer.clip_scope: found 'head', but {learner.name} learns no head; allowed: all, model, per_module"
            )
        return [[name for name in learned if name in head]]
    parts: dict[str, list[str]] = {}
    for name in learned:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return list(parts.values())


def _of_size(gradient: Tensor, most: float | Tensor) -> Tensor:
    if isinstance(most, Tensor):
        most = most.to(gradient.dtype)
        return gradient.clamp(-most, most)
    return gradient.clamp(-most, most)


def _of_norm(gradients: Gradients, most: float | Tensor) -> Gradients:
    """Gradients times min(1, most / (norm + 1e-6)), as PyTorch has it, with the Euclidean norm of all together.

    It is computed in float64, where squares of what is finite in float32 are too.
    """
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients.values()]
    scale = (most / (torch.stack(norms).square().sum().sqrt() + 1e-6)).clamp(max=1)
    return {name: gradient * scale.to(gradient.dtype) for name, gradient in gradients.items()}
