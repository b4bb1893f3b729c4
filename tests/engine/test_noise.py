"""The noise against the published test vectors of its generator, and as random numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raymeta.engine.noise import EVALUATION, TRAINING, Noise, task_keys, threefry

PI = ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3))
ONES = ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF))
ZEROS = ((0, 0), (0, 0))
# The known answers that Random123 (Salmon et al.) is published with: rounds, (key, block), words.
VECTORS = [
    (13, ZEROS, (0x9D1C5EC6, 0x8BD50731)),
    (13, ONES, (0xFD36D048, 0x2D17272C)),
    (13, PI, (0xBA3E4725, 0xF27D669E)),
    (20, ZEROS, (0x6B200159, 0x99BA4EFE)),
    (20, ONES, (0x1CB996FC, 0xBB002BE7)),
    (20, PI, (0xC4923A9C, 0x483DF7A0)),
]


def words(values: tuple[int, int]) -> tuple[Tensor, Tensor]:
    first, second = (torch.from_numpy(np.array(value, np.uint32).view(np.int32).copy()) for value in values)
    return first, second


def of(seed: int = 0, step: int = 0, task: int = 0, stream: int = TRAINING) -> Noise:
    return Noise(task_keys(seed, step, torch.tensor([task], dtype=torch.int32), stream)[0])


@pytest.mark.parametrize(("rounds", "given", "expected"), VECTORS)
def test_published_vectors(
    rounds: int, given: tuple[tuple[int, int], tuple[int, int]], expected: tuple[int, int]
) -> None:
    found = threefry(words(given[0]), words(given[1]), rounds)
    assert tuple(int(word) % 2**32 for word in found) == expected


def test_a_draw_is_where_it_is_whatever_was_drawn_or_left_out_before_it() -> None:
    shapes = [(3, 5), (700,), (2,), (9000,), (4,)]
    likes = [torch.empty(shape) for shape in shapes]
    whole, kinds = of(3), of(3)
    expected = [whole.normal(like) for like in likes]
    for like, normal in zip(likes, expected, strict=True):
        assert torch.equal(kinds.either(like, lambda u, normal: torch.where(u < 2, normal, u)), normal)
    for kept in range(5):
        noise, uniform = of(3), of(3)
        for place, like in enumerate(likes):
            if place != kept:
                noise.skip(like)
                uniform.skip(like)
            else:
                assert torch.equal(noise.normal(like), expected[place])
                assert uniform.uniform(like).shape == like.shape


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_same_looped_over_batched_and_inside_a_gradient(kind: str) -> None:
    shapes, keys = [(2, 3), (700,), (4,)], task_keys(5, 7, torch.arange(3, dtype=torch.int32))

    def draw(key: Tensor) -> tuple[Tensor, ...]:
        noise = Noise(key)
        return tuple(getattr(noise, kind)(torch.empty(shape, dtype=torch.float64)) for shape in shapes)

    def within(key: Tensor) -> tuple[Tensor, ...]:
        """Drawn while a gradient is computed, as noise on activations is; what is left of the buffer is used later."""
        noise = Noise(key)
        first = torch.func.grad(lambda x: (x * getattr(noise, kind)(x)).sum())(
            torch.ones(shapes[0], dtype=torch.float64)
        )
        return (first, *(getattr(noise, kind)(torch.empty(shape, dtype=torch.float64)) for shape in shapes[1:]))

    looped = [draw(key) for key in keys]
    for batched in (torch.vmap(draw)(keys), torch.vmap(within)(keys)):
        for place, found in enumerate(batched):
            assert torch.equal(found, torch.stack([one[place] for one in looped]))
            assert not torch.equal(found[0], found[1])
    assert looped[0][0].dtype == torch.float64


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.integers(0, 2**20))
def test_a_value_depends_on_its_place_alone(sizes: list[int], seed: int, step: int) -> None:
    """However a stream is cut into draws, blocks of two numbers follow each other."""
    noise = of(seed, step)
    pairs = [noise.uniform(torch.empty(2 * size, dtype=torch.float64)).view(2, size) for size in sizes]
    whole = of(seed, step).uniform(torch.empty(2 * sum(sizes), dtype=torch.float64)).view(2, -1)
    assert torch.equal(torch.cat(pairs, 1), whole)


def test_float32_draws_are_float64_ones_rounded() -> None:
    for kind in ("uniform", "normal"):
        single, double = (
            getattr(of(3), kind)(torch.empty(1001, dtype=dtype)) for dtype in (torch.float32, torch.float64)
        )
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=2e-6)


def test_seeds_steps_tasks_and_streams_have_noise_of_their_own() -> None:
    like = torch.empty(4096, dtype=torch.float64)
    alike = [of(0), of(1), of(2**32 - 1), of(0, 1), of(0, 0, 1), of(0, 0, 0, EVALUATION), of(0, 1, 1)]
    found = torch.stack([one.normal(like) for one in alike])
    correlation = torch.corrcoef(found) - torch.eye(len(alike))
    assert float(correlation.abs().max()) < 5 / math.sqrt(like.numel())


def test_uniform_values_are_uniform_and_independent() -> None:
    """Chi-square of one, and of two successive, values; both within five deviations of their mean."""
    count = 2**20
    values = of(11).uniform(torch.empty(count, dtype=torch.float64))
    assert 0 <= float(values.min()) < 1e-5
    assert 1 - 1e-5 < float(values.max()) < 1
    for cells, where in (
        (256, (values * 256).long()),
        (256, (values[::2] * 16).long() * 16 + (values[1::2] * 16).long()),
        (256, (values[: count // 2] * 16).long() * 16 + (values[count // 2 :] * 16).long()),  # the words of a block
    ):
        expected = len(where) / cells
        chi = float(((where.bincount(minlength=cells) - expected) ** 2 / expected).sum())
        assert abs(chi - (cells - 1)) < 5 * math.sqrt(2 * (cells - 1))


def test_normal_values_are_normal_and_independent() -> None:
    """Kolmogorov-Smirnov at 1e-6, moments, and no correlation with what comes next, also of squares."""
    count = 2**20
    values = of(12).normal(torch.empty(count, dtype=torch.float64))
    ordered, steps = values.sort().values, torch.arange(count, dtype=torch.float64) / count
    distance = float((torch.special.ndtr(ordered) - steps).abs().max())
    assert distance < math.sqrt(-math.log(1e-6 / 2) / (2 * count))
    for power, mean, deviation in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
        assert abs(float((values**power).mean()) - mean) < 5 * deviation / math.sqrt(count)
    for one in (values, values.square()):
        for lag in (1, 2, count // 2):
            pair = torch.corrcoef(torch.stack([one[:-lag], one[lag:]]))[0, 1]
            assert abs(float(pair)) < 5 / math.sqrt(count - lag)


def test_on_a_device_without_data() -> None:
    key = task_keys(0, 0, torch.arange(2, dtype=torch.int32, device="meta"))[0]
    assert Noise(key).normal(torch.empty(5, device="meta")).device.type == "meta"
