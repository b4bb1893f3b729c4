"""Trials with a score each at one budget: the table that importance and effects are computed from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raymeta.study.plan.param import Param, Point

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A row a trial.

    Attributes:
        space: the searched keys; a key whose condition did not hold is missing in a point.
        points: what was proposed, [trials].
        scores: of the same budget for all, [trials].
        mode: whether more is better.
    """

    space: Mapping[str, Param]
    points: Sequence[Point]
    scores: Sequence[float]
    mode: Literal["max", "min"]

    @cached_property
    def fence(self) -> float:
        """The score that a worse one is far out of: three quartile distances beyond the worse quartile (Tukey)."""
        lower, upper = np.quantile(self.scores, [0.25, 0.75])
        return float(lower - 3 * (upper - lower) if self.mode == "max" else upper + 3 * (upper - lower))

    @cached_property
    def fenced(self) -> "Scored":
        """The same with scores that are far out moved to the fence: a few of them would be all that squares see."""
        keep = max if self.mode == "max" else min
        return replace(self, scores=[keep(score, self.fence) for score in self.scores])

    @property
    def far_out(self) -> int:
        """How many scores are."""
        return sum(one != other for one, other in zip(self.scores, self.fenced.scores, strict=True))

    @cached_property
    def y(self) -> Array:
        """The scores, [trials]."""
        return np.asarray(self.scores, dtype=np.float64)

    def rows(self, key: str) -> list[int]:
        """Trials in which a key was searched, and had a value that its range still knows."""
        param = self.space[key]
        known = (param.choice or ()) if param.choice is not None else None
        return [
            place for place, point in enumerate(self.points) if key in point and (known is None or point[key] in known)
        ]

    @cached_property
    def varied(self) -> dict[str, tuple[int, ...]]:
        """Keys that had more than one value, each with the trials in which it was searched."""
        found = {key: self.rows(key) for key in self.space}
        return {key: tuple(rows) for key, rows in found.items() if len({self.points[row][key] for row in rows}) > 1}

    def beside(self, rows: Sequence[int]) -> list[str]:
        """Keys that were searched in all of some trials, and had more than one value there."""
        place = list(rows)
        own = {key: self.columns[key][place] for key in self.varied}
        return [key for key, values in own.items() if not np.isnan(values).any() and len(np.unique(values)) > 1]

    def groups(self) -> Iterator[tuple[tuple[int, ...], list[str]]]:
        """Keys that were searched in the very same trials, with these; the most trials first."""
        found: dict[tuple[int, ...], list[str]] = {}
        for key, rows in self.varied.items():
            found.setdefault(rows, []).append(key)
        yield from sorted(found.items(), key=lambda item: -len(item[0]))

    def weight(self, rows: Sequence[int]) -> float:
        """What part of all squared differences between scores lies within some trials.

        A key that is searched under a condition can explain no more than this of all trials.
        """
        everything = float(((self.y - self.y.mean()) ** 2).sum())
        own = self.y[list(rows)]
        return float(((own - own.mean()) ** 2).sum()) / everything if everything else 0.0

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Values on the scale on which they are drawn, [trials] a key: the logarithm where it is log, a choice's place.

        Numbers lie within the range; what was not searched is not a number.
        """
        found = {}
        for key, param in self.space.items():
            column = np.full(len(self.points), np.nan)
            rows = self.rows(key)
            values = [self.points[row][key] for row in rows]
            if param.choice is not None:
                column[rows] = [param.choice.index(value) for value in values]
            else:
                numbers = np.array(values, dtype=np.float64)
                column[rows] = np.clip(np.log(numbers) if param.log else numbers, *ends(param))
            found[key] = column
        return found

    def coded(self, key: str, rows: Sequence[int]) -> Array:
        """The values of a key in some trials on that scale."""
        return self.columns[key][list(rows)]


def ends(param: Param) -> tuple[float, float]:
    """The ends of a range on that scale; of a choice its first and its last place."""
    if param.choice is not None:
        return 0.0, float(len(param.choice) - 1)
    low, high = param.float_ or param.int_ or (0.0, 0.0)
    return (float(np.log(low)), float(np.log(high))) if param.log else (float(low), float(high))
