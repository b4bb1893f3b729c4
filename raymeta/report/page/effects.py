"""How scores change with a key, and with two keys together, over trials of one budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from raymeta.metric import half_width
from raymeta.report.page.scored import Array, Scored, ends
from raymeta.study.plan.param import Param, Value

GROUP = 8  # trials that a group of numbers has at least
MOST_GROUPS = 6
SPARE = 8  # degrees of freedom that must be left to see an interaction by
DRAWS = 100  # for its interval
LEVEL = 0.05  # of all interactions together


@dataclass(frozen=True)
class Group:
    """Trials whose values of a key are alike.

    Attributes:
        low, high: the smallest and the largest value; of a choice the same one.
        mean: of the scores, with the half-width of its 95 % interval (None: of one trial).
        lower, upper: quartiles of the scores.
    """

    low: Value
    high: Value
    trials: int
    mean: float
    ci95: float | None
    lower: float
    upper: float
    best: float


@dataclass(frozen=True)
class Effect:
    """A key's groups in the order of its values, and every trial's value and score."""

    key: str
    groups: list[Group]
    values: list[Value]
    scores: list[float]


@dataclass(frozen=True)
class Interaction:
    """What two keys do together beyond what each does alone.

    Attributes:
        share: of all squared differences between scores (omega squared), with its 95 % interval.
        p: of the F test, Holm-corrected over all pairs.
        cells: the mean score and the number of trials of each pair of groups, [groups of one, groups of the other].
    """

    keys: tuple[str, str]
    share: float
    low: float
    high: float
    p: float
    names: tuple[list[tuple[Value, Value]], list[tuple[Value, Value]]]
    cells: list[list[tuple[float, int]]]


def effect(table: Scored, key: str) -> Effect:
    """The marginal effect of a key: means over trials as they were proposed, whatever their other keys."""
    rows = table.rows(key)
    groups = [_group(table, key, own) for own in _parted(table, key, rows, len(rows) // GROUP)]
    return Effect(key, groups, [table.points[row][key] for row in rows], [table.scores[row] for row in rows])


def interactions(table: Scored, seed: int = 0) -> list[Interaction]:
    """The pairs of keys that interact, the largest share first.

    A response surface (linear and quadratic in numbers, free in choices) without interactions is fitted to all keys
    that were searched in the pair's trials; then the products of the pair's terms are tried on what it leaves.
    """
    tried = [found for pair in combinations(table.varied, 2) if (found := _tried(table, *pair)) is not None]
    tried.sort(key=lambda found: found.p)
    kept, worst = [], 0.0
    for place, one in enumerate(tried):
        worst = min(1.0, max(worst, one.p * (len(tried) - place)))  # Holm
        if worst > LEVEL:
            break
        kept.append(one.described(table, worst, np.random.default_rng([seed, place])))
    return sorted(kept, key=lambda one: -one.share)


@dataclass(frozen=True)
class _Pair:
    keys: tuple[str, str]
    rows: list[int]
    p: float

    def described(self, table: Scored, p: float, chance: np.random.Generator) -> Interaction:
        one, other = self.keys
        share, _ = _share(table, self.keys, self.rows)
        count = len(self.rows)
        again = ([self.rows[place] for place in chance.integers(count, size=count)] for _ in range(DRAWS))
        draws = [_share(table, self.keys, rows)[0] for rows in again]
        low, high = np.quantile(draws, [0.025, 0.975])
        parted = max(2, min(3, round(sqrt(len(self.rows) / GROUP))))
        parts = [_parted(table, key, self.rows, parted) for key in self.keys]
        cells = [[_mean(table, sorted(set(mine) & set(theirs))) for theirs in parts[1]] for mine in parts[0]]
        names = ([_span(table, one, part) for part in parts[0]], [_span(table, other, part) for part in parts[1]])
        return Interaction(self.keys, share, float(low), float(high), p, names, cells)


def _tried(table: Scored, one: str, other: str) -> _Pair | None:
    rows = sorted(set(table.varied[one]) & set(table.varied[other]))
    if len(rows) < 2 * GROUP:
        return None
    _, p = _share(table, (one, other), rows)
    return _Pair((one, other), rows, p) if p is not None else None


def _share(table: Scored, keys: tuple[str, str], rows: Sequence[int]) -> tuple[float, float | None]:
    """Omega squared of an interaction over all trials, and the p-value of its F test; None: too few trials for one."""
    from scipy.stats import f

    y = table.y[list(rows)]
    terms = {key: _terms(table.space[key], table.coded(key, rows)) for key in table.beside(rows)}
    if not set(keys) <= set(terms):
        return 0.0, None
    plain = np.column_stack([np.ones(len(y)), *terms.values()])
    one, other = (terms[key] for key in keys)
    products = (one[:, :, None] * other[:, None, :]).reshape(len(y), -1)
    base, wide = _basis(plain), _basis(np.column_stack([plain, products]))
    more, spare = wide.shape[1] - base.shape[1], len(y) - wide.shape[1]
    if not more or spare < SPARE:
        return 0.0, None
    left, least = (float(((y - basis @ (basis.T @ y)) ** 2).sum()) for basis in (base, wide))
    noise, everything = least / spare, float(((y - y.mean()) ** 2).sum())
    if not noise or not everything:
        return 0.0, None
    omega = max(0.0, (left - least - more * noise) / (everything + noise))
    return table.weight(rows) * omega, float(f.sf((left - least) / more / noise, more, spare))


def _terms(param: Param, values: Array) -> Array:
    """What a key adds to the surface, [trials, terms]: two Legendre polynomials, or a column a choice but one."""
    if param.choice is not None:
        return np.column_stack([values == place for place in np.unique(values)[1:]]).astype(float)
    low, high = ends(param)
    x = 2 * (values - low) / (high - low) - 1
    return np.column_stack([x, 1.5 * x**2 - 0.5]) if len(np.unique(values)) > 2 else x[:, None]


def _basis(columns: Array) -> Array:
    """An orthonormal basis of what the columns span."""
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(vectors[:, sizes > 1e-9 * sizes[0]])


def _parted(table: Scored, key: str, rows: Sequence[int], count: int) -> list[list[int]]:
    """Trials by a key: by choice, by number if there are few, else in so many groups of equal size, in order."""
    values = table.coded(key, rows)
    distinct = np.unique(values)
    if table.space[key].choice is not None or len(distinct) <= min(MOST_GROUPS, max(count, 2)):
        return [[row for row, value in zip(rows, values, strict=True) if value == one] for one in distinct]
    cuts = np.unique(np.quantile(values, np.linspace(0, 1, max(2, min(MOST_GROUPS, count)) + 1)[1:-1]))
    place = np.searchsorted(cuts, values, side="left")
    found = [[row for row, own in zip(rows, place, strict=True) if own == number] for number in range(len(cuts) + 1)]
    return [group for group in found if group]


def _span(table: Scored, key: str, rows: Sequence[int]) -> tuple[Value, Value]:
    values = sorted((table.points[row][key] for row in rows), key=lambda value: _order(value))
    return values[0], values[-1]


def _order(value: Value) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def _group(table: Scored, key: str, rows: Sequence[int]) -> Group:
    own = [table.scores[row] for row in rows]
    lower, upper = np.quantile(own, [0.25, 0.75])
    best = max(own) if table.mode == "max" else min(own)
    interval = half_width(own) if len(own) > 1 else None
    low, high = _span(table, key, rows)
    return Group(low, high, len(own), float(np.mean(own)), interval, float(lower), float(upper), best)


def _mean(table: Scored, rows: Sequence[int]) -> tuple[float, int]:
    return (float(table.y[list(rows)].mean()) if rows else float("nan")), len(rows)
