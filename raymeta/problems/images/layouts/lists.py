"""Lists as people save them: CSV, TSV, text and JSON, as rows of cells."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from raymeta.problems.images.layouts.branches import Unclear
from raymeta.problems.images.layouts.words import plain, said

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".lst", ".list")
OTHERS = (
    ".xlsx", ".xls", ".ods", ".yaml", ".yml", ".parquet", ".feather", ".mat", ".xml", ".toml", ".jsonl", ".pkl",
    ".pickle", ".npy", ".npz", ".h5", ".gz", ".bz2", ".xz", ".bak", ".dat", ".data", ".docx", ".md",
)  # fmt: skip
FILE = frozenset({
    "file", "filename", "filenames", "filepath", "filepaths", "files", "image", "imagefile", "imagefilename", "imageid",
    "imagename", "imagenames", "imagepath", "images", "img", "imgfile", "imgname", "imgpath", "path", "paths",
    "picture", "pictures",
})  # fmt: skip
LABEL = frozenset({
    "categories", "category", "categoryname", "class", "classes", "classid", "classlabel", "classname", "classnames",
    "label", "labelname", "labels", "species", "synset", "target", "wnid",
})  # fmt: skip
SPLIT = frozenset({"fold", "part", "partition", "phase", "set", "split", "splits", "subset", "usage"})
_MARK = re.compile('"?sep=(.?)"?', re.I)
EITHER_NAME = frozenset({"name", "names", "id"})  # of a file or of a class: the cells tell


class Row(NamedTuple):
    """Cells of a line.

    Attributes:
        number: of the line, from 1.
        cells: without spaces around them.
    """

    number: int
    cells: list[str]


class Table(NamedTuple):
    """A list.

    Attributes:
        header: names of the columns; []: there are none.
        rows: all with as many cells.
        unit: what a row's number counts.
    """

    header: list[str]
    rows: list[Row]
    unit: str = "line"


def tables(path: str, content: bytes) -> list[Table]:
    """A list in the ways that it can be read, the likeliest first.

    Raises:
        Unclear: it is no text, or no JSON.
    """
    text = _text(content)
    if path.lower().endswith(".json"):
        return [_from_json(text)]
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip(" \t,;")]
    marks = ",;\t|"
    if lines and (told := _MARK.fullmatch(lines[0][1].strip())):  # a spreadsheet's own word on it
        marks, lines = told[1] or "\t", lines[1:]
    lines = [(number, line) for number, line in lines if not line.startswith("# ")] or lines
    if not lines:
        raise Unclear("it is empty")
    found = [_separated(lines, mark) for mark in marks if mark in lines[0][1]]
    found.append(_table([Row(number, [line.strip()]) for number, line in lines]))
    for words in ([line.split() for _, line in lines], [line.rsplit(None, 1) for _, line in lines]):
        if len({len(cells) for cells in words}) == 1 and len(words[0]) > 1:
            found.append(_table([Row(number, cells) for (number, _), cells in zip(lines, words, strict=True)]))
    return found


def stem(path: str) -> str:
    """The name of a list without its suffixes: `train` of `splits/train.csv.gz`."""
    name = PurePosixPath(path)
    while name.suffix.lower() in (*SUFFIXES, *OTHERS):
        name = name.with_suffix("")
    return name.name


def is_list(path: str) -> bool:
    """Whether a file is read as a list if it lies where lists do."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in content[:64]:
        encodings = ["utf-16-le" if content[1:2] == b"\0" else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise Unclear("it is no text")


def _separated(lines: list[tuple[int, str]], mark: str) -> Table:
    numbers = [number for number, _ in lines]
    try:
        reader = csv.reader(io.StringIO("\n".join(line for _, line in lines)), delimiter=mark, skipinitialspace=True)
        rows = [Row(numbers[reader.line_num - 1], [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise Unclear(f"it cannot be read: {error}") from error
    if not rows:
        raise Unclear("it is empty")
    return _table(rows)


def _table(rows: list[Row]) -> Table:
    """Rows of one width, and the first of them as a header if it has words of one."""
    width = max(len(row.cells) for row in rows)
    rows = [Row(row.number, row.cells + [""] * (width - len(row.cells))) for row in rows]
    known = FILE | LABEL | SPLIT | (EITHER_NAME if width > 1 else frozenset())
    if any(plain(cell) in known for cell in rows[0].cells):
        return Table(rows[0].cells, rows[1:])
    return Table([], rows)


def _from_json(text: str) -> Table:
    try:
        header, cells = _cells(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise Unclear(f"it is no JSON: {error}") from error
    width = max((len(row) for row in cells), default=0)
    rows = [Row(n, [str(cell).strip() for cell in row] + [""] * (width - len(row))) for n, row in enumerate(cells, 1)]
    return Table(header, rows, "entry")


def _cells(content: Any) -> tuple[list[str], list[list[Any]]]:
    """Rows of what a JSON file holds: of mappings and lists in each other, a row for every thing at their ends.

    `{"train": {"cat": ["1.png"]}}` is the row train, cat, 1.png.
    """
    if isinstance(content, Mapping):
        names = {plain(str(key)): key for key in content}
        if {"imagenames", "imagelabels"} <= set(names):  # CloserLookFewShot's
            images, labels = content[names["imagenames"]], content[names["imagelabels"]]
            called = content.get(names.get("labelnames", ""), None)
            if isinstance(images, list) and isinstance(labels, list) and len(images) == len(labels):
                pairs = zip(images, labels, strict=True)
                return ["file", "class"], [[image, _called(called, label)] for image, label in pairs]
        columns = {key: value for key, value in content.items() if plain(str(key)) in FILE | LABEL | SPLIT}
        lengths = {len(value) if isinstance(value, list) else -1 for value in columns.values()}
        if len(columns) > 1 and len(lengths) == 1 and lengths != {-1}:
            return list(map(str, columns)), [list(row) for row in zip(*columns.values(), strict=True)]
        if len(content) == 1:
            ((key, value),) = content.items()
            if not said(str(key)) and isinstance(value, list | dict):
                return _cells(value)
        if "split" in names and isinstance(content[names["split"]], Mapping):
            return _cells(content[names["split"]])
    if isinstance(content, list) and content and all(isinstance(one, Mapping) for one in content):
        header = list(dict.fromkeys(str(key) for one in content for key in one))
        return header, [[one.get(name, "") for name in header] for one in content]
    return [], list(_ends(content))


def _ends(content: Any) -> Iterator[list[Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from ([key, *row] for row in _ends(value))
    elif isinstance(content, list) and content and all(isinstance(one, list) for one in content):
        yield from content
    elif isinstance(content, list):
        for one in content:
            yield from _ends(one)
    else:
        yield [content]


def _called(names: Any, label: Any) -> Any:
    """The name of a numbered label, where there are names."""
    if isinstance(names, list) and isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    return label
