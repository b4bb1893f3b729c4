"""What the tests of single methods share: the gradient for all that is learned, what evaluation may do, batched tasks.

And Conv-4 below its head once more, in the textbook order and with the parts that some methods add to it.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import reference
import torch
import torch.nn.functional as F
from reference import Task, Weights
from torch import Tensor

from raymeta.inner import Context
from raymeta.method import Method

TRAINING, EVALUATION = Context(training=True), Context(training=False)
Film = tuple[int, Tensor, Tensor]  # number of the block, scale and shift of its channels


def maps(
    x: Tensor,
    weights: Weights,
    *,
    pools: int = 4,
    film: Film | None = None,
    normaliser: Tensor | None = None,
    slope: float = 0.0,
    eps: float = 1e-5,
    prefix: str = "model.",
    blocks: int = 4,
) -> Tensor:
    """Blocks of convolution, batch norm with the statistics of `normaliser` (None: of x), pooling, FiLM, leaky ReLU."""
    h = x if normaliser is None else torch.cat([normaliser, x])
    first = len(x) if normaliser is None else len(normaliser)
    for number in range(1, blocks + 1):
        block = f"{prefix}block{number}"
        h = F.conv2d(h, weights[f"{block}.weight"], weights.get(f"{block}.bias"), padding=1)
        mean = h[:first].mean((0, 2, 3))[:, None, None]
        variance = h[:first].var((0, 2, 3), correction=0)[:, None, None]
        scale, shift = weights[f"{block}.norm.weight"], weights[f"{block}.norm.bias"]
        h = (h - mean) / torch.sqrt(variance + eps) * scale[:, None, None] + shift[:, None, None]
        if number <= pools:
            h = F.max_pool2d(h, 2)
        if film is not None and number == film[0]:
            h = h * film[1][:, None, None] + film[2][:, None, None]
        h = F.leaky_relu(h, slope)
    return h[-len(x) :]


def means(features: Tensor, y: Tensor, ways: int = 3) -> Tensor:
    """Class by class."""
    return torch.stack([features[y == k].mean(0) for k in range(ways)])


def learned(method: Method) -> Weights:
    """Every parameter that requires a gradient."""
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def own(weights: Weights) -> Weights:
    """Those outside the backbone: whose gradients could be wrong and drown in the backbone's."""
    return {name: weight for name, weight in weights.items() if not name.startswith("model.")}


def gradient(method: Method, tasks: list[Task]) -> tuple[float, Weights]:
    """Mean query loss of the tasks in a loop, and its gradient for all that is learned."""
    losses = [method.query_loss(method.adapt(x, y, TRAINING), qx, qy) for x, y, qx, qy in tasks]
    return _differentiate(losses, learned(method))


def reference_gradient(
    method: Method, tasks: list[Task], loss: Callable[[Weights, Task], Tensor]
) -> tuple[float, Weights]:
    """The same of a task loss that is a function of (all parameters of the method, task)."""
    weights = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    moving = {name: weights[name].requires_grad_() for name in learned(method)}
    return _differentiate([loss(weights, task) for task in tasks], moving)


def assert_orders_differ_in_the_gradient_only(first: Method, second: Method, tasks: list[Task]) -> None:
    """First order is no other adaptation: the same loss, another gradient."""
    (loss, found), (same_loss, other) = gradient(first, tasks), gradient(second, tasks)
    assert abs(loss - same_loss) < 1e-10 * abs(loss)
    assert reference.relative_error(found, other) > 1e-3


def assert_gradient(method: Method, tasks: list[Task], loss: Callable[[Weights, Task], Tensor]) -> None:
    """The method's loss and gradient are the reference's."""
    assert_same(gradient(method, tasks), reference_gradient(method, tasks, loss))


def assert_same(found: tuple[float, Weights], expected: tuple[float, Weights]) -> None:
    """Equal losses, and gradients equal as a whole and for the parameters outside the backbone alone."""
    assert abs(found[0] - expected[0]) < 1e-10 * abs(expected[0])
    assert reference.relative_error(found[1], expected[1]) < 1e-8
    if own(expected[1]):
        assert reference.relative_error(own(found[1]), own(expected[1])) < 1e-8


def assert_finite_differences(method: Method, tasks: list[Task], names: Iterable[str], step: float = 1e-6) -> None:
    """The gradient for the named parameters, element by element, is the central difference of the loss."""
    _, found = gradient(method, tasks)
    parameters, numeric = dict(method.named_parameters()), {}
    for name in names:
        elements, numeric[name] = parameters[name].detach().view(-1), torch.empty_like(parameters[name])
        for i in range(len(elements)):
            values = []
            for sign in (1, -1):
                elements[i] += sign * step
                values.append(gradient(method, tasks)[0])
                elements[i] -= sign * step
            numeric[name].detach().view(-1)[i] = (values[0] - values[1]) / (2 * step)
    assert max(float(g.norm()) for g in numeric.values()) > 1e-4, "nothing to compare"
    assert reference.relative_error({name: found[name] for name in numeric}, numeric) < 1e-7


def predict(method: Method, task: Task, context: Context = EVALUATION) -> Tensor:
    """Predictions for the query set."""
    return method.predict(method.adapt(*task[:2], context), task[2])


def assert_evaluation_is_clean(method: Method, tasks: list[Task]) -> None:
    """It builds no graph, leaves the method as it was, and knows nothing of the tasks that came before."""
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with torch.no_grad():
        for x, y, query_x, _ in tasks:
            adapted = method.adapt(x, y, EVALUATION)
            found = list(tensors([adapted, method.predict(adapted, query_x)]))
            assert len(found) > 1
            assert all(tensor.grad_fn is None for tensor in found)
        there = [predict(method, task) for task in tasks]
        back = [predict(method, task) for task in tasks[::-1]][::-1]
        assert torch.equal(predict(method, tasks[-1]), there[-1])
    assert all(torch.equal(one, other) for one, other in zip(there, back, strict=True))
    assert not torch.equal(there[0], there[1])
    state = method.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert all(parameter.grad is None for parameter in method.parameters())


def tensors(thing: Any) -> Iterable[Tensor]:
    """All tensors in dataclasses, mappings and sequences."""
    if isinstance(thing, Tensor):
        yield thing
    elif is_dataclass(thing):
        yield from tensors([getattr(thing, field.name) for field in fields(thing)])
    elif isinstance(thing, dict):
        yield from tensors(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors(part)


def assert_batched_is_looped(method: Method, tasks: list[Task]) -> None:
    """Under vmap, as the trainer and the evaluation use it: the same gradient, the same predictions."""
    batch = [torch.stack(parts) for parts in zip(*tasks, strict=True)]
    training = Context(training=True, vectorized=True)
    evaluation = Context(training=False, vectorized=True)

    def loss(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        return method.query_loss(method.adapt(x, y, training), query_x, query_y)

    losses = torch.vmap(loss, randomness="same")(*batch)
    assert_same(_differentiate(list(losses), learned(method)), gradient(method, tasks))
    with torch.no_grad():
        found = torch.vmap(lambda *task: predict(method, task, evaluation))(*batch)
        expected = torch.stack([predict(method, task) for task in tasks])
    assert found.grad_fn is None
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def _differentiate(losses: list[Tensor], weights: Weights) -> tuple[float, Weights]:
    total = torch.stack(losses).mean()
    found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    zeros = (torch.zeros_like(weight) for weight in weights.values())
    return float(total.detach()), {
        name: z if g is None else g for name, g, z in zip(weights, found, zeros, strict=True)
    }
