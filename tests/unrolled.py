"""What tests of single methods share: small learners, their outer gradients, and what these are compared with.

The unrolled side takes the meta-learned tensors by name and knows nothing else of raymeta. A test writes the method's
own rule down for it, from the equations.
"""

import gc
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import Network, Random, Weights, conv4, dense, learner, mlp
from torch import Tensor

from raymeta.hooks import Hooks
from raymeta.inner import Context
from raymeta.learner import Learner, task_loss
from raymeta.problem import Examples, Task, Tasks

TRAINING, EVALUATION = Context(training=True), Context(training=False)
ALPHA = 0.125  # a float32 that is exact
Rule = Callable[[int, Weights, Weights], Weights]  # (step, adapted tensors, their gradients) to the new ones
Loss = Callable[[Weights, Weights, Task], Tensor]  # (theta, what else is learned, task) to the outer loss
Gradient = tuple[float, Weights]  # mean outer loss of the tasks, its gradient for all that is learned


class Case:
    """Learners of one method on one kind of data, with tasks and a slow network to compare with.

    Args:
        data: conv4 or mlp, on images or vectors.
    """

    def __init__(self, data: str) -> None:
        self.images = data == "conv4"
        self.problem = Random((1, 16, 16)) if self.images else Random((3,), "values")
        self.network: Network = conv4() if self.images else mlp

    def tasks(self, count: int) -> list[Task]:
        return self.problem.tasks(count)

    def learner(self, method: str, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
        """In float64, three steps of ALPHA, what the method adds to theta moved off its regular start."""
        small = {"name": "conv4", "width": 6, "norm": "batch"} if self.images else {"name": "mlp", "hidden": [6, 5]}
        settings = {"inner_lr": ALPHA, "inner_steps": 3, **settings}
        made = learner(self.problem, method=method, model={**small, **(model or {})}, **{method: settings})
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if beside_theta(name):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return made

    def maml(self, like: Learner, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
        """MAML from the weights of another learner."""
        made = self.learner("maml", model, **settings)
        made.model.load_state_dict(like.model.state_dict())
        return made


def everything(name: str) -> bool:
    return True


def no_norm(name: str) -> bool:
    return ".norm." not in name


def beside_theta(name: str) -> bool:
    return not name.startswith("model.")


IMAGES, VECTORS = Case("conv4"), Case("mlp")
BOTH = pytest.mark.parametrize("case", [IMAGES, VECTORS], ids=["conv4", "mlp"])
ORDERS = pytest.mark.parametrize("order", ["first", "second"])


# The learner's side


def predict(method: Learner, task: Task, context: Context = EVALUATION) -> Tensor:
    return method.predict(method.adapt(task.support, context), task.query.x)


def outer_loss(method: Learner, tasks: list[Task], context: Context = TRAINING) -> Tensor:
    """Of the tasks, looped over or batched, with what the context's regularizers make of it."""

    def loss(support: Examples, query: Examples) -> Tensor:
        return task_loss(method, Task(Examples(*support), Examples(*query)), context)

    if context.vectorized:
        return torch.vmap(loss)(*together(tasks)).mean()
    return torch.stack([loss(*task) for task in tasks]).mean()


def together(tasks: list[Task]) -> Tasks:
    """Tasks of one shape, stacked."""
    return Tasks(*(Examples(*map(torch.stack, zip(*part, strict=True))) for part in zip(*tasks, strict=True)))


def hooks_of(
    method: Learner, context: Context = TRAINING, seed: int = 0, tasks: list[Task] | None = None
) -> tuple[Hooks, ...]:
    """What a learner's regularizers do in tasks, by default in one of its problem of noise."""
    drawn = together(tasks or method.problem.tasks(1))  # type: ignore[attr-defined]
    return method.hooks(drawn, context, torch.Generator().manual_seed(seed))


def learned(method: Learner) -> Weights:
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def outer_gradient(method: Learner, tasks: list[Task], context: Context = TRAINING) -> Gradient:
    return _differentiate(outer_loss(method, tasks, context), learned(method))


def assert_batched_is_looped(method: Learner, tasks: list[Task], context: Context = TRAINING) -> None:
    """Under vmap over tasks: loss, every gradient, and the predictions in evaluation."""
    batched = Context(context.training, context.progress, vectorized=True)
    assert_same(outer_gradient(method, tasks, batched), outer_gradient(method, tasks, context), loss=1e-12)
    with torch.no_grad():
        predicted = torch.vmap(lambda *task: predict(method, Task(*task), Context(False, vectorized=True)))
        found = predicted(*together(tasks))
        alone = torch.stack([predict(method, task) for task in tasks])
    assert found.grad_fn is None
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-11)


def assert_evaluation_only_predicts(method: Learner, tasks: list[Task]) -> None:
    """As training would, whatever came before; nothing changes, nothing is kept, even the inner loop makes no graph."""
    steps, running = getattr(method.settings, "inner_steps", 0), method.model.norm_mode == "running"
    expected = None if running else [predict(method, task, TRAINING).detach() for task in tasks]
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with torch.no_grad():
        with patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
            for task in tasks:
                adapted = method.adapt(task.support, EVALUATION)
                found = list(_tensors([adapted, method.predict(adapted, task.query.x)]))
                assert len(found) > 1
                assert all(tensor.grad_fn is None for tensor in found)
        assert grad.call_count >= steps * len(tasks)
        assert not any(call.kwargs.get("create_graph") for call in grad.call_args_list)
        there = [predict(method, task) for task in tasks]
        gc.freeze()  # what is there already is not counted
        order = [*reversed(range(len(tasks))), -1]
        alike = [torch.equal(predict(method, tasks[i]), there[i]) for i in order]
        gc.collect()
        kept = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
        gc.unfreeze()
    assert all(alike)
    assert kept == 0
    assert not torch.equal(there[0], there[1])
    if expected is not None:
        torch.testing.assert_close(there, expected, rtol=1e-10, atol=1e-12)
    state = method.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert all(parameter.grad is None for parameter in method.parameters())


def assert_orders_differ_in_the_gradient_only(make: Callable[..., Learner], tasks: list[Task]) -> None:
    """First order is no other adaptation: the same loss, another gradient."""
    (loss, first), (same_loss, second) = (outer_gradient(make(order=order), tasks) for order in ("first", "second"))
    assert abs(loss - same_loss) < 1e-10 * abs(loss)
    assert relative_error(first, second, floor=1) > 1e-3


def finite_difference_error(
    method: Learner,
    tasks: list[Task],
    names: Callable[[str], bool] = everything,
    context: Context = TRAINING,
    step: float = 1e-5,
) -> float:
    """Of the gradient for the named tensors, every element of them, against central differences of the loss."""
    found = {name: gradient for name, gradient in outer_gradient(method, tasks, context)[1].items() if names(name)}
    parameters, numeric = dict(method.named_parameters()), {}
    for name in found:
        elements, numeric[name] = parameters[name].data, torch.empty_like(found[name])
        for place in np.ndindex(*elements.shape):
            start, losses = float(elements[place]), []
            for moved in (start + step, start - step):
                elements[place] = moved
                losses.append(float(outer_loss(method, tasks, context).detach()))
            elements[place] = start
            numeric[name][place] = (losses[0] - losses[1]) / (2 * step)
    assert max(float(gradient.norm()) for gradient in numeric.values()) > 1e-4, "nothing to compare"
    # Of a gradient of zero the difference is a unit in the loss's last place over the step.
    return relative_error(found, numeric, floor=1e-3)


# The slow side


def expected_gradient(method: Learner, tasks: list[Task], loss: Loss) -> Gradient:
    """As `outer_gradient`, of a loss of copies of the learner's tensors: theta by the backbone's names."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in method.named_parameters()}
    theta = {name.removeprefix("model."): leaf for name, leaf in leaves.items() if not beside_theta(name)}
    others = {name: leaf for name, leaf in leaves.items() if beside_theta(name)}
    total = torch.stack([loss(theta, others, task) for task in tasks]).mean()
    return _differentiate(total, {name: leaves[name] for name in learned(method)})


def assert_gradient(method: Learner, tasks: list[Task], loss: Loss, context: Context = TRAINING) -> None:
    """The method's outer loss and gradient are those of the slow loss."""
    assert_same(outer_gradient(method, tasks, context), expected_gradient(method, tasks, loss))


def descent(rate: Callable[[int, str], Any]) -> Rule:
    """By a rate of (step, name)."""
    return lambda step, moving, g: {name: weight - rate(step, name) * g[name] for name, weight in moving.items()}


MAML = descent(lambda step, name: ALPHA)


def unrolled_loss(
    network: Network,
    start: Weights,
    task: Task,
    rule: Rule = MAML,
    *,
    steps: int = 3,
    order: str = "second",
    adapted: Callable[[str], bool] = no_norm,
    norm: str = "batch",
) -> Tensor:
    """The query's after an inner loop."""
    path = unroll(network, start, task, rule, steps=steps, order=order, adapted=adapted)
    return query_loss(network, path[-1], task, step=max(steps - 1, 0), norm=norm)


def unroll(
    network: Network,
    start: Weights,
    task: Task,
    rule: Rule,
    *,
    steps: int,
    order: str = "second",
    adapted: Callable[[str], bool] = no_norm,
) -> list[Weights]:
    """The weights of a task before the first step and after each."""
    path = [start]
    for step in range(steps):
        moving = {name: weight for name, weight in path[-1].items() if adapted(name)}
        gradients = support_gradient(network, path[-1], task, moving, step=step)
        if order == "first":
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        path.append({**path[-1], **rule(step, moving, gradients)})
    return path


def support_gradient(network: Network, weights: Weights, task: Task, names: Iterable[str], *, step: int = 0) -> Weights:
    """Of the support loss, differentiable; what one tensor owes to another (a head made of the body) is no part."""
    weights = {name: weight.clone() for name, weight in weights.items()}
    names = list(names)
    loss = _loss(network(task.support.x, weights, step, None), task.support.y)
    found = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=True)
    return dict(zip(names, found, strict=True))


def query_loss(network: Network, weights: Weights, task: Task, *, step: int = 0, norm: str = "batch") -> Tensor:
    """Of the weights after inner step `step`."""
    return _loss(network(task.query.x, weights, step, task.support.x if norm == "support" else None), task.query.y)


def alfas_rule(learned: Weights, state: str = "both") -> Rule:
    """ALFA's update, from the paper's equations."""
    c = [tensor for name, tensor in learned.items() if name.startswith("rule.scales.")]

    def update(step: int, moving: Weights, gradients: Weights) -> Weights:
        tau = [] if state == "gradients" else [weight.mean() for weight in moving.values()]
        tau += [] if state == "weights" else [gradient.mean().detach() for gradient in gradients.values()]
        A, W = dense(learned, "rule.generator.", torch.stack(tau)).chunk(2)
        new = {}
        for p, (name, weight) in enumerate(moving.items()):
            decay = W[p] * learned["rule.decays"][p, step] * (c[p] if c else 1.0)
            new[name] = (1 - decay) * weight - A[p] * learned["rule.rates"][p, step] * gradients[name]
        return new

    return update


# Both


def relative_error(found: Weights, expected: Weights, floor: float = 1e-6) -> float:
    """The largest of all tensors, each by its own norm, or by `floor` of the largest norm: some gradients are zero."""
    assert found.keys() == expected.keys()
    apart = torch.stack([(found[name] - tensor).norm() for name, tensor in expected.items()])
    sizes = torch.stack([tensor.norm() for tensor in expected.values()])
    assert sizes.max() > 0
    return float((apart / sizes.clamp(min=floor * float(sizes.max()))).max())  # torch's max: nan is no small error


def assert_same(found: Gradient, expected: Gradient, error: float = 1e-8, loss: float = 1e-10) -> None:
    assert abs(found[0] - expected[0]) < loss * abs(expected[0])
    assert relative_error(found[1], expected[1]) < error


def _loss(outputs: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(outputs, wanted) if wanted.is_floating_point() else F.cross_entropy(outputs, wanted)


def _differentiate(loss: Tensor, tensors: Weights) -> Gradient:
    found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    pairs = zip(tensors.items(), found, strict=True)
    return float(loss.detach()), {name: torch.zeros_like(t) if g is None else g for (name, t), g in pairs}


def _tensors(thing: Any) -> Iterable[Tensor]:
    """All in dataclasses, mappings and sequences."""
    if isinstance(thing, Tensor):
        yield thing
    elif is_dataclass(thing):
        yield from _tensors([getattr(thing, field.name) for field in fields(thing)])
    elif isinstance(thing, dict):
        yield from _tensors(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _tensors(part)
