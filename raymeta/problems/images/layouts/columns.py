"""Which columns of a list are pictures, classes and splits: by their names, and by what lies in the tree."""

from collections.abc import Callable
from typing import NamedTuple

from raymeta.problems.images.layouts.index import Index
from raymeta.problems.images.layouts.lists import EITHER_NAME, FILE, LABEL, SPLIT, Row, Table
from raymeta.problems.images.layouts.words import plain, said

SAMPLE = 200  # rows that are looked at
_SURE = SPLIT - {"fold", "part", "phase", "usage"}  # others are splits only if their cells are


class Columns(NamedTuple):
    """Places of the columns of a list; None: it has none.

    Attributes:
        file: of pictures.
        label: of classes.
        split: of splits.
        fits: how well the cells fit what lies there, 0 to 2.
    """

    file: int | None
    label: int | None
    split: int | None
    fits: float


def columns_of(table: Table, index: Index) -> tuple[Table, Columns] | None:
    """A list without its header and its columns; None: it has neither pictures nor classes of this tree."""
    found = _columns(table, index)
    if found is None:
        return None
    if not table.header and len(table.rows) > 1 and _is_header(table.rows, found, index):
        table = table._replace(header=table.rows[0].cells, rows=table.rows[1:])
    return table, found


def _is_header(rows: list[Row], columns: Columns, index: Index) -> bool:
    """Whether the first row fits nothing in two columns at least that others fit, whatever its words."""
    first, others = rows[0].cells, rows[1:]
    file, label, split, _ = columns
    strange = [] if file is None else [index.picture(first[file], stem=True) is None]
    if label is not None:
        strange.append(not index.names_class(first[label]) and all(row.cells[label] != first[label] for row in others))
    if split is not None:
        strange.append(said(first[split]) is None)
    free = set(range(len(first))) - {file, label, split}
    strange += [True for c in free if not first[c].isdigit() and all(row.cells[c].isdigit() for row in others)]
    return all(strange) and len(strange) > 1


def _columns(table: Table, index: Index) -> Columns | None:
    rows = table.rows[:: max(1, len(table.rows) // SAMPLE)]
    width = len(table.rows[0].cells) if table.rows else 0
    names = [plain(name) for name in table.header] or [""] * width

    def fits(known: Callable[[str], object], rows: list[Row]) -> list[float]:
        return [sum(bool(known(row.cells[c])) for row in rows if row.cells[c]) / len(rows) for c in range(width)]

    if not width:
        return None
    splits, pictures, folders = fits(said, rows), fits(index.picture, rows), fits(index.names_class, rows)
    split = _best(splits, [c for c in range(width) if names[c] in _SURE]) if any(n in _SURE for n in names) else None
    if split is None and width > 1:
        split = _best(splits, [c for c in range(width) if splits[c] > 0.5 and folders[c] < splits[c]])
    free = [c for c in range(width) if c != split]
    file = _best(pictures, [c for c in free if pictures[c] > 0.5 and pictures[c] >= folders[c]])
    if file is None:
        stems = fits(lambda cell: index.picture(cell, stem=True), rows)
        called = [c for c in free if names[c] in FILE]
        maybe = {"", *EITHER_NAME}
        alike = [c for c in free if names[c] in maybe and stems[c] > 0.9 and stems[c] > folders[c]]
        file = _best(stems, called or alike)
    free = [c for c in free if c != file]
    label = _best(folders, [c for c in free if names[c] in LABEL])
    if label is None or not folders[label]:
        within = _best(folders, [c for c in free if folders[c] > 0.5])
        label = within if within is not None else label
    if label is None and file is not None and len(free) == 1:
        label = free[0]
    if file is None and label is None:
        return None
    found = max(pictures[file], 0.1) if file is not None else folders[label] if label is not None else 0.0
    return Columns(file, label, split, found + (splits[split] if split is not None else 0))


def _best(values: list[float], places: list[int]) -> int | None:
    """The place of the largest value, the first of equals."""
    return max(places, key=lambda place: values[place], default=None)
