"""Networks once more: slow, float64, in the textbook order. Of raymeta they know the names of weights only.

Below them: small learners, tasks and configs to test with.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from raymeta.config import TaskConfig, TrialConfig, parse_trial
from raymeta.engine.noise import Noise, task_keys
from raymeta.learner import Learner, build_learner
from raymeta.metric import Metric
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.schema import merge

Weights = dict[str, Tensor]
# (x, weights, inner step, images whose statistics normalise x; None: its own) to predictions
Network = Callable[[Tensor, Weights, int, Tensor | None], Tensor]
Film = tuple[int, Tensor, Tensor]  # number of the block, scale and shift of its channels


def maps(
    x: Tensor,
    weights: Weights,
    step: int = 0,
    normaliser: Tensor | None = None,
    *,
    blocks: int = 4,
    pools: int = 4,
    film: Film | None = None,
    slope: float = 0.0,
    eps: float = 1e-5,
    prefix: str = "block",
    unpadded: int = 0,
) -> Tensor:
    """Blocks of convolution, batch norm, leaky ReLU, pooling; with FiLM, which is between the two, pooling is first."""
    h = x if normaliser is None else torch.cat([normaliser, x])
    first = len(x) if normaliser is None else len(normaliser)  # the images that make the statistics
    for number in range(1, blocks + 1):
        block = f"{prefix}{number}"
        h = F.conv2d(h, weights[f"{block}.weight"], weights.get(f"{block}.bias"), padding=int(number > unpadded))
        mean, variance = h[:first].mean((0, 2, 3)), h[:first].var((0, 2, 3), correction=0)
        scale, shift = weights[f"{block}.norm.weight"], weights[f"{block}.norm.bias"]
        if scale.ndim == 2:
            scale, shift = scale[step], shift[step]
        mean, variance, scale, shift = (v[:, None, None] for v in (mean, variance, scale, shift))
        h = (h - mean) / torch.sqrt(variance + eps) * scale + shift
        if film is not None and number == film[0]:
            h = F.leaky_relu(F.max_pool2d(h, 2) * film[1][:, None, None] + film[2][:, None, None], slope)
        else:
            h = F.leaky_relu(h, slope)
            h = F.max_pool2d(h, 2) if number <= pools else h
    return h[-len(x) :]


def both(x: Tensor, query_x: Tensor, weights: Weights, way: str, **settings: Any) -> tuple[Tensor, Tensor]:
    """Maps of support and query: `joint`, `separate`, or the query normalised with the `support`'s statistics."""
    if way == "joint":
        found = maps(torch.cat([x, query_x]), weights, **settings)
        return found[: len(x)], found[len(x) :]
    normaliser = x if way == "support" else None
    return maps(x, weights, **settings), maps(query_x, weights, normaliser=normaliser, **settings)


def conv4(**settings: Any) -> Network:
    """Four blocks and a linear head; the settings are those of `maps`."""

    def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        features = maps(x, weights, step, normaliser, **settings).flatten(1)
        return features @ weights["head.weight"].T + weights["head.bias"]

    return network


def mlp(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
    """Linear layers with a ReLU after each but the head."""
    for layer in sorted({name.split(".")[0] for name in weights} - {"head"}):
        x = F.relu(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return x @ weights["head.weight"].T + weights["head.bias"]


def dense(weights: Weights, prefix: str, x: Tensor) -> Tensor:
    """The linear layers under a prefix, with ReLU in between, on a vector."""
    tensors = [tensor for name, tensor in weights.items() if name.startswith(prefix)]
    layers = list(zip(tensors[::2], tensors[1::2], strict=True))
    for weight, bias in layers[:-1]:
        x = F.relu(weight @ x + bias)
    return layers[-1][0] @ x + layers[-1][1]


def means(features: Tensor, y: Tensor, ways: int = 3) -> Tensor:
    """Class by class."""
    return torch.stack([features[y == k].mean(0) for k in range(ways)])


class Random(Problem):
    """A problem of noise, of any shape: the learners ask one for its shapes and its loss only."""

    name = "random"
    Config = TaskConfig
    metric = Metric("accuracy", "max")

    def __init__(self, shape: tuple[int, ...], kind: str = "labels", labels: int = 3) -> None:
        super().__init__(TaskConfig())
        self.input_shape, self.labels = shape, labels if kind == "labels" else None

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y) if self.labels is None else F.cross_entropy(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.argmax(-1) == y).double().mean()

    def tasks(self, count: int, ways: int = 3, shots: int = 2, queries: int = 3, seed: int = 0) -> list[Task]:
        """Tasks in float64; values that are to be predicted are noise too."""
        generator = torch.Generator().manual_seed(seed)

        def examples(per_class: int) -> Examples:
            x = torch.randn(ways * per_class, *self.input_shape, generator=generator, dtype=torch.float64)
            if self.labels is None:
                return Examples(x, torch.randn(len(x), 1, generator=generator, dtype=torch.float64))
            y = torch.arange(ways).repeat_interleave(per_class)
            return Examples(x + y.view(-1, *[1] * len(self.input_shape)) / 4, y)

        return [Task(examples(shots), examples(queries)) for _ in range(count)]

    def _nothing(self, *args: Any, **kwargs: Any) -> Any:
        pytest.fail("a learner asks a problem for its shapes and its loss only")

    prepare = describe = _bank = _nothing  # type: ignore[assignment]
    ready = fingerprint = property(_nothing)  # type: ignore[assignment]


def same_tasks(one: Tasks, other: Tasks) -> bool:
    """The same to the bit."""
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def joined(*parts: Tasks) -> Tasks:
    """All tasks of several batches."""
    sides = zip(*parts, strict=True)
    return Tasks(*(Examples(*(torch.cat(t) for t in zip(*side, strict=True))) for side in sides))


def learner(problem: Problem, **sections: Any) -> Learner:
    """A method in float64, its norm's scales and shifts off their initial 1 and 0."""
    method = build_learner(parse_trial({"method": "maml", **sections}), problem).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return method


SMALL = {
    "maml": {"inner_steps": 2},
    "outer": {"tasks_per_step": 3},
    "budget": {"outer_steps": 6, "validate_every": 2, "validation_tasks": 4, "test_tasks": 4},
}
CURVES = {
    "maml": {"inner_lr": 0.02},
    "model": {"name": "mlp", "hidden": [6]},
    "task": {"problem": "sinusoid", "shots": 5, "queries": 5},
}
GLYPHS = {
    "maml": {"inner_lr": 0.1},
    "model": {"name": "conv4", "width": 4},
    "task": {"dataset": "glyphs", "ways": 3, "shots": 1, "queries": 2},
}


def noise_of(seed: int = 0, task: int = 0, kind: Callable[[Tensor], Noise] = Noise) -> Noise:
    """The noise of a task of outer step 0."""
    return kind(task_keys(seed, 0, torch.tensor([task], dtype=torch.int32))[0])


def small_trial(data: dict[str, Any] = CURVES, method: str = "maml", **sections: Any) -> TrialConfig:
    """Three rounds of two outer steps on small tasks, but for what the sections say; any method has MAML's settings."""
    config = merge(SMALL, data)
    own = {"method": method, method: config.pop("maml")}
    return parse_trial(merge(config, own, sections))
