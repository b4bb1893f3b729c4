"""Norm, pooling and activation in one pass, against torch's operations."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from raymeta.ops.tail import Tail, tail

HOWS = [Tail(pool, slope, eps) for pool in (False, True) for slope in (0.0, 0.01, 1.0) for eps in (None, 1e-3)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composed(z: Tensor, scale: Tensor, shift: Tensor, how: Tail) -> Tensor:
    if how.eps is None:
        h = z * scale[:, None, None] + shift[:, None, None]
    else:
        h = F.batch_norm(z, None, None, scale, shift, training=True, eps=how.eps)
    h = F.max_pool2d(h, 2) if how.pool else h
    return F.leaky_relu(h, how.slope) if how.slope else F.relu(h)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_first_and_second_derivatives(how: Tail) -> None:
    given = tuple(one.requires_grad_() for one in (drawn(2, 3, 3, 4), drawn(3, seed=1), drawn(3, seed=2)))
    torch.testing.assert_close(tail(*given, how), composed(*given, how))
    gradcheck(lambda z, scale, shift: tail(z, scale, shift, how), given)
    gradgradcheck(lambda z, scale, shift: tail(z, scale, shift, how), given)


@hypothesis.settings(max_examples=40, derandomize=True)
@hypothesis.given(
    n=st.integers(1, 3), channels=st.integers(1, 35), height=st.integers(1, 9), across=st.integers(1, 9),
    how=st.sampled_from(HOWS), single=st.booleans(), last=st.booleans(),
)  # fmt: skip
def test_any_shape_is_right(
    n: int, channels: int, height: int, across: int, how: Tail, single: bool, last: bool
) -> None:
    """A whole second-order step: the result, the gradients, and the gradients of their squares."""
    height, across = (max(side, 1 + how.pool) for side in (height, across))
    if n * height * across == 1:  # nothing to normalise with
        n = 2
    values = (drawn(n, channels, height, across), drawn(channels, seed=1), drawn(channels, seed=2))

    def step(given: list[Tensor], native: bool) -> list[Tensor]:
        y = tail(*given, how) if native else composed(*given, how)
        first = torch.autograd.grad((y * drawn(*y.shape, seed=3).to(y.dtype)).sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), given, materialize_grads=True)  # type: ignore[arg-type]
        return [y, *first, *second]

    expected = step([one.clone().requires_grad_() for one in values], native=False)
    z, *norm = (one.float() if single else one for one in values)
    z = z.contiguous(memory_format=torch.channels_last) if last else z
    found = step([one.clone().requires_grad_() for one in (z, *norm)], native=True)
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=scale * (3e-3 if single else 1e-9))


@pytest.mark.parametrize("pool", [False, True])
def test_of_equals_the_first_is_picked_and_zero_is_off_as_in_torch(pool: bool) -> None:
    z = torch.tensor([0.0, 1.0]).double().repeat_interleave(36).view(1, 2, 6, 6).requires_grad_()
    scale, shift, how = torch.ones(2).double(), torch.zeros(2).double(), Tail(pool, 0.0, None)
    (ours,) = torch.autograd.grad(tail(z, scale, shift, how).sum(), z)
    (theirs,) = torch.autograd.grad(composed(z, scale, shift, how).sum(), z)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_lost(how: Tail, value: float) -> None:
    """A trial that diverges must be seen to."""
    for place in range(4):
        z = drawn(2, 3, 4, 4)
        z[1, 1, place // 2, place % 2] = value
        found = tail(z, drawn(3), drawn(3), how)
        assert torch.equal(found.isnan(), composed(z, drawn(3), drawn(3), how).isnan())


def test_float32_is_exact_where_the_mean_is_far_from_zero() -> None:
    """Images of which the first is an outlier, too: what is subtracted before squares are summed is its mean."""
    z = drawn(20, 4, 14, 14) + 1000
    z[0] += 50
    scale, shift, how = torch.ones(4).double(), torch.zeros(4).double(), Tail(False, 1.0, 1e-5)
    z = z.float().double()  # what float32 can hold
    expected = composed(z, scale, shift, how)
    found = tail(z.float(), scale.float(), shift.float(), how)
    usual = composed(z.float(), scale.float(), shift.float(), how)
    error, theirs = (float((one - expected).abs().max()) for one in (found, usual))
    assert error < max(theirs, 2e-5)


def test_a_third_derivative_is_refused() -> None:
    z, scale, shift = drawn(2, 3, 4, 4).requires_grad_(), drawn(3), drawn(3)
    (first,) = torch.autograd.grad(tail(z, scale, shift, Tail(True, 0.0, 1e-5)).square().sum(), z, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"^engine.kernels: the native kernels have no third derivatives; set it to torch"
    ):
        torch.autograd.grad(first.square().sum(), z, create_graph=True)
