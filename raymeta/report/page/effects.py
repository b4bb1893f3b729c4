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

    The share has no interval: a bootstrap's over trials does not cover it, as a surface fitted to the same trials more
    than once leaves too little, and only pairs that the test let through are here.

    Attributes:
        share: of all squared differences between scores (omega squared), 0 to 1.
        p: of the F test, Holm-corrected over all pairs: what pairs are screened by. The search chose the points by the
            scores before them, which no F test allows for.
        cells: the mean score and the number of trials of each pair of groups, [groups of one, groups of the other].
    """

    keys: tuple[str, str]
    share: float
    p: float
    names: tuple[list[tuple[Value, Value]], list[tuple[Value, Value]]]
    cells: list[list[tuple[float, int]]]


def effect(table: Scored, key: str) -> Effect:
    """The marginal effect of a key: means over trials as they were proposed, whatever their other keys."""
    rows = table.rows(key)
    groups = [_group(table, key, own) for own in _parted(table, key, rows, len(rows) // GROUP)]
    return Effect(key, groups, [table.points[row][key] for row in rows], [table.scores[row] for row in rows])


def interactions(table: Scored) -> list[Interaction]:
    """The pairs of keys that interact, the largest share first.

    A response surface (linear and quadratic in numbers, free in choices) without interactions is fitted to all keys
    that were searched in the pair's trials; then the products of the pair's terms are tried on what it leaves.
    """
    there = [pair for keys in combinations(table.varied, 2) if (pair := _pair(table, *keys)) is not None]
    scored = [(pair, *pair.share(table)) for pair in there]
    tried = sorted(((pair, share, p) for pair, share, p in scored if p is not None), key=lambda item: item[2])
    kept, worst = [], 0.0
    for place, (one, share, p) in enumerate(tried):
        worst = min(1.0, max(worst, p * (len(tried) - place)))  # Holm
        if worst > LEVEL:
            break
        kept.append(one.described(table, share, worst))
    return sorted(kept, key=lambda one: -one.share)


@dataclass(frozen=True)
class _Pair:
    """Two keys, the trials in which both were searched, and the surface there: columns [trials, terms] of all keys
    without the pair's products, then with them.
    """

    keys: tuple[str, str]
    rows: list[int]
    plain: Array
    wide: Array

    def share(self, table: Scored) -> tuple[float, float | None]:
        """Omega squared of the interaction over all trials, and the p-value of its F test; None: too few for one.

        The surface without the products takes its part of them, too: of n trials and r terms they keep on average
        (n - r) / (n - 1) of their squares, by which the share is divided.

        Args:
            table: of all trials.
        """
        from scipy.stats import f

        count, y = len(self.rows), table.y[self.rows]
        y = y - y.mean()
        (base, left), (whole, least) = (_fitted(columns, y) for columns in (self.plain, self.wide))
        more, spare, everything = whole - base, count - whole, float(y @ y)
        if more < 1 or spare < SPARE or not everything or least <= 1e-12 * everything:
            return 0.0, None
        noise = least / spare
        omega = (left - least - more * noise) / (everything + noise) * (count - 1) / (count - base)
        p = float(f.sf((left - least) / more / noise, more, spare))
        return table.weight(self.rows) * min(1.0, max(0.0, omega)), p

    def described(self, table: Scored, share: float, p: float) -> Interaction:
        count = len(self.rows)
        parted = max(2, min(3, round(sqrt(count / GROUP))))
        parts = [_parted(table, key, self.rows, parted) for key in self.keys]
        cells = [[_mean(table, sorted(set(mine) & set(theirs))) for theirs in parts[1]] for mine in parts[0]]
        one, other = ([_span(table, key, part) for part in own] for key, own in zip(self.keys, parts, strict=True))
        return Interaction(self.keys, share, p, (one, other), cells)


def _pair(table: Scored, one: str, other: str) -> _Pair | None:
    rows = sorted(set(table.varied[one]) & set(table.varied[other]))
    if len(rows) < 2 * GROUP:
        return None
    terms = {key: _terms(table.space[key], table.coded(key, rows)) for key in table.beside(rows)}
    if not {one, other} <= set(terms):
        return None
    plain = np.column_stack([np.ones(len(rows)), *terms.values()])
    products = (terms[one][:, :, None] * terms[other][:, None, :]).reshape(len(rows), -1)
    return _Pair((one, other), rows, plain, np.column_stack([plain, products]))


def _fitted(columns: Array, y: Array) -> tuple[int, float]:
    """The rank of the columns, and the sum of squares that the best combination of them leaves of y."""
    sizes, vectors = np.linalg.eigh(columns.T @ columns)
    kept = sizes > 1e-11 * sizes[-1]
    along = vectors[:, kept].T @ (columns.T @ y)
    return int(kept.sum()), max(0.0, float(y @ y - along @ (along / sizes[kept])))


def _terms(param: Param, values: Array) -> Array:
    """What a key adds to the surface, [trials, terms]: two Legendre polynomials, or a column a choice but one."""
    if param.choice is not None:
        return np.column_stack([values == place for place in np.unique(values)[1:]]).astype(float)
    low, high = ends(param)
    x = 2 * (values - low) / (high - low) - 1
    return np.column_stack([x, 1.5 * x**2 - 0.5]) if len(np.unique(values)) > 2 else x[:, None]


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
