"""The residual networks against torchvision's, against a plain functional ResNet-12, and on weights they are given."""

import copy
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Network, Random, Weights, learner
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from unrolled import assert_gradient, everything, no_norm, relative_error, unrolled_loss

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.models import Backbone
from raymeta.models.passes import Pass
from raymeta.problem import Task

NETWORKS = [("resnet10", {}), ("resnet18", {}), ("resnet12", {"variant": "a"}), ("resnet12", {"variant": "b"})]
every_network = pytest.mark.parametrize(("name", "model"), NETWORKS, ids=["10", "18", "12a", "12b"])
every_norm = pytest.mark.parametrize("norm", ["batch", "support", "running", "per_step"])
TINY = (3, 4, 5, 6)


def images(count: int, shape: tuple[int, ...] = (3, 32, 32), seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(
    name: str, shape: tuple[int, ...] = (3, 32, 32), *, outputs: int | None = 5, shaken: bool = True, **model: Any
) -> Backbone:
    """In float64, three inner steps; shaken: weights off their initial values, so that no scale is 1, no shift 0."""
    torch.manual_seed(0)
    backbone = registry.find("backbone", name)
    built: Backbone = backbone(backbone.Config(**{"channels": TINY, **model}), shape, outputs, steps=3).double()
    if shaken:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def run(model: Backbone, x: Tensor, weights: Weights | None = None, now: Pass | None = None) -> Tensor:
    found: Tensor = model(model.prepare(x), model.weights() if weights is None else weights, now or Pass())
    return found


def resnet12(variant: str, eps: float = 1e-5, plain: int = 0) -> Network:
    """Variants a and b of ResNet-12 line by line, in the textbook order; the statistics are those of x. The last
    `plain` blocks have no shortcut.
    """

    def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        assert normaliser is None

        def conv_norm(h: Tensor, layer: str, padding: int) -> Tensor:
            h = F.conv2d(h, weights[f"{layer}.weight"], None, 1, padding)
            mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
            scale, shift = (weights[f"{layer}.norm.{kind}"][:, None, None] for kind in ("weight", "bias"))
            return (h - mean) / torch.sqrt(variance + eps) * scale + shift

        def activation(h: Tensor) -> Tensor:
            return torch.where(h > 0, h, (0.0 if variant == "a" else 0.1) * h)

        for block in ("block1", "block2", "block3", "block4"):
            h = activation(conv_norm(x, f"{block}.conv1", 1))
            h = activation(conv_norm(h, f"{block}.conv2", 1))
            h = conv_norm(h, f"{block}.conv3", 1)
            beside = int(block[-1]) <= 4 - plain
            x = activation(h + conv_norm(x, f"{block}.shortcut", 0)) if beside else activation(h)
            if variant == "b" or block in ("block1", "block2"):
                x = F.max_pool2d(x, 2)
            elif block == "block3":
                x = F.max_pool2d(x, 2, stride=2, padding=1)
        return x.mean(3).mean(2) @ weights["head.weight"].T + weights["head.bias"]

    return network


def torchvisions(name: str) -> str:
    """A parameter's name in torchvision's network."""
    name = name.replace("stem.norm", "bn1").replace("stem", "conv1").replace("head", "fc").replace("block", "layer")
    for ours, theirs in (("shortcut.norm", "downsample.1"), ("shortcut", "downsample.0")):
        name = name.replace(ours, theirs)
    for i in "12":
        name = name.replace(f".conv{i}.norm", f".bn{i}")
    return name


def of_torchvision(model: Backbone, channels: tuple[int, ...] = (64, 128, 256, 512)) -> TorchvisionResNet:
    """Torchvision's network with the weights of a ResNet-10 or 18, training; other widths are our doing."""
    depths = [len(getattr(model, block)) for block in ("block1", "block2", "block3", "block4")]
    with torch.device("meta"):  # no time for initial values
        theirs = TorchvisionResNet(BasicBlock, depths, num_classes=5)
        if channels != (64, 128, 256, 512):
            theirs.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
            theirs.bn1, theirs.inplanes = nn.BatchNorm2d(channels[0]), channels[0]
            for i in range(4):
                stage = theirs._make_layer(BasicBlock, channels[i], depths[i], stride=1 if i == 0 else 2)
                setattr(theirs, f"layer{i + 1}", stage)
            theirs.fc = nn.Linear(channels[-1], 5)
    theirs = theirs.double().to_empty(device="cpu").train()
    for name, buffer in theirs.named_buffers():
        buffer.fill_(1 if name.endswith("var") else 0)
    named = dict(theirs.named_parameters())
    assert named.keys() == {torchvisions(name) for name in model.weights()}
    with torch.no_grad():
        for name, weight in model.weights().items():
            named[torchvisions(name)].copy_(weight)
    return theirs


def functional(theirs: TorchvisionResNet) -> Network:
    """Torchvision's network as a function of weights with our names."""

    def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        assert normaliser is None
        renamed = {torchvisions(name): weight for name, weight in weights.items()}
        return torch.func.functional_call(theirs, renamed, (x,))  # type: ignore[no-any-return]

    return network


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("resnet10", (64, 128, 256, 512), (3, 75, 90)),
        ("resnet18", (64, 128, 256, 512), (3, 64, 64)),
        ("resnet10", (4, 4, 4, 4), (3, 84, 84)),
        ("resnet18", (5, 3, 3, 8), (3, 84, 84)),
    ],
)
def test_outputs_and_gradients_are_torchvisions(name: str, channels: tuple[int, ...], shape: tuple[int, ...]) -> None:
    model, x = network(name, shape, channels=channels), images(3, shape)
    theirs = of_torchvision(model, channels)
    found, expected = run(model, x), theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    cotangent, named = images(3, (5,), seed=2), dict(theirs.named_parameters())
    for ours, other in zip(
        torch.autograd.grad(found, list(model.parameters()), cotangent),
        torch.autograd.grad(expected, [named[torchvisions(key)] for key in model.weights()], cotangent),
        strict=True,
    ):
        assert float((ours - other).norm()) < 1e-9 * float(other.norm())


def test_running_statistics_are_torchvisions() -> None:
    model = network("resnet10", channels=(64, 128, 256, 512), norm="running")
    theirs = of_torchvision(model)
    for seed in (1, 2):
        torch.testing.assert_close(run(model, images(6, seed=seed)), theirs(images(6, seed=seed)), rtol=1e-9, atol=1e-9)
    one = images(1, seed=3)
    torch.testing.assert_close(run(model, one, now=Pass(training=False)), theirs.eval()(one), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 21, 37)])
def test_outputs_and_gradients_of_resnet12_are_the_textbooks(variant: str, shape: tuple[int, ...]) -> None:
    model, x = network("resnet12", shape, variant=variant, norm_eps=1e-3), images(4, shape)
    weights = model.weights()
    found, expected = run(model, x), resnet12(variant, eps=1e-3)(x, weights, 0, None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = images(4, (5,), seed=2)
    for ours, theirs in zip(
        torch.autograd.grad(found, list(weights.values()), cotangent),
        torch.autograd.grad(expected, list(weights.values()), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_network
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 64), (3, 84, 84), (2, 16, 17)])
def test_shapes_are_announced(name: str, model: dict[str, Any], shape: tuple[int, ...]) -> None:
    built = network(name, shape, outputs=None, **model)
    maps = built.maps(built.prepare(images(2, shape)), built.weights(), Pass())
    assert built.map_shape == maps.shape[1:]
    features = built.features(built.prepare(images(2, shape)), built.weights(), Pass())
    assert features.shape == (2, built.feature_size)
    torch.testing.assert_close(features, maps.flatten(2).mean(2))
    assert torch.equal(run(built, images(2, shape)), features)  # without a head
    assert built.film_channels == ()
    assert not built.batches_tasks_on_cpu


def test_published_sizes_of_the_last_block() -> None:
    assert network("resnet10", (3, 224, 224)).map_shape == (6, 7, 7)
    assert network("resnet12", (3, 84, 84), variant="a").map_shape == (6, 11, 11)
    assert network("resnet12", (3, 84, 84), variant="b").map_shape == (6, 5, 5)


@pytest.mark.parametrize("norm", ["batch", "per_step"])
@pytest.mark.parametrize("inputs", [1, 3])
@every_network
def test_parameters_are_as_many_as_the_formula_says(name: str, model: dict[str, Any], inputs: int, norm: str) -> None:
    rows = 2 * (3 if norm == "per_step" else 1)
    built = network(name, (inputs, 32, 32), norm=norm, **model)
    total, last = TINY[-1] * 5 + 5, inputs
    if name != "resnet12":
        total, last = total + 49 * inputs * TINY[0] + rows * TINY[0], TINY[0]
    for width in TINY:
        if name == "resnet12":
            total += 9 * last * width + 2 * 9 * width**2 + last * width + rows * 4 * width
        else:
            blocks = 1 if name == "resnet10" else 2
            total += 9 * last * width + (2 * blocks - 1) * 9 * width**2 + rows * 2 * blocks * width
            total += last * width + rows * width if last != width else 0
        last = width
    assert sum(parameter.numel() for parameter in built.parameters()) == total


def test_counts_that_are_known() -> None:
    def full(name: str, outputs: int) -> Backbone:
        with torch.device("meta"):
            cls = registry.find("backbone", name)
            return cls(cls.Config(), (3, 84, 84), outputs, steps=1)  # type: ignore[no-any-return]

    assert sum(parameter.numel() for parameter in full("resnet18", 1000).parameters()) == 11_689_512  # torchvision
    resnet12 = full("resnet12", 5)
    assert len(resnet12.weights().keys() - resnet12.norm_names()) == 18  # ALFA adapts 18 tensors
    assert prod(resnet12.weights()["head.weight"].shape) == 5 * 512


@every_norm
@every_network
def test_groups_hold_every_parameter_once(name: str, model: dict[str, Any], norm: str) -> None:
    built = network(name, norm=norm, **model)
    groups = built.groups()
    stem = [] if name == "resnet12" else ["stem"]
    assert list(groups) == [*stem, "block1", "block2", "block3", "block4", "head"]
    assert [key for group in groups.values() for key in group] == list(built.weights())
    assert built.scope("all") == set(built.weights())
    assert built.scope("head") == {"head.weight", "head.bias"}
    assert built.scope("last") == {*groups["block4"], *groups["head"]}
    assert built.scope("stem") == set(groups["stem"] if stem else ())
    assert built.scope("start") == built.scope("stem") | set(groups["block1"])
    assert built.scope("body") == built.scope("all") - built.scope("head")
    rest = built.scope("body") - built.norm_names()
    assert all(built.weights()[key].ndim == 4 for key in rest)
    assert all(built.weights()[key].ndim == (2 if norm == "per_step" else 1) for key in built.norm_names())
    assert built.norm_mode == norm


@pytest.mark.parametrize("plain", range(5))
@pytest.mark.parametrize("variant", ["a", "b"])
def test_the_last_plain_blocks_have_no_shortcut(variant: str, plain: int) -> None:
    built, x = network("resnet12", variant=variant, plain_blocks=plain), images(4)
    beside = {key.split(".")[0] for key in built.shortcut_names()}
    assert beside == {f"block{number}" for number in range(1, 5 - plain)}
    assert built.shortcut_names() == {key for key in built.weights() if "shortcut" in key}
    torch.testing.assert_close(run(built, x), resnet12(variant, plain=plain)(x, built.weights(), 0, None))


def test_initial_weights() -> None:
    def wide(name: str, **model: Any) -> Weights:
        weights = network(name, channels=(32, 48, 64, 80), shaken=False, **model).weights()
        return {key: weight.detach() for key, weight in weights.items()}

    for weights in (wide("resnet10"), wide("resnet12", variant="b")):
        for key, weight in weights.items():
            if weight.ndim == 4 and weight.numel() > 3000:
                deviation = (2 / (prod(weight.shape[2:]) * len(weight))) ** 0.5
                assert float(weight.std()) == pytest.approx(deviation, rel=0.05), key
                assert float(weight.abs().max()) > 3 * deviation  # no uniform distribution
    for key, weight in wide("resnet12", variant="a").items():
        if weight.ndim == 4 and weight.numel() > 3000:
            bound = (6 / (prod(weight.shape[2:]) * sum(weight.shape[:2]))) ** 0.5
            assert bound * 0.99 < float(weight.abs().max()) <= bound, key
            assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.1), key
        elif weight.ndim == 1:
            assert bool((weight == (1 if key.endswith("norm.weight") else 0)).all())


@every_network
def test_the_query_of_support_mode_depends_on_the_support_only(name: str, model: dict[str, Any]) -> None:
    built, support, query = network(name, norm="support", **model), images(6), images(4, seed=2)
    now = Pass()
    of_support = run(built, support, now=now)
    assert len(now.recorded) * 2 == len(built.norm_names())  # every layer has a name of its own
    batch = network(name, norm="batch", **model)
    torch.testing.assert_close(of_support, run(batch, support), rtol=1e-9, atol=1e-9)
    later = Pass(moments=now.recorded)
    torch.testing.assert_close(run(built, support, now=later), of_support)
    together = run(built, query, now=later)
    alone = torch.cat([run(built, query[i : i + 1], now=later) for i in range(len(query))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    other = Pass()
    run(built, images(6, seed=3), now=other)
    assert not torch.allclose(run(built, query, now=Pass(moments=other.recorded)), together)
    moments = torch.autograd.grad(together.sum(), [tensor for pair in now.recorded.values() for tensor in pair])
    assert all(bool(gradient.any()) for gradient in moments)


@every_network
def test_per_step_norm_uses_the_steps_row(name: str, model: dict[str, Any]) -> None:
    built, batch, x = network(name, norm="per_step", **model), network(name, norm="batch", **model), images(5)
    weights = built.weights()
    norms = built.norm_names()
    for step in range(3):
        row = {key: weight[step] if key in norms else weight for key, weight in weights.items()}
        found = run(built, x, now=Pass(step=step))
        torch.testing.assert_close(found, run(batch, x, row), rtol=1e-9, atol=1e-9)
        for key, gradient in zip(
            weights, torch.autograd.grad(found.square().sum(), list(weights.values())), strict=True
        ):
            if key in norms:
                assert gradient.abs().sum(1).nonzero().flatten().tolist() == [step], key


@every_norm
@every_network
def test_fast_weights_take_the_place_of_the_modules_own(name: str, model: dict[str, Any], norm: str) -> None:
    """And all of them have a gradient, the shortcuts' too."""
    built, x = network(name, norm=norm, **model), images(5)
    generator = torch.Generator().manual_seed(3)
    moves = {
        key: (0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)).requires_grad_()
        for key, weight in built.weights().items()
    }
    twin = copy.deepcopy(built)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter += moves[key]
    before = {key: weight.detach().clone() for key, weight in built.weights().items()}
    found = run(built, x, {key: weight + moves[key] for key, weight in built.weights().items()})
    torch.testing.assert_close(found, run(twin, x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, run(built, x))
    gradients = torch.autograd.grad((found * images(5, (5,), seed=2)).sum(), list(moves.values()))
    norms = built.norm_names()
    for key, gradient in zip(moves, gradients, strict=True):
        touched = gradient[:1] if norm == "per_step" and key in norms else gradient
        assert float(touched.norm()) > 1e-4, key
    assert all(torch.equal(weight, before[key]) for key, weight in built.weights().items())


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("adapt_norm", [False, True])
@every_network
def test_outer_gradient_is_the_references(name: str, model: dict[str, Any], adapt_norm: bool, order: str) -> None:
    problem = Random((3, 32, 32), labels=5)
    method = learner(
        problem,
        model={"name": name, "channels": TINY, **model},
        maml={"inner_lr": 0.125, "inner_steps": 2, "adapt_norm": adapt_norm, "order": order},
    )
    slow = resnet12(model["variant"]) if model else functional(of_torchvision(method.model, TINY))

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        return unrolled_loss(slow, theta, task, steps=2, order=order, adapted=everything if adapt_norm else no_norm)

    assert_gradient(method, problem.tasks(2, ways=5), loss)


@pytest.mark.parametrize("norm", ["batch", "support", "per_step"])
@every_network
def test_vmap_over_tasks_is_the_loop(name: str, model: dict[str, Any], norm: str) -> None:
    """A step of gradient descent on a task's support set, then the gradient of its query loss in second order."""
    built = network(name, norm=norm, **model)
    support, query = images(2 * 4).unflatten(0, (2, 4)), images(2 * 3, seed=2).unflatten(0, (2, 3))

    def outer(weights: Weights, support: Tensor, query: Tensor) -> Tensor:
        gradients = torch.func.grad(lambda w: run(built, support, w).square().mean())(weights)
        fast = {key: weight - 0.1 * gradients[key] for key, weight in weights.items()}
        now = Pass()
        run(built, support, fast, now)
        moments = now.recorded if norm == "support" else None
        return run(built, query, fast, Pass(moments=moments)).square().mean()

    weights = {key: weight.detach() for key, weight in built.weights().items()}
    found = torch.vmap(torch.func.grad(outer), in_dims=(None, 0, 0))(weights, support, query)
    for i in range(2):
        expected = torch.func.grad(outer)(weights, support[i], query[i])
        assert relative_error({key: gradient[i] for key, gradient in found.items()}, expected) < 1e-9


@every_network
def test_a_trial_names_them(name: str, model: dict[str, Any]) -> None:
    config = parse_trial({"method": "maml", "model": {"name": name, "channels": list(TINY), **model}})
    assert parse_trial(config.as_dict()) == config
    method = build_learner(config, Random((3, 32, 32)))
    assert type(method.model) is registry.find("backbone", name)
    assert tuple(method.model.groups()["head"]) == ("head.weight", "head.bias")


@pytest.mark.parametrize(
    ("model", "shape", "sentence"),
    [
        ({"name": "resnet18"}, (7,), "resnet18 takes images, not inputs of shape (7,); allowed: mlp"),
        ({"name": "resnet12"}, (7,), "resnet12 takes images, not inputs of shape (7,); allowed: mlp"),
        (
            {"name": "resnet12"},
            (1, 8, 3),
            "resnet12 (variant a) takes images of at least 4x4 pixels, not inputs of shape (1, 8, 3); "
            "allowed: resnet10, resnet18",
        ),
        (
            {"name": "resnet12", "variant": "b"},
            (3, 15, 16),
            "resnet12 (variant b) takes images of at least 16x16 pixels, not inputs of shape (3, 15, 16); "
            "allowed: resnet10, resnet18",
        ),
    ],
)
def test_inputs_they_have_no_use_for_are_refused(model: dict[str, Any], shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "maml", "model": model}), Random(shape))
    assert str(caught.value) == f"model.name: {sentence}"


@pytest.mark.parametrize(("variant", "side"), [("a", 4), ("b", 16)])
def test_the_smallest_images_pass(variant: str, side: int) -> None:
    model = network("resnet12", (3, side, side), variant=variant)
    assert model.map_shape == (6, 1, 1)
    assert run(model, images(4, (3, side, side))).shape == (4, 5)


@pytest.mark.parametrize("key", [{"variant": "c"}, {"channels": [3, 4, 5]}, {"channels": [0, 4, 5, 6]}, {"width": 3}])
def test_settings_they_do_not_have_are_refused(key: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\."):
        parse_trial({"method": "maml", "model": {"name": "resnet12", **key}})
