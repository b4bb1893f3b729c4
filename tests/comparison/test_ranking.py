"""Ranks over many tasks, against the formulas and the table of Demšar (2006)."""

import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from comparison.test_compare import PERCENT, scores
from scipy import stats

from raymeta.comparison.entries import TEST, Entry
from raymeta.comparison.ranking import Ranking, critical, friedman, rank
from raymeta.errors import UserError
from raymeta.problems.images.task import ImagesTask


def entry(method: str, mean: float, **task: object) -> Entry:
    found = ImagesTask(**task)  # type: ignore[arg-type]
    drawn = np.asarray(scores(mean, seeds=2, tasks=50, seed=sum(map(ord, method))))
    return Entry("run", method, PERCENT, found, TEST, 0, "", 100, drawn)


def grid(means: np.ndarray) -> list[Entry]:
    """Of means, [methods, tasks]."""
    return [
        entry(f"m{number}", mean, ways=5 + column)
        for number, row in enumerate(means)
        for column, mean in enumerate(row)
    ]


def test_critical_values_are_the_published_ones() -> None:
    """Table 5(a): q at 5 % for 2 to 10 methods."""
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for methods, q in enumerate(published, start=2):
        assert critical(methods, 7) == pytest.approx(q * sqrt(methods * (methods + 1) / 42), rel=1e-3)
    assert critical(4, 14) == pytest.approx(1.25, abs=0.005)  # of the paper's example


def test_friedman_is_its_formula_where_there_are_no_ties() -> None:
    ranks = np.array([[1, 1, 2, 1, 3], [2, 3, 1, 2, 1], [3, 2, 3, 3, 2]], dtype=float)
    k, n = ranks.shape
    chi2 = 12 * n / (k * (k + 1)) * ((ranks.mean(1) ** 2).sum() - k * (k + 1) ** 2 / 4)
    found = (n - 1) * chi2 / (n * (k - 1) - chi2)
    assert friedman(ranks) == pytest.approx(stats.f.sf(found, k - 1, (k - 1) * (n - 1)))


def test_nothing_is_found_among_equal_methods() -> None:
    generator, found = np.random.default_rng(0), 0
    for _ in range(1000):
        ranks = np.argsort(generator.random((5, 12)), axis=0).argsort(0) + 1.0
        one = Ranking([f"m{number}" for number in range(5)], {}, ranks, friedman(ranks), critical(5, 12), [])
        found += bool(one.differing)
    assert found / 1000 <= 0.05 + 1.96 * sqrt(0.05 * 0.95 / 1000)


def test_the_best_of_many_tasks() -> None:
    means = np.array([[0.5], [0.7], [0.6]]) + np.zeros(8)
    found = rank(grid(means))
    assert found.methods == ["m1", "m2", "m0"]
    assert list(found.mean_ranks.values()) == [1, 2, 3]
    assert found.differing == [("m1", "m0")]
    assert found.p == 0
    assert found.sentence == (
        "m1 has the best mean rank over 8 tasks, 1.00, significantly better than m0, not significantly better than m2 "
        "(a critical difference of 1.17, p < 0.001 for any difference)"
    )
    tex = found.written("tex")
    assert r"\begin{tabular}{lrrrrrrrrr}" in tex
    assert tex.count(r"\mathbf{") == 8
    assert all(r"\mathbf{" in cell for cell in tex.splitlines()[5].split(" & ")[1:-1])
    assert json.loads(found.written("json"))["critical_difference"] == pytest.approx(found.critical)
    assert found.written("csv").splitlines()[1].startswith("m1,1.0,0.")
    assert found.written("md").splitlines()[2].startswith("| m1 | 1.00 | ")
    assert "mean rank" in str(found)


def test_scores_are_of_the_tasks_that_all_methods_have() -> None:
    whole = grid(np.array([[0.5], [0.7], [0.6]]) + np.zeros(3))
    short = [replace(whole[0], scores=whole[0].scores[:, :20]), *whole[1:]]
    assert rank(whole).remarks == []
    found, title = rank(short), whole[0].task.title
    assert found.remarks == [f"{title}: the first 20 tasks are compared, which all of them have"]
    assert found.frame().loc["m1", title] == pytest.approx(whole[3].scores[:, :20].mean())
    assert all(found.remarks[0] in text for text in (found.written("md"), found.written("tex"), str(found)))
    assert found.as_dict()["remarks"] == found.remarks


def test_too_few_tasks_to_tell_pairs_apart() -> None:
    found = rank(grid(np.array([[0.5], [0.7], [0.6]]) + np.zeros(2)))
    assert found.differing == []
    assert "with so few tasks no pair can differ significantly" in found.sentence
    mixed = rank(grid(np.array([[0.5, 0.7, 0.6], [0.7, 0.6, 0.5], [0.6, 0.5, 0.7]])))
    assert "no differences between methods are significant" in mixed.sentence


def test_each_method_once_in_each_task() -> None:
    whole = grid(np.array([[0.5], [0.7], [0.6]]) + np.zeros(3))
    with pytest.raises(UserError, match=r"found m0 0 times in .*: expected each method once in each task"):
        rank(whole[1:])
    with pytest.raises(UserError, match="found m0 2 times in"):
        rank([whole[0], *whole])
    with pytest.raises(UserError, match="found 2 methods"):
        rank(whole[3:])
