"""The first block on images, against a convolution and what follows it."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from raymeta.ops.first import Images, first, folded


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composed(x: Tensor, matrix: Tensor, shift: Tensor, padding: int, pool: bool, slope: float) -> Tensor:
    weight = matrix.view(3, 3, x.shape[1], -1).permute(3, 2, 0, 1)
    h = F.conv2d(x, weight, shift, padding=padding)
    return F.leaky_relu(F.max_pool2d(h, 2) if pool else h, slope)


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("pool", [False, True])
def test_first_and_second_derivatives(pool: bool, slope: float) -> None:
    images, given = Images(drawn(2, 2, 4, 5), 1), (drawn(18, 3, seed=1).requires_grad_(), drawn(3).requires_grad_())
    gradcheck(lambda matrix, shift: first(images, matrix, shift, pool, slope), given)
    gradgradcheck(lambda matrix, shift: first(images, matrix, shift, pool, slope), given)


@hypothesis.settings(max_examples=30, derandomize=True)
@hypothesis.given(
    n=st.integers(1, 3), channels=st.integers(1, 4), width=st.integers(1, 70), height=st.integers(1, 20),
    across=st.integers(1, 20), padding=st.integers(0, 1), pool=st.booleans(), single=st.booleans(),
)  # fmt: skip
def test_any_shape_is_right(
    n: int, channels: int, width: int, height: int, across: int, padding: int, pool: bool, single: bool
) -> None:
    height, across = (max(side, 1 + pool) + 2 - 2 * padding for side in (height, across))
    x, matrix, shift = drawn(n, channels, height, across), drawn(9 * channels, width, seed=1), drawn(width, seed=2)
    exact = [one.clone().requires_grad_() for one in (matrix, shift)]
    expected = composed(x, *exact, padding, pool, 0.01)
    dtype = torch.float32 if single else torch.float64
    given = [one.to(dtype).requires_grad_() for one in (matrix, shift)]
    images = Images(x.to(dtype), padding)
    found = first(images, *given, pool, 0.01)
    dy = drawn(*found.shape, seed=3)
    pairs = [(found, expected)]
    pairs += zip(torch.autograd.grad(found, given, dy.to(dtype)), torch.autograd.grad(expected, exact, dy), strict=True)
    rows = F.unfold(F.pad(x, (padding,) * 4), 3).transpose(1, 2).reshape(-1, channels, 9).transpose(1, 2).flatten(1)
    mean, covariance = images.moments
    pairs += [(mean, rows.mean(0)), (covariance, torch.cov(rows.t(), correction=0))]
    for ours, theirs in pairs:
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=scale * (3e-5 if single else 1e-12))


def test_the_norm_as_part_of_the_weight() -> None:
    images, bias = Images(drawn(3, 2, 5, 6), 1), drawn(4).requires_grad_()
    given = tuple(one.requires_grad_() for one in (drawn(18, 4, seed=1), drawn(4, seed=2), drawn(4, seed=3)))
    found = first(images, *folded(images, *given, bias, 1e-3), False, 1.0)
    convolved = composed(images.x, given[0], given[2] * 0, 1, False, 1.0)
    torch.testing.assert_close(found, F.batch_norm(convolved, None, None, *given[1:], training=True, eps=1e-3))
    (of_bias,) = torch.autograd.grad(found.sum(), bias)
    assert not of_bias.any()
    gradcheck(lambda *given: folded(images, *given, None, 1e-3), given)
    gradgradcheck(lambda *given: folded(images, *given, None, 1e-3), given)
