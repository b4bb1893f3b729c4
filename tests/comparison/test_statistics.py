"""What intervals and tests promise, held against simulated experiments whose truth is known."""

from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raymeta.comparison.statistics import Array, differences, holm, pooled, spread


@dataclass(frozen=True)
class World:
    """Standard deviations: of tasks, which all configs share, of how configs differ in them, of trainings, of noise."""

    seeds: tuple[int, ...] = (3,)  # of the configs in turn
    tasks: int = 600
    difficulty: float = 5.0
    own: float = 2.0
    training: tuple[float, ...] = (0.3,)  # the same
    noise: float = 3.0

    def scores(self, experiments: int, configs: int, generator: np.random.Generator) -> list[Array]:
        """Of configs that are equally good, each [experiments, seeds, tasks]."""
        n, t = experiments, self.tasks
        shared = self.difficulty * generator.standard_normal((n, 1, t))
        each = zip(cycle(self.seeds), cycle(self.training), range(configs), strict=False)
        return [
            shared
            + self.own * generator.standard_normal((n, 1, t))
            + training * generator.standard_normal((n, s, 1))
            + self.noise * generator.standard_normal((n, s, t))
            for s, training, _ in each
        ]


WORLDS = {
    "usual": World(),
    "one seed": World((1,), training=(0.0,)),
    "luck of training": World(training=(0.9,)),
    "no luck of training": World(training=(0.0,)),
    "two seeds": World((2,)),
    "five seeds": World((5,)),
    "few tasks": World(tasks=40, training=(0.5,)),
    "one seed and three": World((1, 3)),
    "one seed and five": World((1, 5), training=(0.9,)),
    "two seeds and five": World((2, 5)),
    "two seeds and five, luck": World((2, 5), training=(0.9,)),
    "three seeds and ten": World((3, 10)),
    "more luck with one": World(training=(0.9, 0.3)),
    "more luck with fewer seeds": World((3, 10), training=(0.9, 0.3)),
}


def coverage(world: World, experiments: int, replicates: int, *, paired: bool = True) -> float:
    """How often the interval has the truth in it, a difference of 1.4."""
    covered, generator, at_once = 0, np.random.default_rng(1), 100
    for _ in range(experiments // at_once):
        a, b = world.scores(at_once, 2, generator)
        if not paired:
            _, b = world.scores(at_once, 2, generator)
        found = differences(a, b + 1.4, paired=paired, replicates=replicates)
        covered += int(((found.low <= 1.4) & (found.high >= 1.4)).sum())
    return covered / experiments


def false_discoveries(world: World, experiments: int, configs: int, replicates: int = 2000) -> float:
    """How often anything is found among configs that are equally good."""
    pairs = [(one, two) for two in range(configs) for one in range(two)]
    scores = world.scores(experiments, configs, np.random.default_rng(2))
    shared = pooled([spread(one) for one in scores])
    options: dict[str, Any] = {"shared": shared, "comparisons": len(pairs), "replicates": replicates}
    p = np.stack([differences(scores[one], scores[two], **options).p for one, two in pairs], axis=1)
    return float(np.mean([holm(row).min() < 0.05 for row in p]))


def test_the_paired_interval_has_the_truth_in_it_19_times_of_20() -> None:
    assert 0.93 < coverage(World(tasks=200), 2000, 2000) < 0.97


def test_nothing_is_found_where_nothing_is() -> None:
    assert false_discoveries(World((1,), tasks=100, training=(0.0,)), 400, 3) <= 0.05 + 1.96 * 0.011


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_the_interval_in_other_worlds(name: str) -> None:
    assert 0.93 < coverage(WORLDS[name], 2000, 2000) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_false_discoveries_in_other_worlds(name: str) -> None:
    world = replace(WORLDS[name], tasks=min(200, WORLDS[name].tasks))
    found = np.mean([false_discoveries(world, 1000, configs) for configs in (2, 4)])
    most = 0.07 if "more luck" in name else 0.05  # three seeds of spreads as 3 to 1 are too few for better
    assert found <= most + 1.96 * 0.005


@pytest.mark.slow
def test_the_unpaired_interval() -> None:
    assert 0.93 < coverage(World(tasks=200), 2000, 2000, paired=False) < 0.97


def test_pairing_takes_the_difficulty_of_tasks_out() -> None:
    a, b = World(training=(0.1,)).scores(1, 2, np.random.default_rng(0))
    widths = [
        (found.high - found.low).item() for paired in (True, False) if (found := differences(a, b, paired=paired))
    ]
    assert widths[0] < 0.8 * widths[1]


def test_with_one_seed_and_many_tasks_it_is_the_normal_interval() -> None:
    a, b = World((1,), training=(0.0,)).scores(5, 2, np.random.default_rng(0))
    found, gap = differences(a, b, replicates=40_000), (b - a)[:, 0]
    half = 1.96 * gap.std(-1, ddof=1) / np.sqrt(600)
    np.testing.assert_allclose(found.mean, gap.mean(-1))
    np.testing.assert_allclose(found.high - found.mean, half, rtol=0.03)
    np.testing.assert_allclose(found.mean - found.low, half, rtol=0.03)
    np.testing.assert_allclose(np.sqrt(found.variance), half / 1.96)
    np.testing.assert_allclose(found.freedom, 599)


def test_with_few_tasks_it_is_as_wide_as_student_s() -> None:
    from scipy import stats

    a, b = World((1,), tasks=12).scores(300, 2, np.random.default_rng(0))
    found, gap = differences(a, b, replicates=4000), (b - a)[:, 0]
    t = stats.t.ppf(0.975, 11) * gap.std(-1, ddof=1) / np.sqrt(12)
    assert ((found.high - found.low) / 2 / t).mean() == pytest.approx(1, abs=0.05)


def test_the_seeds_variance_is_that_of_the_two_way_layout() -> None:
    """Means of many experiments against what they were drawn with."""
    world = World((4,), tasks=50, training=(0.7,))
    (scores,) = world.scores(4000, 1, np.random.default_rng(3))
    found = spread(scores)
    assert (found.raw - found.noise).mean() == pytest.approx(0.7**2, rel=0.05)
    assert found.noise.mean() == pytest.approx(3.0**2 / 50, rel=0.02)


def test_a_config_with_one_seed_has_the_other_s_spread() -> None:
    world = World(training=(2.0,))
    a, b = world.scores(1, 2, np.random.default_rng(0))
    alone = differences(a[:, :1], b[:, :1])
    half = differences(a[:, :1], b)
    own = spread(b)
    assert alone.of_seeds.item() == 0
    assert half.of_seeds.item() == pytest.approx(((own.raw - own.noise) * (1 + 1 / 3)).item())


def test_no_difference_at_all() -> None:
    same = np.full((1, 3, 20), 0.5)
    found = differences(same, same)
    assert (found.mean.item(), found.low.item(), found.high.item(), found.p.item()) == (0, 0, 0, 1)
    always = differences(same, same + 0.1)
    assert (always.low.item(), always.high.item()) == pytest.approx((0.1, 0.1))
    assert always.p.item() < 0.001


def test_turned_round_it_is_the_same_with_the_other_sign() -> None:
    a, b = World((1,), tasks=50).scores(1, 2, np.random.default_rng(0))
    found, back = differences(a, b), differences(b, a)
    assert (back.mean.item(), back.low.item()) == pytest.approx((-found.mean.item(), -found.high.item()))
    assert back.p.item() == pytest.approx(found.p.item())


def test_the_interval_leaves_zero_out_where_p_is_below_a_twentieth() -> None:
    a, b = World(tasks=50).scores(200, 2, np.random.default_rng(0))
    found = differences(a, b + 0.8, replicates=2000)
    same = (found.p < 0.05) == ((found.low > 0) | (found.high < 0))
    assert same.mean() > 0.98  # but for quantiles that lie between two replicates
    assert 20 < (found.p < 0.05).sum() < 180


@settings(max_examples=50)
@given(arrays.arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_is_what_its_definition_says(p: Array) -> None:
    """Hypotheses are rejected from the smallest p on until one is above level / how many are left."""
    corrected = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), list(np.argsort(p, kind="stable"))
        while left and p[left[0]] * len(left) <= level:
            rejected.add(int(left.pop(0)))
        assert rejected == {int(number) for number in np.flatnonzero(corrected <= level)}
    assert (corrected >= p).all()
