"""Mean differences over tasks with 95 % intervals: a bootstrap over tasks, the seeds nested in it.

A config's scores are [seeds, tasks]. All configs are scored on the same tasks, so a task's difficulty cancels in the
difference of two; trainings with other seeds are nested in their config, and don't cancel. The variance of a mean is

    seeds:  of the seeds' means, over their number                                      freedom: seeds - 1
    tasks:  of the differences, averaged over seeds, a task each, over their number,
            less the noise of single scores, which is in the seeds' means already       freedom: tasks - 1

The noise is the residual of the two-way layout of seeds and tasks without replication (Searle, Casella and McCulloch
1992, chapter 4). It is taken off the tasks' part, of which much is known, not off the seeds', of which little is: a
variance of few seeds less something would often be zero.

Configs with three seeds or more have spreads of their own, and the freedom of their sum is by Welch (1947). Where one
has fewer, both are taken to have that of all configs of the comparison, pooled: two seeds say next to nothing of
theirs, and one nothing.

A replicate of the mean's error is the mean of tasks drawn with replacement, minus the mean (Efron and Tibshirani 1993,
chapter 13), plus a normal draw for the seeds; each is divided by a draw of sqrt(chi2 / freedom), which makes
Student's t of a normal error, so that a few seeds or tasks widen the interval as far as they must. Interval and p are
quantiles of the replicates, so the interval leaves zero out where p is below 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REPLICATES = 10_000
CHUNK = 1000  # replicates at a time
FEWEST_BEYOND = 25  # replicates on either side beyond a p of 0.05 that is corrected for all comparisons


class Spread(NamedTuple):
    """How far the seeds of configs are from each other.

    Attributes:
        seeds: how many each config has.
        raw: variance of a seed's mean over tasks, [...].
        noise: what of it is of the scores' noise, [...]: the rest is of the training.
    """

    seeds: int
    raw: Array
    noise: Array


class Pool(NamedTuple):
    """The spread that several configs are taken to have alike.

    Attributes:
        freedom: of both variances; 0: they are of one seed each, of which nothing is known.
    """

    freedom: int
    raw: Array
    noise: Array


@dataclass(frozen=True)
class Differences:
    """Mean differences, second minus first, [P] each.

    Attributes:
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided, of no difference; not corrected for their number.
        variance: of the mean.
        of_seeds: what of that is of the trainings, and only more seeds make less.
        freedom: of Student's t with that variance.
    """

    mean: Array
    low: Array
    high: Array
    p: Array
    variance: Array
    of_seeds: Array
    freedom: Array


def spread(scores: Array) -> Spread:
    """How far the seeds of configs are from each other.

    Args:
        scores: [..., seeds, tasks].
    """
    seeds, tasks = scores.shape[-2:]
    nothing = np.zeros(scores.shape[:-2])
    if seeds < 2:
        return Spread(seeds, nothing, nothing)
    of_seeds = scores.mean(-1)
    raw = of_seeds.var(-1, ddof=1)
    if tasks < 2:
        return Spread(seeds, raw, nothing)
    left = scores - of_seeds[..., None] - scores.mean(-2, keepdims=True) + scores.mean((-2, -1), keepdims=True)
    return Spread(seeds, raw, (left**2).sum((-2, -1)) / ((seeds - 1) * (tasks - 1) * tasks))


def pooled(spreads: Sequence[Spread]) -> Pool:
    """The spread that configs have in common, each seed counted alike."""
    freedom = sum(one.seeds - 1 for one in spreads)
    raw, noise = (
        np.sum([(one.seeds - 1) * part for one, part in zip(spreads, parts, strict=True)], axis=0) / max(1, freedom)
        for parts in ([one.raw for one in spreads], [one.noise for one in spreads])
    )
    return Pool(freedom, raw, noise)


def differences(
    first: Array,
    second: Array,
    *,
    shared: Pool | None = None,
    paired: bool = True,
    comparisons: int = 1,
    replicates: int = REPLICATES,
) -> Differences:
    """Mean of `second` minus mean of `first`; the same numbers always, as the draws are those of one seed.

    Args:
        first: scores [P, seeds, tasks].
        second: the same of others, with seeds of their own.
        shared: what stands in for spreads of fewer than three seeds; None: the two's, pooled.
        paired: the tasks of both are the same.
        comparisons: for how many p will be corrected: replicates are as many as that takes.
        replicates: at least so many.
    """
    a, b = first.mean(-2), second.mean(-2)
    one, two = spread(first), spread(second)
    if few := min(one.seeds, two.seeds) < 3:
        shared = shared or pooled([one, two])
        one, two = (Spread(config.seeds, shared.raw, shared.noise) for config in (one, two))
    noises = [two.noise / two.seeds, one.noise / one.seeds]
    sides, noises = ([b - a], [noises[0] + noises[1]]) if paired else ([b, -a], noises)
    whole = [side.var(-1, ddof=1) / side.shape[-1] for side in sides]
    of_tasks = [np.maximum(0.0, part - noise) for part, noise in zip(whole, noises, strict=True)]
    of_seeds = [config.raw / config.seeds for config in (one, two)]
    raw = of_seeds[0] + of_seeds[1]
    freedom = (
        np.full_like(raw, max(1, shared.freedom))
        if few and shared
        else _together(
            [(of_seeds[0], one.seeds - 1.0), (of_seeds[1], two.seeds - 1.0)], more=2 if one.seeds == two.seeds else 0
        )
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        shrunk = [
            side * np.where(all_of > 0, np.sqrt(part / all_of), 0.0)[:, None]
            for side, part, all_of in zip(sides, of_tasks, whole, strict=True)
        ]
    variance = np.sum(of_tasks, axis=0) + raw
    parts = [(raw, freedom), *((part, side.shape[-1] - 1.0) for part, side in zip(of_tasks, sides, strict=True))]
    errors = _errors(shrunk, raw, freedom, max(replicates, 40 * FEWEST_BEYOND * comparisons))
    mean = np.sum([side.mean(-1) for side in sides], axis=0)
    upper, lower = np.quantile(errors, [0.975, 0.025], axis=0)
    beyond = [(1 + beyond.sum(0)) / (len(errors) + 1) for beyond in (errors >= mean, errors <= mean)]
    return Differences(
        mean=mean,
        low=mean - upper,
        high=mean - lower,
        p=np.minimum(1.0, 2 * np.minimum(*beyond)),
        variance=variance,
        of_seeds=np.maximum(0.0, raw - np.sum(noises, axis=0)),
        freedom=_together(parts),
    )


def _together(parts: Sequence[tuple[Array, Array | float]], more: int = 0) -> Array:
    """Freedom of a sum of variances by Welch (1947).

    Args:
        parts: variances with their freedoms.
        more: 0, which is on the safe side, or 2, which has next to no bias where the parts' freedoms are equal.
    """
    whole = np.sum([part for part, _ in parts], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = whole**2 / np.sum([part**2 / (freedom + more) for part, freedom in parts], axis=0) - more
    return np.where(whole > 0, found, 1.0)


def _errors(sides: Sequence[Array], seeds: Array, freedom: Array, replicates: int) -> Array:
    """Replicates of the error of mean differences, [replicates, P].

    Args:
        sides: scores whose means' errors add up, [P, tasks] each.
        seeds: variance of the mean by the seeds, [P].
        freedom: of that, [P].
        replicates: how many.
    """
    generator, found = np.random.default_rng(0), []
    for first in range(0, replicates, CHUNK):
        count = min(CHUNK, replicates - first)
        error = generator.standard_normal((count, len(seeds))) * np.sqrt(seeds)
        error *= np.sqrt(freedom / generator.chisquare(freedom, error.shape))
        for side in sides:
            tasks = side.shape[-1]
            drawn = generator.integers(tasks, size=(count, tasks)) + tasks * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * tasks).reshape(count, tasks)
            resampled = (times / tasks - 1 / tasks) @ side.T * np.sqrt(tasks / (tasks - 1))
            error += resampled * np.sqrt((tasks - 1) / generator.chisquare(tasks - 1, error.shape))
        found.append(error)
    return np.concatenate(found)


def holm(p: Array) -> Array:
    """P values corrected for how many there are, so that any false discovery is as rare as each was (Holm 1979).

    Args:
        p: [n].
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected
