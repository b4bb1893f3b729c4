"""What tests of MAML's relatives share: small learners, outer gradients of all they learn, a plain unrolled loop.

The unrolled side takes the meta-learned tensors by name and knows nothing else of raymeta. A test writes the method's
own rule down for it, from the equations.
"""

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import pytest
import reference
import torch
import torch.nn.functional as F
from reference import CURVES, SMALL, Network, Random, Task, Weights, learner
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial
from raymeta.inner import Context
from raymeta.method import Method
from raymeta.schema import merge

TRAINING, EVALUATION = Context(training=True), Context(training=False)
ALPHA = 0.125  # a float32 that is exact
Rule = Callable[[int, Weights, Weights], Weights]  # (step, adapted tensors, their gradients) to the new ones


class Case:
    """Learners of one method on one kind of data, with tasks and a slow network to compare with.

    Args:
        data: conv4 or mlp, on images or vectors.
    """

    def __init__(self, data: str) -> None:
        self.images = data == "conv4"
        self.dataset = Random((1, 16, 16)) if self.images else Random((3,), "regression")
        self.network: Network = reference.conv4() if self.images else reference.mlp

    def tasks(self, count: int) -> list[Task]:
        return self.dataset.tasks(count)

    def learner(self, method: str, model: dict[str, Any] | None = None, **settings: Any) -> Method:
        """In float64, three steps of ALPHA, what the method adds to theta moved off its regular start."""
        small = {"name": "conv4", "width": 6, "norm": "batch"} if self.images else {"name": "mlp", "hidden": [6, 5]}
        settings = {"inner_lr": ALPHA, "inner_steps": 3, **settings}
        made = learner(self.dataset, method=method, model={**small, **(model or {})}, **{method: settings})
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if not name.startswith("model."):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return made

    def maml(self, like: Method, model: dict[str, Any] | None = None, **settings: Any) -> Method:
        """MAML from the weights of another learner."""
        made = self.learner("maml", model, **settings)
        made.model.load_state_dict(like.model.state_dict())
        return made


IMAGES, VECTORS = Case("conv4"), Case("mlp")
BOTH = pytest.mark.parametrize("case", [IMAGES, VECTORS], ids=["conv4", "mlp"])
ORDERS = pytest.mark.parametrize("order", ["first", "second"])


def no_norm(name: str) -> bool:
    return ".norm." not in name


def everything(name: str) -> bool:
    return True


# The learner's side


def outer_gradient(method: Method, tasks: list[Task], context: Context = TRAINING) -> tuple[float, Weights]:
    """Mean outer loss of the tasks, and its gradient for all that is meta-learned; looped over or batched."""

    def loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        return method.query_loss(method.adapt(x, y, context), query_x, query_y)

    if context.vectorized:
        losses = torch.vmap(loss)(*map(torch.stack, zip(*tasks, strict=True)))
    else:
        losses = torch.stack([loss(*task) for task in tasks])
    return _differentiate(losses.mean(), {n: p for n, p in method.named_parameters() if p.requires_grad})


def assert_batched_is_looped(method: Method, context: Context = TRAINING, *, tasks: list[Task]) -> None:
    """Under vmap over tasks: loss, every gradient, and the predictions in evaluation."""
    batched = Context(context.training, context.progress, vectorized=True)
    expected_loss, expected = outer_gradient(method, tasks, context)
    loss, found = outer_gradient(method, tasks, batched)
    assert abs(loss / expected_loss - 1) < 1e-12
    assert worst(found, expected) < 1e-8

    def predict(x: Tensor, y: Tensor, query_x: Tensor, context: Context) -> Tensor:
        return method.predict(method.adapt(x, y, context), query_x)

    x, y, query_x, _ = map(torch.stack, zip(*tasks, strict=True))
    with torch.no_grad():
        together = torch.vmap(predict, in_dims=(0, 0, 0, None))(x, y, query_x, Context(False, vectorized=True))
        alone = torch.stack([predict(*task[:3], EVALUATION) for task in tasks])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)


def assert_evaluation_only_predicts(method: Method, task: Task) -> None:
    """As training would, with nothing changed and no graph made, not even inside of the inner loop."""
    expected = method.predict(method.adapt(*task[:2], TRAINING), task[2]).detach()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with torch.no_grad(), patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
        adapted = method.adapt(*task[:2], EVALUATION)
        prediction = method.predict(adapted, task[2])
    assert grad.call_count >= 3
    assert not any(call.kwargs.get("create_graph") for call in grad.call_args_list)
    assert prediction.grad_fn is None
    torch.testing.assert_close(prediction, expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def finite_difference_error(
    method: Method, tasks: list[Task], names: Callable[[str], bool], context: Context = TRAINING
) -> float:
    """The gradient along a random direction in every tensor against the loss's central difference, relative."""
    _, found = outer_gradient(method, tasks, context)
    generator, step, errors = torch.Generator().manual_seed(3), 1e-5, []
    for name, parameter in method.named_parameters():
        if not names(name):
            continue
        direction, start = torch.randn(parameter.shape, generator=generator).double(), parameter.detach().clone()
        values = []
        for moved in (start + step * direction, start - step * direction):
            parameter.data.copy_(moved)
            values.append(outer_gradient(method, tasks, context)[0])
        parameter.data.copy_(start)
        along = float((found[name] * direction).sum())
        errors.append(abs((values[0] - values[1]) / (2 * step) - along) / abs(along))
    assert errors
    return max(errors)


def trial(method: str, data: dict[str, Any] = CURVES, **sections: Any) -> TrialConfig:
    """`reference.small_trial` of another method, with the settings of MAML there."""
    config = merge(SMALL, data)
    own = {"method": method, method: config.pop("maml")}
    return parse_trial(merge(config, own, sections))


# The slow side


def unroll(
    network: Network,
    theta: Weights,
    task: Task,
    rule: Rule,
    *,
    steps: int,
    second_order: bool = True,
    adapted: Callable[[str], bool] = no_norm,
) -> list[Weights]:
    """The weights of a task before the first step and after each."""
    path = [theta]
    for step in range(steps):
        moving = {name: weight for name, weight in path[-1].items() if adapted(name)}
        gradients = support_gradient(network, path[-1], task, moving, step=step)
        if not second_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        path.append({**path[-1], **rule(step, moving, gradients)})
    return path


def support_gradient(network: Network, weights: Weights, task: Task, names: Iterable[str], *, step: int) -> Weights:
    """Of the support loss, differentiable."""
    loss = _loss(network(task[0], weights, step, None), task[1])
    names = list(names)
    found = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=True)
    return dict(zip(names, found, strict=True))


def query_loss(network: Network, weights: Weights, task: Task, *, step: int, norm: str = "batch") -> Tensor:
    """Of the weights after inner step `step`."""
    return _loss(network(task[2], weights, step, task[0] if norm == "support" else None), task[3])


def expected_gradient(
    method: Method, tasks: list[Task], loss: Callable[[Weights, Weights, Task], Tensor]
) -> tuple[float, Weights]:
    """As `outer_gradient`, of an outer loss of (theta, what else is learned, task), on copies of the learner's tensors.

    theta is named as in the backbone, the rest as in the learner.
    """
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in method.named_parameters()}
    theta = {name.removeprefix("model."): leaf for name, leaf in leaves.items() if name.startswith("model.")}
    own = {name: leaf for name, leaf in leaves.items() if not name.startswith("model.")}
    learned = {name: leaves[name] for name, tensor in method.named_parameters() if tensor.requires_grad}
    return _differentiate(torch.stack([loss(theta, own, task) for task in tasks]).mean(), learned)


def dense(own: Weights, prefix: str, x: Tensor) -> Tensor:
    """The linear layers under a prefix, with ReLU in between."""
    tensors = [tensor for name, tensor in own.items() if name.startswith(prefix)]
    layers = list(zip(tensors[::2], tensors[1::2], strict=True))
    for weight, bias in layers[:-1]:
        x = F.relu(weight @ x + bias)
    return layers[-1][0] @ x + layers[-1][1]


def worst(found: Weights, expected: Weights) -> float:
    """Largest relative error of all tensors, each by its own norm; one without a gradient, by the largest's."""
    largest = max(float(tensor.norm()) for tensor in expected.values())
    assert found.keys() == expected.keys()
    assert largest > 0
    return max(
        float((found[name] - tensor).norm()) / max(float(tensor.norm()), 1e-6 * largest)
        for name, tensor in expected.items()
    )


def _loss(outputs: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(outputs, wanted) if wanted.is_floating_point() else F.cross_entropy(outputs, wanted)


def _differentiate(loss: Tensor, tensors: Weights) -> tuple[float, Weights]:
    found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    pairs = zip(tensors.items(), found, strict=True)
    return float(loss.detach()), {name: torch.zeros_like(t) if g is None else g for (name, t), g in pairs}
