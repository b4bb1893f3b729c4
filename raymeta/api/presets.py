"""What presets there are: those for any method, and the rows of papers' tables.

`python -m raymeta.api.presets docs/presets.md` writes the tables of that page.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column
from rich.table import Table as Grid
from rich.text import Text

from raymeta import registry
from raymeta.errors import UserError, suggest
from raymeta.report.shown import Shown
from raymeta.schema import flatten
from raymeta.storage.files import dump_yaml, read_yaml, write_atomically
from raymeta.study.plan.tables import EVIDENCE, Evidence, Figure, Row, Table, every_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Preset:
    """A preset in a line.

    Attributes:
        method: of a row of a table; None: it is for any.
        outer_steps: what it costs; None: that is not its to say.
        row: all of it, if it is one of a table.
    """

    name: str
    dataset: str
    method: str | None
    figure: Figure | None
    outer_steps: int | None
    row: Row | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        about: dict[str, Any] = {"source": None, "evidence": None, "differs": []}
        if self.row is not None:
            about = {"source": self.row.source, "evidence": self.row.evidence, "differs": list(self.row.differs)}
        figure = self.figure.as_dict() if self.figure else None
        return {
            "name": self.name, "dataset": self.dataset, "method": self.method, "published": figure,
            "outer_steps": self.outer_steps, **about,
        }  # fmt: skip

    def has(self, word: str) -> bool:
        """A word stands in what it is called, trains on, trains or is from."""
        texts = (self.name, self.dataset, self.method or "", self.row.source if self.row else "")
        return any(word.lower() in text.lower() for text in texts)


@dataclass(frozen=True, repr=False)
class Presets(Shown):
    """A list of presets; of a single one all that it says."""

    presets: list[Preset]

    def __rich__(self) -> RenderableType:
        left = [Column("preset", no_wrap=True), *(Column(name, overflow="fold") for name in ("data", "method"))]
        right = [Column("published", justify="right", no_wrap=True), Column("read"), Column("steps", justify="right")]
        grid = Grid(*left, *right, box=None, pad_edge=False, padding=(0, 1, 0, 0))
        read: set[Evidence] = set()
        for one in self.presets:
            steps = f"{one.outer_steps:,}" if one.outer_steps else "-"
            letter = one.row.evidence if one.row and one.figure else None
            read |= {letter} if letter else set()
            figure = str(one.figure or "-")
            grid.add_row(one.name, Text(one.dataset), Text(one.method or "any"), figure, letter or "", steps)
        rows = [one.row for one in self.presets if one.row is not None]
        if len(self.presets) == 1 and rows:
            return Group(grid, "", *_all_of(rows[0]))
        meant = ", ".join(f"{letter}: {words}" for letter, words in EVIDENCE.items() if letter in read)
        notes = [f"published figures: {meant}; steps: outer ones of a run"] if read else []
        return Group(grid, *notes, *(["rows that no preset covers: raymeta presets --lacking"] if rows else []))

    def as_dict(self) -> dict[str, Any]:
        """Plain data by name."""
        return {one.name: one.as_dict() for one in self.presets}

    def frame(self) -> "pandas.DataFrame":
        """A row a preset; index: its name."""
        import pandas

        rows = [{**one, "published": (one["published"] or {}).get("value")} for one in self.as_dict().values()]
        return pandas.DataFrame(rows).set_index("name")


@dataclass(frozen=True)
class Missing:
    """A row of a paper that no preset covers, with what is missing."""

    name: str
    source: str
    published: str | None
    needs: str


@dataclass(frozen=True, repr=False)
class NotCovered(Shown):
    """Rows that no preset covers."""

    rows: list[Missing]

    def __rich__(self) -> RenderableType:
        grid = Grid("not covered", "published", Column("what is missing", overflow="fold"), box=None, pad_edge=False)
        for one in self.rows:
            grid.add_row(one.name, one.published or "-", Text(one.needs))
        return grid

    def as_dict(self) -> dict[str, Any]:
        """Plain data by name."""
        return {one.name: {"source": one.source, "published": one.published, "needs": one.needs} for one in self.rows}


def lacking(word: str | None = None) -> NotCovered:
    """Rows of papers' tables that no preset covers.

    Args:
        word: only those with it in their name, source or what is missing.

    Raises:
        UserError: there is none with it; or a table is wrong.
    """
    found = [
        Missing(f"{table.name}/{name}", table.source, _printed(one.published), one.needs)
        for table in every_table()
        for name, one in table.lacking.items()
    ]
    chosen = [one for one in found if not word or word.lower() in f"{one.name} {one.source} {one.needs}".lower()]
    if word and not chosen:
        raise UserError(f"no row that is not covered has '{word}': raymeta presets --lacking lists all")
    return NotCovered(chosen)


def _printed(figure: str | float | None) -> str | None:
    return f"{figure:.2f}" if isinstance(figure, float) else figure


def presets(word: str | None = None) -> Presets:
    """All presets: those that are for any method, and the rows of papers' tables, which know theirs.

    Args:
        word: only those with it in their name, data set, method or source; a whole name is that one alone.

    Raises:
        UserError: there is none with it; or a table is wrong.
    """
    found = [*_single(), *(_of(row) for table in every_table() for row in table.rows.values())]
    if word is None:
        return Presets(found)
    chosen = [one for one in found if one.name == word] or [one for one in found if one.has(word)]
    if not chosen:
        near = suggest(word, [one.name for one in found]).partition(" (allowed")[0]
        raise UserError(f"no preset has '{word}': {near if near.startswith('did') else 'raymeta presets lists all'}")
    return Presets(chosen)


def _single() -> Iterator[Preset]:
    for name in registry.presets():
        if (file := registry.preset_file(name)) is not None:
            flat = flatten(read_yaml(file))
            data = flat.get("task.dataset") or flat.get("task.problem") or "any"
            yield Preset(name, str(data), None, None, flat.get("budget.outer_steps"))


def _of(row: Row) -> Preset:
    return Preset(row.name, row.dataset, row.spec, row.figure, row.outer_steps, row)


def _all_of(row: Row) -> Iterator[str]:
    yield f"source: {row.source or '-'}"
    if row.figure is not None:
        read = f"; {EVIDENCE[row.evidence]}" if row.evidence else ""
        yield f"published: {row.figure}{'; ' if row.figure.meaning else ''}{row.figure.meaning}{read}"
    yield from (f"differs from its source: {sentence}" for sentence in row.differs)
    yield f"run it with: raymeta final --preset {row.name}"
    yield f"\n{dump_yaml(row.data)}"


def pages() -> str:
    """The tables of docs/presets.md: all rows, and those that no preset covers, with what is missing."""
    return "\n".join(line for table in every_table() for line in _page(table))


def _page(table: Table) -> Iterator[str]:
    yield from ("", f"### {table.name}", "", f"{table.source}.", "")
    if table.rows:
        yield from (
            "| row | method | published | ± | evidence | outer steps |",
            "| --- | --- | --- | --- | --- | --- |",
        )
    for name, row in table.rows.items():
        figure, steps = row.figure or "-", f"{row.outer_steps:,}" if row.outer_steps else "-"
        meaning = row.figure.meaning if row.figure else ""
        yield f"| `{name}` | {row.spec} | {figure} | {meaning} | {row.evidence or '-'} | {steps} |"
    differs: dict[str, list[str]] = {}
    for name, row in table.rows.items():
        for sentence in row.differs:
            differs.setdefault(sentence, []).append(name)
    if differs:
        yield from ("", "What of the source no key says:", "")
        for sentence, names in differs.items():
            which = "all" if len(names) == len(table.rows) else ", ".join(f"`{name}`" for name in names)
            yield f"- {sentence} ({which})"
    if table.lacking:
        yield from ("", "| not covered | published | what is missing |", "| --- | --- | --- |")
        for name, one in table.lacking.items():
            yield f"| `{name}` | {_printed(one.published) or '-'} | {one.needs} |"


MARK = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    write_atomically(file, MARK.sub(lambda _: pages() + "\n", file.read_text(encoding="utf-8")))
