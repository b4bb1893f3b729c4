"""Overlaps, drawn boxes and curves against code of their own, closed forms and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymeta.problems.tracking.boxes import Draw, Way, drawn, overlap, repeated, sampled
from raymeta.problems.tracking.scores import CEILING, followed
from raymeta.problems.tracking.sdnet.regression import BoxRegression, moved, moves
from raymeta.problems.uniforms import Uniforms

SIDES = st.integers(1, 30)
BOXES = st.tuples(st.integers(0, 40), st.integers(0, 40), SIDES, SIDES)
WAYS: list[Way] = ["gaussian", "uniform", "whole"]


def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    """Of whole numbers: the pixels."""
    x, y, w, h = box
    return {(column, row) for column in range(x, x + w) for row in range(y, y + h)}


@settings(max_examples=25)
@given(BOXES, BOXES)
def test_overlap_is_that_of_pixels_counted(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> None:
    both, either = cells(first) & cells(second), cells(first) | cells(second)
    found = overlap(np.array(first, float), np.array(second, float))
    assert float(found) == pytest.approx(len(both) / len(either))
    assert float(overlap(np.array(second, float), np.array(first, float))) == float(found)
    assert float(overlap(np.array(first, float), np.array(first, float))) == 1


def test_overlap_of_half_shifted_and_of_nothing() -> None:
    box = np.array([3.0, 4, 10, 6])
    assert float(overlap(box, box + np.array([5, 0, 0, 0]))) == pytest.approx(1 / 3)
    assert float(overlap(box, box + np.array([1, 0, 0, 0]))) == pytest.approx(9 * 6 / (2 * 60 - 54))
    assert float(overlap(box, np.array([50.0, 50, 3, 3]))) == 0
    assert float(overlap(np.zeros(4), np.zeros(4))) == 0


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_drawn_boxes_stay_in_the_frame_within_their_bounds(way: Way, seed: int) -> None:
    chance, size = np.random.default_rng(seed), (90, 70)
    box = np.array([30.0, 20, *(12 + 20 * chance.random(2))])
    some = drawn(Uniforms("x", seed).generator(0), Draw(way, 1.0, 1.5), box, size, 50)
    assert (some[:, :2] > -1e-9).all()
    assert (some[:, 0] + some[:, 2] < 90 + 1e-9).all()
    assert (some[:, 1] + some[:, 3] < 70 + 1e-9).all()
    assert (some[:, 2:] >= 10 - 1e-9).all()
    again = drawn(Uniforms("x", seed).generator(0), Draw(way, 1.0, 1.5), box, size, 50)
    np.testing.assert_array_equal(some, again)
    far = sampled(Uniforms("x", seed).generator(1), Draw(way, 1.0, 1.2, high=0.5), box, size, 40)
    assert len(far) <= 40
    assert (overlap(far, box) <= 0.5).all()
    near = sampled(Uniforms("x", seed).generator(2), Draw("gaussian", 0.1, 1.2, low=0.7), box, size, 40)
    assert len(near) > 20
    assert (overlap(near, box) >= 0.7).all()


def test_spread_and_growth_are_the_formulas() -> None:
    box, size = np.array([400.0, 300, 40, 20]), (1000, 800)
    gaussian = drawn(Uniforms("y").generator(0), Draw("gaussian", 0.1, 1.2), box, size, 20_000)
    middles = gaussian[:, :2] + gaussian[:, 2:] / 2 - (box[:2] + box[2:] / 2)
    assert np.abs(middles).max() <= 0.1 * 30 + 1e-9
    z = np.random.default_rng(0).normal(size=200_000)
    assert middles.std() == pytest.approx(0.1 * 30 * (z / 2).clip(-1, 1).std(), rel=0.02)
    area = np.log(gaussian[:, 2] * gaussian[:, 3] / 800) / 2 / np.log(1.2)
    assert area.std() == pytest.approx((z / 2).clip(-1, 1).std(), rel=0.03)
    aspect = np.log(gaussian[:, 2] / gaussian[:, 3] / 2) / 2 / np.log(1.1)
    assert aspect.std() == pytest.approx(1 / 3**0.5, rel=0.02)
    assert np.abs(aspect).max() <= 1 + 1e-9
    uniform = drawn(Uniforms("y").generator(1), Draw("uniform", 1.0, 1.2), box, size, 20_000)
    apart = (uniform[:, :2] + uniform[:, 2:] / 2 - (box[:2] + box[2:] / 2)) / 30
    assert apart.std() == pytest.approx(1 / 3**0.5, rel=0.02)
    whole = drawn(Uniforms("y").generator(2), Draw("whole", 0.0, 1.0), box, size, 400)
    assert whole[:, 0].min() == 0
    assert (whole[:, 0] + whole[:, 2]).max() == pytest.approx(1000)
    assert len({tuple(place) for place in (whole[:, :2] + whole[:, 2:] / 2).round(6)}) == 400  # each cell once


def test_too_few_are_repeated() -> None:
    np.testing.assert_array_equal(repeated(np.arange(8.0).reshape(2, 4), 5)[:, 0], [0, 4, 0, 4, 0])


def slow_curves(found: np.ndarray, truth: np.ndarray) -> tuple[list[float], list[float]]:
    """Frame by frame and threshold by threshold."""
    success, precision = [], []
    for number in range(21):
        above = 0
        for one, other in zip(found, truth, strict=True):
            x = max(0.0, min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0]))
            y = max(0.0, min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1]))
            above += x * y / (one[2] * one[3] + other[2] * other[3] - x * y) > number / 20
        success.append(above / len(found))
    for pixels in range(51):
        near = 0
        for one, other in zip(found, truth, strict=True):
            dx = one[0] + (one[2] - 1) / 2 - other[0] - (other[2] - 1) / 2
            dy = one[1] + (one[3] - 1) / 2 - other[1] - (other[3] - 1) / 2
            near += (dx * dx + dy * dy) ** 0.5 <= pixels
        precision.append(near / len(found))
    return success, precision


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_curves_are_those_counted_frame_by_frame(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth = np.concatenate([60 * chance.random((30, 2)), 5 + 30 * chance.random((30, 2))], 1)
    found = truth + chance.normal(0, 8, (30, 4))
    found[:, 2:] = np.abs(found[:, 2:]) + 1
    score = followed(found, truth)
    success, precision = slow_curves(found, truth)
    np.testing.assert_allclose(score.success, success)
    np.testing.assert_allclose(score.precision, precision)
    assert score.auc == pytest.approx(np.mean(success))
    assert score.precise == precision[20]
    assert (np.diff(score.success) <= 0).all()
    assert (np.diff(score.precision) >= 0).all()


def test_the_ceiling_and_other_closed_forms() -> None:
    truth = np.array([[10.0, 10, 20, 20]] * 7)
    assert followed(truth, truth).auc == pytest.approx(CEILING) == pytest.approx(0.952, abs=5e-4)
    half = truth * [1, 1, 0.5, 1]
    assert followed(half, truth).auc == pytest.approx(10 / 21)  # an overlap of .5 is above 0 .. .45
    assert followed(truth + np.array([60, 0, 0, 0]), truth).auc == 0
    absent = truth.copy()
    absent[3] = np.nan
    assert followed(truth, absent).auc == pytest.approx(CEILING)
    shifted = followed(truth + np.array([20, 0, 0, 0]), truth)
    assert (shifted.precision[19], shifted.precise) == (0, 1)


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_moves_take_boxes_to_the_target_and_the_regression_is_ridge(seed: int) -> None:
    chance = np.random.default_rng(seed)
    boxes = np.concatenate([50 * chance.random((12, 2)), 10 + 20 * chance.random((12, 2))], 1)
    target = np.array([20.0, 15, 18, 25])
    np.testing.assert_allclose(moved(boxes, moves(boxes, target)), np.tile(target, (12, 1)))
    features, strength = chance.normal(size=(12, 30)), 3.0
    found = BoxRegression(features, boxes, target, strength)(features[:4], boxes[:4])
    x, y = features - features.mean(0), moves(boxes, target)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(30), x.T @ (y - y.mean(0)))  # in the features' space
    np.testing.assert_allclose(found, moved(boxes[:4], x[:4] @ weights + y.mean(0)), rtol=1e-8)
