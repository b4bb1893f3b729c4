"""MAML's outer gradient once more: slow, float64, in the textbook order. Of raymeta it knows the names of weights only.

Below it: small learners, tasks and configs to test with.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial
from raymeta.data.store import Dataset
from raymeta.method import Method, build_method
from raymeta.schema import merge

Weights = dict[str, Tensor]
Task = tuple[Tensor, Tensor, Tensor, Tensor]  # support x, support y, query x, query y
# (x, weights, inner step, images whose statistics normalise x; None: its own) to predictions
Network = Callable[[Tensor, Weights, int, Tensor | None], Tensor]
Factor = Callable[[int, str], Tensor | float]  # (inner step, name) to what an inner gradient is multiplied with


def conv4(*, slope: float = 0.0, eps: float = 1e-5) -> Network:
    """Four times convolution, batch norm, activation, pooling; then a linear head."""

    def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        everything = x if normaliser is None else torch.cat([normaliser, x])
        first = len(everything) if normaliser is None else len(normaliser)  # the images that make the statistics
        for block in ("block1", "block2", "block3", "block4"):
            h = F.conv2d(everything, weights[f"{block}.weight"], weights.get(f"{block}.bias"), padding=1)
            scale, shift = weights[f"{block}.norm.weight"], weights[f"{block}.norm.bias"]
            if scale.ndim == 2:
                scale, shift = scale[step], shift[step]
            if normaliser is None:
                h = F.batch_norm(h, None, None, scale, shift, training=True, eps=eps)
            else:
                mean, variance = h[:first].mean((0, 2, 3)), h[:first].var((0, 2, 3), correction=0)
                mean, variance, scale, shift = (v[:, None, None] for v in (mean, variance, scale, shift))
                h = (h - mean) / torch.sqrt(variance + eps) * scale + shift
            h = F.relu(h) if slope == 0 else F.leaky_relu(h, slope)
            everything = F.max_pool2d(h, 2)
        return everything[-len(x) :].flatten(1) @ weights["head.weight"].T + weights["head.bias"]

    return network


def mlp(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
    """Linear layers with a ReLU after each but the head."""
    for layer in sorted({name.split(".")[0] for name in weights} - {"head"}):
        x = F.relu(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return x @ weights["head.weight"].T + weights["head.bias"]


def outer_gradient(
    network: Network,
    weights: Weights,
    tasks: list[Task],
    *,
    alpha: float,
    steps: int,
    second_order: bool,
    adapted: Callable[[str], bool] = lambda name: True,
    query_norm: str = "query",
    reduction: str = "mean",
    factor: Factor = lambda step, name: 1.0,
) -> tuple[float, Weights]:
    """The mean query loss of the tasks, and the gradient of their mean (or summed) query loss for all weights."""
    theta = {name: weight.detach().double().requires_grad_() for name, weight in weights.items()}
    losses = []
    for support_x, support_y, query_x, query_y in tasks:
        loss = F.mse_loss if query_y.is_floating_point() else F.cross_entropy
        moving = dict(theta)
        for step in range(steps):
            names = [name for name in moving if adapted(name)]
            support_loss = loss(network(support_x, moving, step, None), support_y)
            gradients = torch.autograd.grad(support_loss, [moving[name] for name in names], create_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                gradient = gradient if second_order else gradient.detach()
                moving[name] = moving[name] - alpha * factor(step, name) * gradient
        normaliser = support_x if query_norm == "support" else None
        losses.append(loss(network(query_x, moving, max(steps - 1, 0), normaliser), query_y))
    total = torch.stack(losses).sum() / (len(losses) if reduction == "mean" else 1)
    found = torch.autograd.grad(total, list(theta.values()), allow_unused=True)
    zeros = (torch.zeros_like(weight) for weight in theta.values())
    together = {name: z if g is None else g for name, g, z in zip(theta, found, zeros, strict=True)}
    return float(torch.stack(losses).detach().mean()), together


def relative_error(found: Weights, expected: Weights) -> float:
    """Largest over the tensors of |found - expected| / |expected|, in the norm of the largest tensor's scale."""
    assert found.keys() == expected.keys()
    scale = max(float(tensor.norm()) for tensor in expected.values())
    return max(float((found[name] - expected[name]).norm()) for name in expected) / scale


class Random(Dataset):
    """A data set of noise, of any shape: the learners ask one for its shape and its kind only."""

    name = "random"

    def __init__(self, shape: tuple[int, ...], kind: Any = "classification") -> None:
        self.input_shape, self.kind = shape, kind  # type: ignore[misc]

    def tasks(self, count: int, ways: int = 3, shots: int = 2, queries: int = 3, seed: int = 0) -> list[Task]:
        """Tasks in float64; a regression's targets are noise too."""
        generator = torch.Generator().manual_seed(seed)

        def examples(per_class: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(ways * per_class, *self.input_shape, generator=generator, dtype=torch.float64)
            if self.kind == "regression":
                return x, torch.randn(len(x), 1, generator=generator, dtype=torch.float64)
            y = torch.arange(ways).repeat_interleave(per_class)
            return x + y.view(-1, *[1] * len(self.input_shape)) / 4, y

        return [(*examples(shots), *examples(queries)) for _ in range(count)]

    def _nothing(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    prepare = describe = _bank = _nothing
    ready = fingerprint = property(_nothing)  # type: ignore[assignment]


def learner(dataset: Dataset, ways: int = 3, **sections: Any) -> Method:
    """A method in float64, its norm's scales and shifts off their initial 1 and 0."""
    config = parse_trial({"method": "maml", "task": {"ways": ways}, **sections})
    method = build_method(config, dataset).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return method


SMALL = {
    "method": "maml",
    "maml": {"inner_steps": 2},
    "outer": {"tasks_per_step": 3},
    "budget": {"outer_steps": 6, "validate_every": 2, "validation_tasks": 4, "test_tasks": 4},
}
CURVES = {
    "maml": {"inner_lr": 0.02},
    "model": {"name": "mlp", "hidden": [6]},
    "task": {"dataset": "sinusoid", "ways": 1, "shots": 5, "queries": 5},
}
GLYPHS = {
    "maml": {"inner_lr": 0.1},
    "model": {"name": "conv4", "width": 4},
    "task": {"dataset": "glyphs", "ways": 3, "shots": 1, "queries": 2},
}


def small_trial(data: dict[str, Any] = CURVES, **sections: Any) -> TrialConfig:
    """Three rounds of two outer steps on small tasks, but for what the sections say."""
    return parse_trial(merge(SMALL, data, sections))
