"""Mean differences over tasks with 95 % intervals: a bootstrap over tasks, the seeds nested in it.

A config's scores are [seeds, tasks]. All configs are scored on the same tasks, so a task's difficulty cancels in the
difference of two; trainings with other seeds are nested in their config, and don't cancel. The variance of a mean is

    tasks:  of the differences, averaged over seeds, a task each                        freedom: tasks - 1
    seeds:  of the seeds' means, less what tasks and their noise put into these         freedom: Welch and Satterthwaite

A replicate of the mean's error is the mean of tasks drawn with replacement, minus the mean (Efron and Tibshirani 1993,
chapter 13), plus a normal draw for the seeds; each is divided by a draw of sqrt(chi2 / freedom), which makes
Student's t of a normal error, so that a few seeds or tasks widen the interval as far as they must. The seeds'
variance is that of a two-way layout without replication (Searle, Casella and McCulloch 1992,
chapter 4). Interval and p are quantiles of the replicates, so the interval leaves zero out where p is below 0.05.
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
    """What the seeds of configs put into the variance of their means.

    Attributes:
        raw: variance of the mean by the spread of the seeds' means, [...].
        noise: what of it is of tasks, [...]: the rest is of the seeds.
        freedom: seeds - 1.
    """

    raw: Array
    noise: Array
    freedom: int


@dataclass(frozen=True)
class Differences:
    """Mean differences, second minus first, [P] each.

    Attributes:
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided, of no difference; not corrected for their number.
        variance: of the mean.
        of_seeds: what of that is of the seeds.
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
    """What the seeds of configs add.

    Args:
        scores: [..., seeds, tasks].
    """
    seeds, tasks = scores.shape[-2:]
    nothing = np.zeros(scores.shape[:-2])
    if seeds < 2:
        return Spread(nothing, nothing, 0)
    of_seeds = scores.mean(-1)
    raw = of_seeds.var(-1, ddof=1) / seeds
    if tasks < 2:
        return Spread(raw, nothing, seeds - 1)
    left = scores - of_seeds[..., None] - scores.mean(-2, keepdims=True) + scores.mean((-2, -1), keepdims=True)
    noise = (left**2).sum((-2, -1)) / ((seeds - 1) * (tasks - 1)) / (seeds * tasks)
    return Spread(raw, noise, seeds - 1)


def differences(
    first: Array, second: Array, *, paired: bool = True, comparisons: int = 1, replicates: int = REPLICATES
) -> Differences:
    """Mean of `second` minus mean of `first`; the same numbers always, as the draws are those of one seed.

    Args:
        first: scores [P, seeds, tasks].
        second: the same of others, with seeds of their own.
        paired: the tasks of both are the same.
        comparisons: for how many p will be corrected: replicates are as many as that takes.
        replicates: at least so many.
    """
    a, b = first.mean(-2), second.mean(-2)
    sides = [b - a] if paired else [b, -a]
    seeds, freedom = _of_seeds(spread(first), spread(second))
    mean = np.sum([side.mean(-1) for side in sides], axis=0)
    of_tasks = [side.var(-1, ddof=1) / side.shape[-1] for side in sides]
    errors = _errors(sides, seeds, freedom, max(replicates, 40 * FEWEST_BEYOND * comparisons))
    upper, lower = np.quantile(errors, [0.975, 0.025], axis=0)
    beyond = [(1 + side.sum(0)) / (len(errors) + 1) for side in (errors >= mean, errors <= mean)]
    variance = np.sum(of_tasks, axis=0) + seeds
    parts = [*((one, side.shape[-1] - 1) for one, side in zip(of_tasks, sides, strict=True)), (seeds, freedom)]
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = variance**2 / np.sum([one**2 / free for one, free in parts], axis=0)
    return Differences(
        mean=mean,
        low=mean - upper,
        high=mean - lower,
        p=np.minimum(1.0, 2 * np.minimum(*beyond)),
        variance=variance,
        of_seeds=seeds,
        freedom=np.where(variance > 0, whole, 1.0),
    )


def _of_seeds(a: Spread, b: Spread) -> tuple[Array, Array]:
    """Variance of the mean difference by the seeds, not below 0, and its freedom, [P] each.

    A config with one seed has the variance of the other's seeds; of two such nothing is known.
    """
    if not a.freedom and not b.freedom:
        return np.zeros_like(a.raw), np.ones_like(a.raw)
    if not a.freedom or not b.freedom:
        one = a if a.freedom else b
        a, b = one, Spread(one.raw * (one.freedom + 1), one.noise * (one.freedom + 1), one.freedom)
    raw = a.raw + b.raw
    with np.errstate(invalid="ignore"):
        freedom = raw**2 / (a.raw**2 / a.freedom + b.raw**2 / b.freedom)
    return np.maximum(0.0, raw - a.noise - b.noise), np.where(raw > 0, freedom, 1.0)


def _errors(sides: Sequence[Array], seeds: Array, freedom: Array, replicates: int) -> Array:
    """Replicates of the error of mean differences, [replicates, P]."""
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
