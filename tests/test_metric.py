"""Scores and their interval, which value is better, and how one is printed."""

import math
import statistics

import pytest
import torch

from raymeta.metric import Metric, Score, half_width


def test_the_interval_by_hand() -> None:
    score = Score(torch.tensor([0.2, 0.4, 0.9, 0.7], dtype=torch.float64), 1.0)
    # mean 0.55; deviations -.35 -.15 .35 .15, squares sum to .29; sd = sqrt(.29 / 3); 1.96 sd / sqrt(4)
    assert score.mean == pytest.approx(0.55)
    assert score.ci95 == pytest.approx(1.96 * math.sqrt(0.29 / 3) / 2)
    assert score.ci95 == pytest.approx(1.96 * statistics.stdev([0.2, 0.4, 0.9, 0.7]) / 2)
    assert half_width([0.2, 0.4, 0.9, 0.7]) == pytest.approx(score.ci95)


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        (Metric("accuracy", "max"), [0.2, 0.5, 0.5, math.nan, 0.4, 0.6], [0.2, 0.5, 0.6]),
        (Metric("mse", "min"), [math.nan, math.inf, 3.0, 4.0, 3.0, 2.0, -math.inf], [3.0, 2.0]),
    ],
)
def test_what_is_better(metric: Metric, values: list[float], kept: list[float]) -> None:
    best, seen = None, []
    for value in values:
        if metric.better(value, best):
            best = value
            seen.append(value)
    assert seen == kept


def test_a_value_is_printed_in_its_unit() -> None:
    percent, plain = Metric("accuracy", "max", unit="%", scale=100.0, digits=2), Metric("mse", "min")
    assert percent.text(0.97123) == "97.12 %"
    assert percent.text(0.97123, 0.003) == "97.12 % ± 0.30"
    assert plain.text(1.23456) == "1.2346"
    assert plain.text(1.23456, 0.00012) == "1.2346 ± 0.0001"
