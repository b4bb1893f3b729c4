"""Cells, resized filters, wanted maps and their peaks against loops, NumPy's interpolation and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymeta.problems.tracking.crest.maps import (
    WINDOW,
    bell,
    cells,
    extent,
    inside,
    largest,
    maps_of,
    peak,
    resizing,
    wanted,
)

GRIDS = st.integers(5, 50).map(lambda half: 2 * half + 1)


@settings(max_examples=20, deadline=None)
@given(GRIDS, st.floats(0.05, 1))
def test_sizes_are_the_codes(grid: int, ratio: float) -> None:
    """Of a window of 5 longer sides: ceil, halved, ceil; the longer side's filter is the largest."""
    share = torch.tensor([1 / WINDOW, ratio / WINDOW], dtype=torch.float64)
    found = extent(share.float(), grid)
    for one, size in zip(found.tolist(), share.tolist(), strict=True):
        counted = math.ceil(size * grid - 1e-3)
        assert one == 2 * math.ceil(counted / 2) + 1
    assert found[0] == largest(grid)
    assert (cells(share, grid) >= 1).all()


def test_sizes_that_can_not_be_stay_on_the_canvas() -> None:
    assert extent(torch.tensor([-1.0, 0.0, 3.0]), 11).tolist() == [3, 3, largest(11)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(3, 25), st.integers(0, 4))
def test_resizing_is_linear_interpolation_with_aligned_ends_in_the_middle_of_a_canvas(
    half: int, own: int, margin: int
) -> None:
    count, values = 2 * half + 1, np.random.default_rng(own).normal(size=own)
    canvas = count + 2 * margin
    matrix = resizing(torch.tensor(float(count), dtype=torch.float64), canvas, own)
    expected = np.interp(np.linspace(0, own - 1, count), np.arange(own), values)
    np.testing.assert_allclose((matrix.numpy() @ values)[margin : canvas - margin], expected, rtol=1e-9, atol=1e-12)
    outside = inside(torch.tensor(float(count)), canvas) == 0
    assert outside.sum() == 2 * margin
    assert (matrix[outside] == 0).all()
    if count == own:
        torch.testing.assert_close(matrix[margin : canvas - margin], torch.eye(own, dtype=torch.float64))


def test_the_wanted_map_by_hand() -> None:
    grid, y = 21, torch.tensor([[2 / 21, -3 / 21, 4 / 21, 2.5 / 21]], dtype=torch.float64)
    (found,) = wanted(y, grid)
    for row in range(grid):
        for column in range(grid):
            across, down = (column - 10 - 2) / 0.4, (row - 10 + 3) / 0.3  # cells are rounded up
            assert float(found[row, column]) == pytest.approx(math.exp(-0.3 * (across**2 + down**2)), rel=1e-9)
    assert found.max() == found[7, 12]


@settings(max_examples=30, deadline=None)
@given(st.floats(-6, 6), st.floats(-6, 6), st.floats(0.8, 4))
def test_peaks_are_found_between_cells(x: float, y: float, deviation: float) -> None:
    place, wide = torch.tensor([[x, y]], dtype=torch.float64), torch.full((1, 2), deviation, dtype=torch.float64)
    maps = bell(place, wide, 15)
    assert (peak(maps) - place).abs().max() < 0.25  # a bell is no parabola; its cell alone is up to 0.5 away
    parabola = -((torch.arange(15.0) - 7 - x).square() + (torch.arange(15.0)[:, None] - 7 - y).square())
    torch.testing.assert_close(peak(parabola.double()[None]), place, rtol=0, atol=1e-4)


def test_a_peak_at_the_edge_or_of_a_flat_map_is_its_cell() -> None:
    maps = torch.zeros(3, 5, 5)
    maps[0, 0, 4] = 1
    maps[1, 4, 2] = 1
    assert peak(maps).tolist() == [[2, -2], [0, 2], [-2, -2]]


def test_maps_are_what_stands_before_the_size() -> None:
    outputs = torch.arange(2 * 27.0).reshape(2, 27)
    np.testing.assert_array_equal(maps_of(outputs)[1].numpy(), np.arange(27, 52).reshape(5, 5))
