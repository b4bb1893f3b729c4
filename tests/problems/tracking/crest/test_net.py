"""CREST against a plain network whose filter has each target's own size; VGG-16's weights from files; refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import Weights, learner
from scipy.io import savemat
from torch import Tensor
from unrolled import assert_batched_is_looped, assert_gradient, finite_difference_error, together

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner
from raymeta.problem import Examples, Task, open_problem
from raymeta.problems.tracking.crest.net import VGG, Crest, CrestConfig
from raymeta.problems.tracking.crest.problem import CrestTask

SIDE, GRID, RATE, NOISE = 30, 15, 0.3, 0.2
CANVAS = 5  # of targets of 3 cells
TARGETS = ((3, 1), (1, 3), (3, 3))  # cells across and down: filters of 5 x 3, 3 x 5, 5 x 5
MOVED = ("reduce.weight", "reduce.bias", "head.weight", "head.bias")


def tasks() -> list[Task]:
    generator = torch.Generator().manual_seed(4)

    def examples(count: int, wide: int, high: int, shift: float) -> Examples:
        x = torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        places = shift * (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5)
        sizes = torch.tensor([wide, high], dtype=torch.float64).expand(count, 2) / GRID
        return Examples(x, torch.cat([places, sizes], 1))

    return [Task(examples(1, *size, 0), examples(2, *size, 0.4)) for size in TARGETS]


def made(method: str = "metasgd", order: str = "second", channels: int = 4, **sections: Any) -> Learner:
    found = learner(
        open_problem(CrestTask(side=SIDE)),
        method=method,
        model={
            "name": "crest",
            "channels": channels,
            "rows": 7,
            "columns": 4,
            "init": {"head": "kaiming_uniform(1.0)"},
        },
        **{method: {"inner_lr": RATE, "inner_steps": 1, "order": order}},
        **sections,
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for rate in getattr(found, "rates", ()):
            rate += 0.1 * torch.randn(rate.shape, generator=generator, dtype=torch.float64)
    return found


# The slow side: no canvas, no mask, no matrices


def sized(values: Tensor, y: Tensor) -> Tensor:
    """A filter, or its rates, of a target's own size."""
    wide, high = (2 * int(np.ceil(round(float(one) * GRID) / 2)) + 1 for one in y[0, 2:])
    return F.interpolate(values, (high, wide), mode="bilinear", align_corners=True)


def response(x: Tensor, weights: Weights) -> Tensor:
    h = F.max_pool2d(F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], padding=1).clamp(min=0), 2)
    h = F.conv2d(h, weights["conv2.weight"], weights["conv2.bias"], padding=1).clamp(min=0)
    hann = torch.from_numpy(np.hanning(GRID))
    h = (h * (hann * hann[:, None])).permute(0, 2, 3, 1) @ weights["reduce.weight"][:, :, 0, 0].T + weights[
        "reduce.bias"
    ]
    kernel = weights["head.weight"]
    h = F.pad(h.permute(0, 3, 1, 2), (kernel.shape[3] // 2,) * 2 + (kernel.shape[2] // 2,) * 2)
    rows = []
    for row in range(GRID):
        for column in range(GRID):
            patch = h[:, :, row : row + kernel.shape[2], column : column + kernel.shape[3]]
            rows.append((patch * kernel).sum((1, 2, 3)) + weights["head.bias"])
    return torch.stack(rows, 1).reshape(-1, GRID, GRID)


def loss_of(maps: Tensor, y: Tensor) -> Tensor:
    losses = []
    for found, (x, z, wide, high) in zip(maps, y, strict=True):
        at = torch.arange(GRID, dtype=torch.float64) - GRID // 2
        sides = [0.1 * np.ceil(round(float(one) * GRID)) for one in (wide, high)]
        exponent = ((at - x * GRID) / sides[0]) ** 2 + (((at - z * GRID) / sides[1]) ** 2)[:, None]
        truth = torch.exp(-0.3 * exponent)
        chosen = (found - truth).abs() >= 0.1
        losses.append((truth.exp() * (found - truth))[chosen].square().sum() / (chosen.sum() + 1))
    return torch.stack(losses).mean()


def reference(own: Weights, theta: Weights, task: Task, noise: Weights | None = None, order: str = "second") -> Tensor:
    """The query's loss after one step on weights, with rates and noise, of the target's own size."""
    start = {name: weight.clone() for name, weight in theta.items()}
    start["head.weight"] = sized(start["head.weight"], task.support.y)
    inner = loss_of(response(task.support.x, start), task.support.y)
    found = torch.autograd.grad(inner, [start[name] for name in MOVED], create_graph=True)
    rates = list(own.values()) or [torch.tensor(RATE, dtype=torch.float64)] * len(MOVED)
    after = dict(start)
    for name, gradient, rate in zip(MOVED, found, rates, strict=True):
        step = gradient.detach() if order == "first" else gradient
        if noise is not None:
            high, wide = start["head.weight"].shape[2:]
            top, left = (CANVAS - high) // 2, (CANVAS - wide) // 2
            factor = noise[name]
            step = step * (factor[..., top : top + high, left : left + wide] if name == "head.weight" else factor)
        rate = sized(rate, task.support.y) if name == "head.weight" and own else rate
        after[name] = start[name] - rate * step
    return loss_of(response(task.query.x, after), task.query.y)


@pytest.mark.parametrize(("method", "order"), [("metasgd", "second"), ("metasgd", "first"), ("maml", "second")])
def test_outer_gradients_are_the_references(method: str, order: str) -> None:
    assert_gradient(made(method, order), tasks(), lambda theta, own, task: reference(own, theta, task, order=order))


def test_with_dropgrads_noise_given() -> None:
    found = made(regularizers={"dropgrad": {"rate": NOISE}})
    generator = torch.Generator().manual_seed(6)
    shapes = {name: weight.shape for name, weight in found.model.weights().items()} | {
        "head.weight": (1, 4, CANVAS, CANVAS)
    }
    noise = {name: 1 + 0.5 * torch.randn(shapes[name], generator=generator, dtype=torch.float64) for name in MOVED}
    dropgrad: Any = found.regularizers[0]
    dropgrad.on_inner_gradients = lambda gradients, context: {n: g * noise[n] for n, g in gradients.items()}
    drawn = tasks()
    context = Context(training=True, hooks=found.hooks(together(drawn), Context(True), torch.Generator()))
    assert_gradient(found, drawn, lambda theta, own, task: reference(own, theta, task, noise), context)


def test_finite_differences_of_the_filter_and_its_rates() -> None:
    found = made(channels=1)
    assert [name for name, _ in found.named_parameters() if name.startswith("rates")] == [
        f"rates.{i}" for i in range(4)
    ]
    assert found.adapted == list(MOVED)
    names = ("model.head.weight", "rates.2")
    assert finite_difference_error(found, tasks()[:1], lambda name: name in names, step=1e-6) < 1e-5


def test_tasks_of_several_sizes_are_batched_as_they_are_looped_over() -> None:
    assert_batched_is_looped(made(), tasks())


def test_features_stay_and_nothing_is_beside_a_tasks_filter() -> None:
    found, (task, *_) = made("maml"), tasks()
    with torch.no_grad():
        adapted = found.adapt(task.support, Context(False))
        outputs = found.predict(adapted, task.query.x)
    for name, weight in found.model.weights().items():
        if name.startswith("conv"):
            assert torch.equal(adapted.weights[name], weight)
    kernel = adapted.weights["head.weight"]
    assert kernel.shape == (1, 4, CANVAS, CANVAS)
    assert (kernel[:, :, [0, -1]] == 0).all()  # the target is 3 x 1 cells: 5 columns, 3 rows
    assert (kernel[:, :, 1:-1] != 0).all()
    assert outputs.shape == (2, GRID**2 + 2)
    np.testing.assert_allclose(outputs[:, -2:], task.query.y[:, 2:], rtol=1e-12)
    own = found.model(task.query.x, found.model.weights(), Context(False).at())
    assert (own[:, -2:] == 0).all()  # fitted to no task


def test_vgg_16_is_read_from_either_file_and_stays_as_it_is(tmp_path: Path) -> None:
    chance, inputs, state = np.random.default_rng(0), 3, {}
    layers = np.empty(2 * len(VGG), object)
    for place, filters in enumerate(VGG.values()):
        weight = chance.normal(0, (2 / (9 * inputs)) ** 0.5, (filters, inputs, 3, 3)).astype(np.float32)
        bias, weights = chance.normal(size=filters).astype(np.float32), np.empty(2, object)
        weights[:] = [weight.transpose(2, 3, 1, 0), bias]  # height, width, inputs, outputs
        layers[2 * place] = {"name": f"conv{place}", "type": "conv", "weights": weights}
        layers[2 * place + 1] = {"name": f"relu{place}", "type": "relu"}
        state |= {f"{place}.weight": torch.from_numpy(weight), f"{place}.bias": torch.from_numpy(bias)}
        inputs = filters
    savemat(tmp_path / "vgg.mat", {"layers": layers})
    torch.save(state, tmp_path / "vgg.pth")
    nets = [
        Crest(CrestConfig(size="vgg-16", weights=str(tmp_path / f)), (3, 36, 36), 4, 1) for f in ("vgg.mat", "vgg.pth")
    ]
    for net in nets:
        assert len(net.fixed_names()) == 2 * len(VGG)
        assert not any(net.weights()[name].requires_grad for name in net.fixed_names())
    x = 2 * torch.rand(1, 3, 36, 36) - 1
    first, second = (net.prepare(x) for net in nets)
    assert torch.equal(first, second)
    h = 128 * x + 128 - torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    for place in range(len(VGG)):
        h = F.conv2d(h, state[f"{place}.weight"], state[f"{place}.bias"], padding=1).relu()
        h = F.max_pool2d(h, 2) if place in (1, 3) else h
    assert h.shape == (1, 512, 9, 9)
    torch.testing.assert_close(first, h)


ODD = "but crest of size small needs an odd number of cells of 2 pixels; allowed: 70, 74, …"


@pytest.mark.parametrize(
    ("config", "side", "sentence"),
    [
        ({"size": "vgg-16"}, 36, "model.weights: found none, but crest of size vgg-16 starts from those of VGG-16"),
        ({"weights": "x.mat"}, 70, "model.weights: found x.mat, but crest of size small is trained from scratch"),
        ({"size": "vgg-16", "weights": "/no/x.mat"}, 36, "/no/x.mat: no such file"),
        ({}, 72, f"task.side: found 72, {ODD}"),
        ({}, 71, f"task.side: found 71, {ODD}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(config: dict[str, Any], side: int, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Crest(CrestConfig(**config), (3, side, side), 4, 1)
    assert str(caught.value).startswith(sentence)


def test_other_learners_regularizers_networks_and_problems_are_refused() -> None:
    own = {"task": {"problem": "crest"}, "model": {"name": "crest"}}
    for config, sentence in (
        ({**own, "method": "anil"}, "anil has no meaning for windows, which crest is of; allowed: maml, metasgd"),
        (
            {**own, "method": "maml", "regularizers": {"aug": {}}},
            "aug has no meaning for windows, which crest is of; allowed: dropgrad, dropout",
        ),
        (
            {**own, "method": "maml", "model": {"name": "conv4"}},
            "crest needs a filter, and model.name conv4 has none",
        ),
        (
            {"method": "maml", "model": {"name": "crest"}, "task": {"problem": "tracking", "side": 70}},
            "model.name crest needs windows, and sprites has none",
        ),
    ):
        trial = parse_trial(config)
        with pytest.raises(UserError) as caught:
            build_learner(trial, open_problem(trial.task))
        assert str(caught.value) == sentence
