"""What a report is made of: sections of sentences, tables and figures. Every form of it is written from these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

PAGE = "report.html"  # in a study's folder
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Grid:
    """A table; every row has a cell a column.

    Attributes:
        long: a row for each trial or the like: a page folds it, and a paper leaves it out.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    long: bool = False

    def texts(self) -> list[list[str]]:
        """The cells as they are printed."""
        return [[printed(cell) for cell in row] for row in self.rows]

    @property
    def numbers(self) -> list[bool]:
        """For each column whether it holds numbers and nothing else."""
        there = [[row[place] for row in self.rows if row[place] is not None] for place in range(len(self.columns))]
        return [bool(cells) and all(map(is_number, cells)) for cells in there]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "title": self.title, "columns": [*self.columns], "rows": [[*r] for r in self.rows]}


@dataclass(frozen=True)
class Figure:
    """A picture, and its numbers, whose name and title are the picture's.

    Attributes:
        alt: what is to be seen, in a sentence, for those who don't see it.
        draw: makes matplotlib's figure.
    """

    alt: str
    draw: Callable[[], Any]
    numbers: Grid


@dataclass(frozen=True)
class Section:
    """A part of the report: sentences, lines to be typed, tables, then figures."""

    name: str
    title: str
    text: Sequence[str] = ()
    code: Sequence[str] = ()
    tables: Sequence[Grid] = ()
    figures: Sequence[Figure] = ()

    @property
    def grids(self) -> list[Grid]:
        """All tables, those of the figures too."""
        return [*self.tables, *(figure.numbers for figure in self.figures)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the pictures themselves."""
        tables = [grid.as_dict() for grid in self.grids]
        return {"name": self.name, "title": self.title, "text": [*self.text], "code": [*self.code], "tables": tables}


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        facts: gives what programs want to know, in raw numbers.
        rows: name of the table that is the report as CSV.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    facts: Callable[[], dict[str, Any]] = dict
    rows: str = "trials"

    def grid(self, name: str) -> Grid:
        """A table by its name."""
        return next(grid for section in self.sections for grid in section.grids if grid.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        sections = [section.as_dict() for section in self.sections]
        return {"title": self.title, "subtitle": self.subtitle, **self.facts(), "sections": sections}


def is_number(cell: Cell) -> bool:
    """Whether a cell is a number, and no truth value."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def printed(cell: Cell) -> str:
    """A cell as a reader sees it: four significant digits, `-` for what is not there."""
    if cell is None or (isinstance(cell, float) and not isfinite(cell)):
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def count(number: int, word: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {word}{'s'[: number != 1]}"
