"""Points of a search space in the unit cube, and the rows of a table next to what a sampler proposes."""

from collections.abc import Mapping, Sequence

import numpy as np

from raymeta.study.plan.param import Param, Point

OTHER = 0.25
"""The squared distance of two choices, and of a key that only one of two points has: that of half a range."""


class Cube:
    """The keys of a space as coordinates: of numbers 0..1 along their range, of choices their place; absent: NaN."""

    def __init__(self, params: Mapping[str, Param]) -> None:
        self.params = params
        self.choices = np.array([param.choice is not None for param in params.values()])

    def of(self, points: Sequence[Point]) -> np.ndarray:
        """Coordinates [n, keys]."""
        return np.array([[self._at(key, point) for key in self.params] for point in points])

    def _at(self, key: str, point: Point) -> float:
        if key not in point:
            return np.nan
        param, value = self.params[key], point[key]
        if param.choice is not None:
            return float(param.choice.index(value))
        low, high = param.float_ or param.int_ or (0.0, 0.0)
        assert isinstance(value, int | float)
        return float(np.log(value / low) / np.log(high / low)) if param.log else (value - low) / (high - low)

    def distances(self, rows: np.ndarray, one: np.ndarray) -> np.ndarray:
        """Squared distances [n] of rows [n, keys] from one point [keys]."""
        apart = np.where(self.choices, OTHER * (rows != one), (rows - one) ** 2)
        absent, lacking = np.isnan(rows), np.isnan(one)
        both = absent & lacking
        found: np.ndarray = np.where(both, 0.0, np.where(absent | lacking, OTHER, apart)).sum(1)
        return found


class Lookup:
    """Rows of a table by points: the nearest that was not taken yet.

    What a sampler proposes is moved to a row, so that samplers which would differ in the last digits look alike: a
    finite table shows large differences between samplers and hides small ones.
    """

    def __init__(self, cube: Cube, points: Sequence[Point]) -> None:
        self.cube, self.rows = cube, cube.of(points)
        self.taken = np.zeros(len(points), bool)

    def take(self, point: Point) -> int:
        """The row that stands for a point from now on.

        Raises:
            Exhausted: all rows are taken.
        """
        if self.taken.all():
            raise Exhausted
        apart = self.cube.distances(self.rows, self.cube.of([point])[0])
        return self.mark(int(np.where(self.taken, np.inf, apart).argmin()))

    def mark(self, row: int) -> int:
        """Take this row."""
        self.taken[row] = True
        return row

    @property
    def free(self) -> np.ndarray:
        """Numbers of rows that were not taken yet."""
        return np.flatnonzero(~self.taken)


class Exhausted(Exception):
    """A table has no row left."""
