"""A block in one operation against torch's, and against convolution and tail one after the other."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import raymeta.ops.library as library
from raymeta.ops import convolution, tail
from raymeta.ops.block import block
from raymeta.ops.convolution import Geometry
from raymeta.ops.tail import Tail

HOWS = [Tail(True, 0.0, 1e-3), Tail(False, 0.01, 1e-3)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs() -> tuple[Tensor, ...]:
    shapes = ((2, 3, 5, 4), (4, 3, 3, 3), (4,), (4,), (4,))
    return tuple(drawn(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes))


def composed(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, bias: Tensor, over: Geometry, how: Tail) -> Tensor:
    h = F.batch_norm(F.conv2d(x, w, bias, padding=over.padding), None, None, scale, shift, training=True, eps=how.eps)
    return F.leaky_relu(F.max_pool2d(h, 2) if how.pool else h, how.slope)


@pytest.mark.parametrize("geometry", [Geometry(0), Geometry(1), Geometry(1, 4)], ids=str)
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_first_and_second_derivatives(how: Tail, geometry: Geometry) -> None:
    given = inputs()
    torch.testing.assert_close(block(*given, geometry, how), composed(*given, geometry, how))
    gradcheck(lambda *given: block(*given, geometry, how), given)
    gradgradcheck(lambda *given: block(*given, geometry, how), given)


@pytest.mark.parametrize("fixed", range(4), ids=["x", "weight", "scale", "shift"])
def test_each_input_may_be_fixed(fixed: int) -> None:
    """Two blocks, the second on the first, and both derivatives of all that is left."""

    def step(run: Any) -> list[Tensor]:
        given = list(inputs())
        given[fixed] = given[fixed].detach()
        left = [one for one in given if one.requires_grad]
        y = run(run(*given, Geometry(), HOWS[1])[:, :3], *given[1:], Geometry(), HOWS[0])
        first = torch.autograd.grad(y.square().sum(), left, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum((one**2).sum() for one in first), left, materialize_grads=True)]  # type: ignore[arg-type]

    for ours, theirs in zip(step(block), step(composed), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_the_bias_is_exactly_zero() -> None:
    *_, bias = given = inputs()
    (found,) = torch.autograd.grad(block(*given, Geometry(), HOWS[0]).square().sum(), bias)
    (torchs,) = torch.autograd.grad(composed(*given, Geometry(), HOWS[0]).square().sum(), bias)
    assert not found.any()
    assert float(torchs.abs().max()) < 1e-12


def test_a_convolution_is_differentiated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In second order what a result owes to the outer loss and to the inner gradient meets first."""
    calls: list[str] = []

    def counted(name: str, *arguments: Any) -> None:
        calls.append(name)
        library.call(name, *arguments)

    for module in (convolution, tail):
        monkeypatch.setattr(module, "call", counted)
    given = inputs()[:4]
    inner = torch.autograd.grad(block(*given, None, Geometry(), HOWS[0]).tanh().sum(), given, create_graph=True)
    sum(one.square().sum() for one in inner).backward()  # type: ignore[union-attr]
    once = {"statistics", "tail", "tail_twice"}
    assert Counter(calls) == {"convolve": 2, "convolve_back": 3, "tail_back": 2} | dict.fromkeys(once, 1)


def test_a_third_derivative_is_refused() -> None:
    given = inputs()
    first = torch.autograd.grad(block(*given, Geometry(), HOWS[0]).square().sum(), given[:4], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^engine.kernels: the native kernels have no third derivatives"):
        torch.autograd.grad(first[1].square().sum(), given[0], create_graph=True)
