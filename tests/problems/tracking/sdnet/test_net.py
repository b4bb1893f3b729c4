"""SDNet against a plain network, LRN against torch's, VGG-M's weights from files; outer gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import Weights, learner
from scipy.io import savemat
from torch import Tensor
from unrolled import ALPHA, ORDERS, Rule, assert_gradient, everything, together, unrolled_loss

from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.problem import Examples, Task, open_problem
from raymeta.problems.tracking.sdnet.net import SDNet, SDNetConfig, normalised
from raymeta.problems.tracking.sdnet.problem import TrackingTask


def small(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
    """The laptop's network once more."""
    for name in ("conv1", "conv2", "conv3"):
        x = F.max_pool2d(F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0), 2)
    h = x.reshape(len(x), -1)
    for name in ("fc4", "fc5"):
        h = (h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(min=0)
    return h @ weights["head.weight"].T + weights["head.bias"]


def made(method: str, reduction: str = "mean", order: str = "second", **sections: Any) -> Learner:
    problem = open_problem(TrackingTask(side=8, reduction=reduction))  # type: ignore[arg-type]
    own = {"inner_lr": ALPHA if reduction == "mean" else ALPHA / 16, "inner_steps": 1, "order": order}
    return learner(problem, method=method, model={"name": "sdnet"}, **{method: own}, **sections)


def tasks(count: int = 2) -> list[Task]:
    generator = torch.Generator().manual_seed(4)

    def examples() -> Examples:
        x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        return Examples(x, (torch.arange(6) < 2).long())

    return [Task(examples(), examples()) for _ in range(count)]


def rule(own: Weights, noise: dict[str, Tensor] | None = None) -> Rule:
    """Meta-SGD's: a learned rate of every weight; MAML's where nothing else is learned."""

    def update(step: int, moving: Weights, gradients: Weights) -> Weights:
        rates = list(own.values()) or [ALPHA] * len(moving)
        return {
            name: weight - rate * gradients[name] * (noise[name] if noise else 1.0)
            for (name, weight), rate in zip(moving.items(), rates, strict=True)
        }

    return update


@ORDERS
@pytest.mark.parametrize("method", ["maml", "metasgd"])
def test_outer_gradients_are_the_references(method: str, order: str) -> None:
    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(small, theta, task, rule(own), steps=1, order=order, adapted=everything)

    assert_gradient(made(method, order=order), tasks(), loss)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_with_dropgrads_noise_given_and_losses_summed_too(reduction: str) -> None:
    found = made("metasgd", reduction, regularizers={"dropgrad": {"rate": 0.2}})
    generator = torch.Generator().manual_seed(6)
    noise = {
        name: 1 + 0.5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in found.model.weights().items()
    }
    dropgrad: Any = found.regularizers[0]
    dropgrad.on_inner_gradients = lambda gradients, context: {n: g * noise[n] for n, g in gradients.items()}
    drawn = tasks()
    context = Context(training=True, hooks=found.hooks(together(drawn), Context(True), torch.Generator()))
    factor = 6.0 if reduction == "sum" else 1.0

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        """Written out, with the sum over the crops."""
        start = {name: weight.clone() for name, weight in theta.items()}
        inner = factor * F.cross_entropy(small(task.support.x, start), task.support.y)
        gradients = dict(zip(start, torch.autograd.grad(inner, list(start.values()), create_graph=True), strict=True))
        after = rule(own, noise)(0, start, gradients)
        return factor * F.cross_entropy(small(task.query.x, after), task.query.y)

    assert_gradient(found, drawn, loss, context)


def test_constant_rates_are_maml() -> None:
    sgd, maml = made("metasgd"), made("maml")
    maml.model.load_state_dict(sgd.model.state_dict())
    rates: Any = sgd.rates
    with torch.no_grad():
        for rate in rates:
            rate.fill_(ALPHA)
        for task in tasks():
            one, other = (each.predict(each.adapt(task.support, Context(False)), task.query.x) for each in (sgd, maml))
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_lrn_is_torchs_whose_alpha_is_divided_by_the_window() -> None:
    x = 30 * torch.randn(2, 9, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalised(x), F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0))


def kernels() -> list[tuple[np.ndarray, np.ndarray]]:
    chance = np.random.default_rng(0)
    shapes = [(96, 3, 7, 7), (256, 96, 5, 5), (512, 256, 3, 3)]
    return [
        (chance.normal(0, 0.02, shape).astype(np.float32), chance.normal(size=shape[0]).astype(np.float32))
        for shape in shapes
    ]


def test_vgg_m_is_read_from_either_file_and_run_as_the_paper_says(tmp_path: Path) -> None:
    layers = np.empty(7, object)
    state = {}
    for place, (weight, bias) in enumerate(kernels()):
        weights = np.empty(2, object)
        weights[:] = [weight.transpose(2, 3, 1, 0), bias]  # height, width, inputs, outputs
        layers[2 * place] = {"name": f"conv{place + 1}", "type": "conv", "weights": weights}
        layers[2 * place + 1] = {"name": f"relu{place + 1}", "type": "relu"}
        state |= {
            f"features.{place}.weight": torch.from_numpy(weight),
            f"features.{place}.bias": torch.from_numpy(bias),
        }
    layers[6] = {"name": "prob", "type": "softmax"}
    savemat(tmp_path / "imagenet-vgg-m.mat", {"layers": layers})
    torch.save(state, tmp_path / "vggm.pth")
    nets = [
        SDNet(SDNetConfig(size="vgg-m", weights=str(tmp_path / name)), (3, 107, 107), 2, 1)
        for name in ("imagenet-vgg-m.mat", "vggm.pth")
    ]
    assert all(
        torch.equal(a, b) for net in nets for a, b in zip(list(net.parameters())[:6], state.values(), strict=True)
    )
    net, x = nets[0], torch.rand(2, 3, 107, 107) * 2 - 1
    found = net.convolved(net.prepare(x), net.weights(), Context(False).at())
    h = 128 * x
    for place, (weight, bias) in enumerate(kernels()):
        h = F.conv2d(h, torch.from_numpy(weight), torch.from_numpy(bias), (2, 2, 1)[place]).relu()
        if place < 2:
            h = F.max_pool2d(F.local_response_norm(h, 5, alpha=5e-4, beta=0.75, k=2.0), 3, 2)
    assert found.shape == (2, 4608)
    torch.testing.assert_close(found, h.flatten(1))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"size": "vgg-m"}, "model.weights: found none, but sdnet of size vgg-m starts from those of VGG-M: name "),
        (
            {"weights": "x.mat"},
            "model.weights: found x.mat, but sdnet of size small is trained from scratch: leave it out",
        ),
        ({"size": "vgg-m", "weights": "/no/x.mat"}, "/no/x.mat: no such file"),
    ],
)
def test_weights_that_are_not_there_are_a_sentence(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        SDNet(SDNetConfig(**config), (3, 107, 107), 2, 1)
    assert str(caught.value).startswith(sentence)


def test_files_that_are_no_weights_and_crops_that_are_too_small(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"nothing")
    (tmp_path / "x.pth").write_bytes(b"nothing")
    torch.save({"a.weight": torch.zeros(2, 3, 3, 3), "a.bias": torch.zeros(2)}, tmp_path / "few.pth")
    other = {f"{name}.weight": torch.zeros(2, 3, 3, 3) for name in "abc"} | {
        f"{name}.bias": torch.zeros(2) for name in "abc"
    }
    torch.save(other, tmp_path / "other.pth")
    for name, sentence in (
        ("x.mat", "not a network of MatConvNet's"),
        ("x.pth", "not a state dict of torch's with kernels and biases"),
        ("few.pth", "has 1 convolutions: expected VGG-M's, of which 3 are used"),
        ("other.pth", r"its conv1 is \[2, 3, 3, 3\], and VGG-M's is \[96, 3, 7, 7\]"),
    ):
        with pytest.raises(UserError, match=sentence):
            SDNet(SDNetConfig(size="vgg-m", weights=str(tmp_path / name)), (3, 107, 107), 2, 1)
    with pytest.raises(UserError, match="found 4, but crops of it shrink to nothing in sdnet small"):
        SDNet(SDNetConfig(), (3, 4, 4), 2, 1)
    with pytest.raises(UserError, match=r"model\.name: sdnet takes images, not inputs of shape"):
        SDNet(SDNetConfig(), (3,), 2, 1)
