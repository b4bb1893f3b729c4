"""How comparisons are written: numbers, and tables of Markdown and LaTeX."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raymeta.metric import Metric
from raymeta.report.shown import Shown

if TYPE_CHECKING:
    import pandas

FORMATS = ("md", "tex", "csv", "json")
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def number(value: float, metric: Metric) -> str:
    """A score without its unit."""
    return f"{metric.scale * value:.{metric.digits}f}"


def unit(metric: Metric) -> str:
    """What stands behind a difference of scores."""
    return " points" if metric.unit == "%" else f" {metric.unit}" if metric.unit else ""


def p_value(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def equal_p(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table, and sentences under it."""
    lines = [head, ["---"] * len(head), *rows]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", *remarks, ""])


def escaped(text: str) -> str:
    """Text for LaTeX."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def latex_score(value: float, ci95: float, metric: Metric, *, bold: bool) -> str:
    r"""`$59.32 \pm 0.41$`."""
    score = rf"{number(value, metric)} \pm {number(ci95, metric)}"
    return rf"$\mathbf{{{score}}}$" if bold else f"${score}$"


def latex(head: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table of booktabs, with sentences as comments above it.

    Args:
        head: of the columns; is escaped.
        rows: a name, which is escaped, and cells, which are LaTeX.
        remarks: sentences.
    """
    comments = [f"% {line}" for text in remarks for line in text.splitlines()]
    lines = [" & ".join([escaped(row[0]), *row[1:]]) + r" \\" for row in rows]
    return "\n".join(
        [
            *comments,
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(map(escaped, head)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


class Written(Shown, ABC):
    """What came of a comparison: a table with sentences under it, on a screen or as the content of a file.

    Attributes:
        remarks: what the reader should know beside.
    """

    remarks: list[str]

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What came of it."""

    @abstractmethod
    def head(self) -> Sequence[str]:
        """The columns' names."""

    @abstractmethod
    def cells(self) -> Sequence[Sequence[str]]:
        """The rows."""

    @abstractmethod
    def latex(self) -> str:
        """As papers print it."""

    @abstractmethod
    def frame(self) -> "pandas.DataFrame":
        """The numbers, in the metric's own units."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Plain data."""

    def table(self) -> RenderableType:
        """The table of a screen."""
        table = Table(*self.head())
        for cells in self.cells():
            table.add_row(*map(Text, cells))
        return table

    def written(self, form: str) -> str:
        """As the content of a file.

        Args:
            form: one of FORMATS.
        """
        if form == "json":
            return json.dumps(self.as_dict(), indent=1) + "\n"
        if form == "csv":
            return str(self.frame().to_csv())
        if form == "tex":
            return self.latex()
        return markdown(self.head(), self.cells(), [self.sentence, *self.remarks])

    def __rich__(self) -> RenderableType:
        return Group(self.table(), Text(self.sentence), *map(Text, self.remarks))
