"""Conv-4 and all that is computed with it, on torch's operations and on the native kernels, in float64."""

from typing import Any

import pytest
import torch
from kernels import need_kernels
from torch import Tensor

from raymeta import registry
from raymeta.models.conv4 import Conv4, Conv4Config
from raymeta.models.passes import Pass
from raymeta.ops import library
from raymeta.schema import merge
from raymeta.testing.suite import outer_gradient, small_trial
from raymeta.training.trainer import Trainer


@pytest.fixture(autouse=True)
def kernels(session_cache: object) -> None:
    need_kernels()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(step: Any, *shape: int, unpadded: int = 0, **config: Any) -> list[list[Tensor]]:
    """What a step makes of the same network on torch and on the native kernels."""
    found = []
    for native in (False, True):
        torch.manual_seed(0)
        model = Conv4(Conv4Config(**config), shape, 3, steps=2, unpadded=unpadded).double()
        for block in (getattr(model, name) for name in model.blocks()):
            if native:
                block.use_native()
        found.append(step(model))
    return found


def second_order(model: Conv4, **hooks: Any) -> list[Tensor]:
    """Outputs, gradients and gradients of their squares of a pass; in `support` mode of one that another normalises."""
    weights = {name: (w + 0.2 * drawn(*w.shape)).detach().requires_grad_() for name, w in model.weights().items()}
    now, x = Pass(step=1, **hooks), model.prepare(drawn(4, *model.input_shape))
    outputs = model(x, weights, now)
    if model.norm_mode == "support":
        outputs = (
            outputs
            + model(model.prepare(drawn(3, *model.input_shape, seed=1)), weights, Pass(moments=now.recorded)).mean()
        )
    first = torch.autograd.grad((outputs**2).sum(), list(weights.values()), create_graph=True)
    second = torch.autograd.grad(sum((one**2).sum() for one in first), list(weights.values()))  # type: ignore[arg-type]
    return [outputs, *first, *second]


def assert_same(torchs: list[Tensor], natives: list[Tensor]) -> None:
    floor = 1e-4 * max(float(one.abs().max()) for one in torchs)  # a bias before a norm has a gradient of rounding
    for theirs, ours in zip(torchs, natives, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-9 * max(float(theirs.abs().max()), floor)


@pytest.mark.parametrize("norm", ["batch", "support", "running", "per_step"])
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((1, 16, 18), {}),
        ((3, 17, 16), {"activation": "leaky_relu", "conv_bias": False, "norm_scale": False, "norm_eps": 1e-3}),
        ((2, 28, 28), {"stride": 2, "pools": 1}),
        ((3, 19, 19), {"pools": 2, "unpadded": 2, "spatial_mean": True}),
    ],
    ids=str,
)
def test_every_kind_of_block(shape: tuple[int, ...], config: dict[str, Any], norm: str) -> None:
    assert_same(*both(second_order, *shape, norm=norm, width=5, **config))


@pytest.mark.parametrize("where", ["on_convolution", "on_normalised", "on_block"])
def test_hooks_see_what_they_see_on_torch(where: str) -> None:
    def changed(h: Tensor, *about: Any) -> Tensor:
        if where == "on_convolution":
            again, layer, _ = about
            name = int(layer[-1])
            return h + 0.1 * again(drawn(5, {1: 3}.get(name, 5), 3, 3, seed=name), drawn(5)).tanh()
        return h * 1.5 - 0.3

    assert_same(*both(lambda model: second_order(model, **{where: (changed,)}), 3, 16, 16, width=5))


def test_without_a_graph_nothing_is_kept_and_outputs_are_the_same() -> None:
    def step(model: Conv4) -> list[Tensor]:
        with torch.no_grad():
            return [model(model.prepare(drawn(4, 1, 16, 16)), model.weights(), Pass())]

    assert_same(*both(step, 1, 16, 16, width=5))


def test_tasks_batched_by_vmap_run_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(model: Conv4) -> list[Tensor]:
        weights = model.weights()
        run = torch.vmap(lambda x: model(model.prepare(x), weights, Pass(vectorized=True)))
        return [run(drawn(2, 4, 1, 16, 16))]

    monkeypatch.setattr("raymeta.ops.library.call", lambda *given: pytest.fail("a kernel was called"))
    assert_same(*both(step, 1, 16, 16, width=5))


ORDERS = {"order": "second", "first_order_share": 0.0}
SPECS = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]
# Between them they use every kind of pass: per step, of both sets at once, with hooks on weights and on activations.
QUICK = {"maml", "mamlpp", "alfa", "cxgrad", "relationnet", "maml+metadropout", "maml+mgaug", "maml+metamix"}


@pytest.mark.parametrize(
    "spec", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS]
)
def test_whole_outer_gradients(spec: str, glyphs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every learner, and of MAML with every regularizer, in second order where there is one."""
    method = spec.split("+")[0]
    fields = registry.find("method", method).Config.model_fields
    own: dict[str, Any] = {method: {key: value for key, value in ORDERS.items() if key in fields}}
    calls: list[str] = []
    found = []
    for kernels in ("torch", "native"):
        trial = small_trial(spec, config=merge(own, {"engine": {"kernels": kernels, "device": "cpu", "tasks": "loop"}}))
        trainer = Trainer(trial)
        function = library._function
        monkeypatch.setattr(library, "_function", lambda name, dtype, f=function: calls.append(name) or f(name, dtype))
        found.append(outer_gradient(trainer))
        monkeypatch.undo()
        assert bool(calls) is (kernels == "native")
    (loss, torchs), (same, natives) = found
    assert same == pytest.approx(loss, rel=1e-10)
    assert torchs.keys() == natives.keys()
    assert_same(list(torchs.values()), list(natives.values()))
