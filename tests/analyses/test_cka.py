"""CKA against independent code, its invariances, and learners that leave layers as they are."""

from itertools import permutations

import numpy as np
import pytest
import torch
from analyses.conftest import subject
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raymeta.analyses.cka import CKA, linear, unbiased
from raymeta.analysis import AnalysisConfig
from raymeta.errors import UserError

Array = NDArray[np.float64]


def features(n: int, width: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((n, width))


def cka(x: Array, y: Array) -> float:
    return linear(torch.from_numpy(x), torch.from_numpy(y))


def direct(x: Array, y: Array) -> float:
    """HSIC with the centring matrix, as Kornblith et al. write it."""

    def hsic(x: Array, y: Array) -> float:
        n = len(x)
        centring = np.eye(n) - np.ones((n, n)) / n
        return float(np.trace(x @ x.T @ centring @ y @ y.T @ centring)) / (n - 1) ** 2

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def by_tuples(x: Array, y: Array) -> float:
    """The unbiased HSIC as means over tuples of different examples: E kk' + E k E k' - 2 E[E k E k']."""
    k, m = x @ x.T, y @ y.T
    pairs, triples, fours = (list(permutations(range(len(x)), count)) for count in (2, 3, 4))
    return float(
        np.mean([k[i, j] * m[i, j] for i, j in pairs])
        + np.mean([k[i, j] * m[q, r] for i, j, q, r in fours])
        - 2 * np.mean([k[i, j] * m[i, q] for i, j, q in triples])
    )


def test_it_is_the_one_by_the_centring_matrix_and_by_features() -> None:
    x, y = features(12, 5, 0), features(12, 7, 1)
    x += y[:, :5]
    assert cka(x, y) == pytest.approx(direct(x, y), rel=1e-12)
    a, b = x - x.mean(0), y - y.mean(0)
    by_features = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert cka(x, y) == pytest.approx(by_features, rel=1e-12)


def test_the_unbiased_one_is_the_mean_over_tuples() -> None:
    x, y = features(7, 3, 2), features(7, 4, 3)
    y[:, :3] += 2 * x
    expected = by_tuples(x, y) / np.sqrt(by_tuples(x, x) * by_tuples(y, y))
    assert unbiased(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-10)


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_it_does_not_see_rotations_scales_and_shifts(seed: int, scale: float, shift: float) -> None:
    x, y = features(9, 4, seed), features(9, 4, seed + 1)
    turned = scale * x @ np.linalg.qr(features(4, 4, seed + 2))[0] + shift
    assert cka(x, turned) == pytest.approx(1, abs=1e-8)
    assert cka(x, y) == pytest.approx(cka(turned, y), abs=1e-8)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)
    both = unbiased(torch.from_numpy(x), torch.from_numpy(turned))
    assert np.isnan(both) or both == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(("n", "width", "biased"), [(75, 800, 0.92), (25, 48, 0.66)])
def test_with_more_features_than_examples_the_plain_one_is_biased(n: int, width: int, biased: float) -> None:
    pairs = [(features(n, width, seed), features(n, width, seed + 100)) for seed in range(10)]
    assert np.mean([cka(x, y) for x, y in pairs]) == pytest.approx(biased, abs=0.015)
    free = [unbiased(torch.from_numpy(x), torch.from_numpy(y)) for x, y in pairs]
    assert abs(np.mean(free)) < 0.05


def test_what_the_inner_loop_leaves_alone_stays_as_it_was() -> None:
    rows = CKA(AnalysisConfig(tasks=2)).measure(subject("anil", anil={"inner_lr": 0.5}))
    assert [row["layer"] for row in rows] == 2 * ["layer1", "layer2", "outputs"]
    body = [row for row in rows if row["layer"] != "outputs"]
    assert [row["cka"] for row in body] == pytest.approx([1] * 4, abs=1e-12)
    assert [row["cka_unbiased"] for row in body] == pytest.approx([1] * 4, abs=1e-12)


def test_what_it_moves_changes_but_not_at_a_rate_of_nothing() -> None:
    images = {"maml": {"inner_lr": 0.4}}
    rows = CKA(AnalysisConfig(tasks=1)).measure(subject("maml", "images", **images))
    assert [row["layer"] for row in rows] == ["block1", "block2", "block3", "block4", "outputs"]
    assert all(0 <= row["cka"] < 1 - 1e-6 for row in rows)
    still = CKA(AnalysisConfig(tasks=1)).measure(subject("maml", "images", maml={"inner_lr": 0.0}))
    assert [row["cka"] for row in still] == pytest.approx([1] * 5, abs=1e-12)


def test_too_few_queries_are_refused() -> None:
    few = {"task": {"problem": "sinusoid", "shots": 5, "queries": 5, "eval_queries": 3}}
    with pytest.raises(UserError, match=r"^cka: found 3 query examples, but it needs 4 or more of a task$"):
        CKA(AnalysisConfig(tasks=1)).measure(subject("maml", task=few["task"]))
