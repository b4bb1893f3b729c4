"""The native 3x3 convolution against torch's."""

import os
import threading
from collections import Counter
from functools import partial
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from raymeta.ops import convolution
from raymeta.ops.convolution import Geometry, conv3x3, kernel_layout

DOUBLE, SINGLE = torch.float64, torch.float32


def drawn(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def laid_out(x: Tensor, how: str) -> Tensor:
    """The same numbers in another place in memory."""
    if how == "misaligned":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    if how == "strided":
        return torch.stack([x, x], -1)[..., 0]
    return x.contiguous(memory_format=torch.channels_last) if how == "channels last" else x.contiguous()


LAYOUTS = st.sampled_from(["contiguous", "channels last", "strided", "misaligned"])


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(
    n=st.integers(1, 3), channels=st.integers(1, 35), width=st.integers(1, 70), height=st.integers(1, 9),
    across=st.integers(1, 9), padding=st.sampled_from([1, 1, 0]), tile=st.sampled_from([2, 4]),
    dtype=st.sampled_from([SINGLE, DOUBLE]), layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
)  # fmt: skip
def test_any_shape_is_right(
    n: int, channels: int, width: int, height: int, across: int, padding: int, tile: int, dtype: torch.dtype,
    layouts: Any,
) -> None:  # fmt: skip
    height, across = (side + 2 - 2 * padding for side in (height, across))
    x, w = drawn(n, channels, height, across, dtype=dtype), drawn(width, channels, 3, 3, dtype=dtype, seed=1)
    dz = drawn(n, width, height + 2 * padding - 2, across + 2 * padding - 2, dtype=dtype, seed=2)
    exact = [one.double().requires_grad_() for one in (x, w)]
    expected = F.conv2d(*exact, padding=padding)
    x, w, dz = (laid_out(one, how) for one, how in zip((x, w, dz), layouts, strict=True))
    given = [one.detach().requires_grad_() for one in (x, w)]
    found = conv3x3(*given, Geometry(padding, tile))
    assert found.is_contiguous(memory_format=torch.channels_last)
    pairs = [(found, expected)]
    pairs += zip(torch.autograd.grad(found, given, dz), torch.autograd.grad(expected, exact, dz.double()), strict=True)
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        error = float((ours.double() - theirs).norm() / theirs.norm())
        assert error < (1e-13 if dtype == DOUBLE else 2e-6)


@pytest.mark.parametrize("geometry", [Geometry(0), Geometry(1), Geometry(1, 4)], ids=str)
def test_derivatives_of_every_order(geometry: Geometry) -> None:
    x, w = drawn(2, 3, 4, 5).requires_grad_(), drawn(2, 3, 3, 3, seed=1).requires_grad_()
    gradcheck(lambda x, w: conv3x3(x, w, geometry), (x, w))
    gradgradcheck(lambda x, w: conv3x3(x, w, geometry), (x, w))

    def third(convolve: Any) -> tuple[Tensor, ...]:
        h = convolve(x, w)
        for _ in range(2):
            h = sum((g**2).sum() for g in torch.autograd.grad((h**2).sum(), (x, w), create_graph=True))
        return torch.autograd.grad(h, (x, w))

    expected = third(lambda x, w: F.conv2d(x, w, padding=geometry.padding))
    for ours, theirs in zip(third(lambda x, w: conv3x3(x, w, geometry)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_only_what_is_asked_for_is_computed_and_z_is_differentiated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In second order both gradients that a result has meet before it is differentiated: five calls for a step."""
    calls: list[tuple[str, int]] = []
    real = convolution.call

    def counted(name: str, like: Tensor, *arguments: Any) -> None:
        calls.append((name, sum(one is None for one in arguments)))
        real(name, like, *arguments)

    monkeypatch.setattr(convolution, "call", counted)
    x, w = drawn(2, 4, 6, 6), drawn(4, 4, 3, 3).requires_grad_()
    conv3x3(x, w, Geometry()).square().sum().backward()
    assert calls == [("convolve", 2), ("convolve_back", 2)]  # without w and the gradient of x
    calls.clear()
    x.requires_grad_()
    inner = torch.autograd.grad(conv3x3(x, w, Geometry()).tanh().sum(), (x, w), create_graph=True)
    sum(one.square().sum() for one in inner).backward()
    assert Counter(name for name, _ in calls) == {"convolve": 2, "convolve_back": 3}


@pytest.mark.parametrize(("n", "channels", "side"), [(75, 32, 14), (10, 48, 21)])
def test_float32_is_as_exact_as_torch(n: int, channels: int, side: int) -> None:
    """The weight's gradient is a long sum: over all places of all images. By tiles of 4 the others have four times the
    error at most.
    """
    x, dz = drawn(n, channels, side, side).relu(), drawn(n, channels, side, side, seed=1) + 0.3
    w = drawn(channels, channels, 3, 3, seed=2)

    def step(convolve: Any, dtype: torch.dtype) -> list[Tensor]:
        given = [one.to(dtype).requires_grad_() for one in (x, w)]
        z = convolve(*given)
        return [z.detach(), *torch.autograd.grad(z, given, dz.to(dtype))]

    torchs = partial(F.conv2d, padding=1)
    exact, usual = step(torchs, DOUBLE), step(torchs, SINGLE)
    for tile, factors in ((2, (1.2, 1.2, 1.2)), (4, (4.0, 4.0, 1.2))):
        ours = step(partial(conv3x3, geometry=Geometry(1, tile)), SINGLE)
        for found, torchs_own, right, factor in zip(ours, usual, exact, factors, strict=True):
            error, allowed = (float((one - right).norm() / right.norm()) for one in (found, torchs_own))
            assert error < max(factor * allowed, 3e-7)


def test_kernel_layout_changes_memory_alone() -> None:
    w = drawn(5, 3, 3, 3)
    assert torch.equal(kernel_layout(w), w)
    assert kernel_layout(w).permute(2, 3, 1, 0).is_contiguous()
    assert kernel_layout(kernel_layout(w)).data_ptr() != w.data_ptr()


def test_threads_and_forks_have_memory_of_their_own() -> None:
    x, w = drawn(3, 20, 9, 9), drawn(20, 20, 3, 3)
    expected = conv3x3(x, w, Geometry())
    wrong: list[int] = []

    def work(number: int) -> None:
        shape = 2 + number
        small = conv3x3(x[:, :shape], w[:, :shape], Geometry())
        if not (
            torch.equal(conv3x3(x, w, Geometry()), expected)
            and torch.equal(conv3x3(x[:, :shape], w[:, :shape], Geometry()), small)
        ):
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(conv3x3(x, w, Geometry()), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
