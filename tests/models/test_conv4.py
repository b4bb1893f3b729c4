"""Conv-4 against the textbook network, and the layout that makes it fast."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, conv4
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.models.conv4 import Conv4, Conv4Config, Conv4Init
from raymeta.models.passes import Pass

SHAPES = [(1, 16, 16), (3, 16, 16), (1, 28, 28), (3, 21, 35)]


def network(shape: tuple[int, ...] = (3, 16, 16), **model: Any) -> Conv4:
    torch.manual_seed(0)
    return Conv4(Conv4Config(width=8, **model), shape, 5, steps=3).double()


def images(shape: tuple[int, ...], count: int = 4) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conv_bias", [True, False])
@pytest.mark.parametrize("norm", ["batch", "support", "running", "per_step"])
def test_the_first_block_normalises_a_convolution(shape: tuple[int, ...], conv_bias: bool, norm: Any) -> None:
    """It folds the norm into a product with patches; here is the long way."""
    model, x = network(shape, conv_bias=conv_bias, norm=norm), images(shape)
    weights = {name: weight + 0.1 for name, weight in model.weights().items()}
    found = model.block1.normalised(model.prepare(x), weights, Pass(step=1), "block1")
    convolved = F.conv2d(x, weights["block1.weight"], weights.get("block1.bias"), padding=1)
    scale, shift = (weights[f"block1.norm.{kind}"] for kind in ("weight", "bias"))
    if norm == "per_step":
        scale, shift = scale[1], shift[1]
    expected = F.batch_norm(convolved, None, None, scale, shift, training=True)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["a dark spot on white", "nearly uniform", "noise"])
def test_folding_the_norm_costs_no_accuracy(kind: str) -> None:
    """In float32, also where the images' variance is small beside their mean."""
    noise = images((1, 28, 28), 10)
    x = {"noise": noise, "nearly uniform": 1 + 0.01 * noise, "a dark spot on white": (noise < 2).double()}[kind]
    model = network((1, 28, 28))
    expected = F.batch_norm(F.conv2d(x, model.block1.weight, padding=1), None, None, training=True)
    model, x = model.float(), x.float()
    found = model.block1.normalised(model.prepare(x), model.weights(), Pass(), "block1")
    textbook = F.batch_norm(F.conv2d(x, model.block1.weight, padding=1), None, None, training=True)
    error, usual = (float((h.double() - expected).detach().abs().max()) for h in (found, textbook))
    assert error < max(2 * usual, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("conv_bias", [True, False])
def test_outputs_and_gradients_are_the_textbook_networks(
    shape: tuple[int, ...], activation: str, conv_bias: bool
) -> None:
    """In which the activation comes before the pooling."""
    model, x = network(shape, activation=activation, conv_bias=conv_bias), images(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".norm." in name:
                parameter -= 0.7  # scales of both signs would do as well; shifts make most of a map negative
    weights = model.weights()
    found = model(model.prepare(x), weights, Pass())
    expected = conv4(slope=0.01 if activation == "leaky_relu" else 0.0)(x, weights, 0, None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, list(weights.values()), cotangent),
        torch.autograd.grad(expected, list(weights.values()), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["batch", "support", "running", "per_step"])
def test_every_block_keeps_channels_last(shape: tuple[int, ...], norm: str) -> None:
    model, inside = network(shape, norm=norm), []
    for name, module in model.named_children():
        if name.startswith("block"):
            module.register_forward_hook(lambda module, inputs, output: inside.append(output))
    model(model.prepare(images(shape)), model.weights(), Pass())
    assert len(inside) == 4
    assert all(h.is_contiguous(memory_format=torch.channels_last) for h in inside)
    sides = [h.shape[2:] for h in inside]
    assert sides == [(shape[1] >> i, shape[2] >> i) for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conv_bias", [True, False])
@pytest.mark.parametrize("norm", ["batch", "per_step"])
def test_parameters_are_as_many_as_the_formula_says(shape: tuple[int, ...], conv_bias: bool, norm: str) -> None:
    width, outputs = 8, 5
    rows = 3 if norm == "per_step" else 1
    convolutions = 9 * width * (shape[0] + 3 * width) + (4 * width if conv_bias else 0)
    head = outputs * (width * (shape[1] // 16) * (shape[2] // 16) + 1)
    model = network(shape, conv_bias=conv_bias, norm=norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + rows * 8 * width + head


@pytest.mark.parametrize("conv_bias", [True, False])
def test_groups_hold_every_parameter_once_and_scopes_are_made_of_them(conv_bias: bool) -> None:
    model = network(conv_bias=conv_bias)
    groups = model.groups()
    assert list(groups) == ["block1", "block2", "block3", "block4", "head"]
    assert [name for group in groups.values() for name in group] == [name for name, _ in model.named_parameters()]
    assert model.scope("all") == set(model.weights())
    assert model.scope("head") == {"head.weight", "head.bias"}
    assert model.scope("last") == {*groups["block4"], *groups["head"]}
    assert model.scope("start") == set(groups["block1"])
    assert model.scope("stem") == set()
    assert model.scope("body") == model.scope("all") - model.scope("head")
    assert model.norm_names() == {f"block{i}.norm.{kind}" for i in (1, 2, 3, 4) for kind in ("weight", "bias")}


def test_initial_weights() -> None:
    def wide(init: Any) -> Conv4:
        torch.manual_seed(0)
        return Conv4(Conv4Config(width=64, init=Conv4Init(conv=init)), (3, 32, 32), 5, steps=1)

    for layer, channels in (("block1", 3), ("block3", 64)):
        bound = (6 / (9 * channels + 9 * 64)) ** 0.5
        weight = wide("xavier").weights()[f"{layer}.weight"].detach()
        assert bound * 0.95 < float(weight.abs().max()) <= bound
        assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.1)
        deviation = (2 / (9 * 64)) ** 0.5
        assert float(wide("fan_out").weights()[f"{layer}.weight"].detach().std()) == pytest.approx(deviation, rel=0.05)
    for name, weight in wide("xavier").weights().items():
        if weight.ndim == 1:
            assert bool((weight == (1 if name.endswith("norm.weight") else 0)).all())


def test_patches_are_the_neighbourhoods_of_every_pixel() -> None:
    x = images((3, 16, 20))
    patches = network((3, 16, 20)).prepare(x)
    rows = patches.rows.flatten(0, 1)
    assert patches.rows.shape == (4, 16 * 20, 28)
    assert torch.equal(patches.rows[:, :, 4:27:9].transpose(1, 2).reshape(x.shape), x)  # the middle of each patch
    assert bool((rows[:, -1] == 1).all())
    torch.testing.assert_close(patches.mean, rows[:, :-1].mean(0))
    torch.testing.assert_close(patches.covariance, torch.cov(rows[:, :-1].t(), correction=0))


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "maml"}), Random((7,), "values"))
    assert str(caught.value) == "model.name: conv4 takes images, not inputs of shape (7,); allowed: mlp"


# Networks of the sources


def plain(x: Tensor, weights: dict[str, Tensor], stride: int, pools: int, eps: float) -> Tensor:
    """Convolution with explicit zeros, batch norm without a scale, ReLU, pooling, the mean over places, the head."""
    for i in range(1, 5):
        height, width = x.shape[-2:]
        if stride == 2:  # TensorFlow's `same`: what is odd in the padding is at the bottom and right
            x = F.pad(x, (width % 2, 1, height % 2, 1))
            x = F.conv2d(x, weights[f"block{i}.weight"], weights[f"block{i}.bias"], stride=2)
        else:
            x = F.conv2d(x, weights[f"block{i}.weight"], weights[f"block{i}.bias"], padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + eps).sqrt()
        shift = weights[f"block{i}.norm.bias"][:, None, None]
        x = F.relu(x * weights.get(f"block{i}.norm.weight", torch.ones(8).double())[:, None, None] + shift)
        x = F.max_pool2d(x, 2) if i <= pools else x
    return x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("norm", ["batch", "support"])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(("stride", "pools"), [(2, 0), (1, 0), (2, 1), (1, 4)])
def test_networks_of_the_sources(stride: Any, pools: int, scale: bool, norm: Any) -> None:
    """MAML's on Omniglot is the first, MetaMix's the second; sides are even and odd."""
    model: dict[str, Any] = {"stride": stride, "pools": pools, "spatial_mean": True, "norm_scale": scale, "norm": norm}
    for shape in ((1, 28, 28), (3, 21, 18)):
        built, x = network(shape, norm_eps=1e-3, **model), images(shape)
        weights = {name: (weight + 0.1).detach().requires_grad_() for name, weight in built.weights().items()}
        assert any(name.endswith("norm.weight") for name in weights) is scale
        assert weights["head.weight"].shape == (5, 8)
        found, expected = built(built.prepare(x), weights, Pass()), plain(x, weights, stride, pools, 1e-3)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for ours, theirs in zip(
            torch.autograd.grad((found * expected.detach()).sum(), list(weights.values())),
            torch.autograd.grad((expected * expected.detach()).sum(), list(weights.values())),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        assert built.map_shape == tuple(built.maps(built.prepare(x), weights, Pass()).shape[1:])


def test_finns_sides() -> None:
    assert network((1, 28, 28), stride=2, pools=0).map_shape == (8, 2, 2)
    assert network((1, 28, 28), pools=0).map_shape == (8, 28, 28)


def test_images_that_shrink_to_nothing_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        network((1, 28, 28), stride=2)
    assert str(caught.value) == (
        "model: images of 28x28 pixels shrink to nothing in block 3 of conv4 with stride 2 and pools 4; use larger "
        "images or fewer pools"
    )
