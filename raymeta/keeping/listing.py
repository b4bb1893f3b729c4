"""The studies of a folder in a table: filtered, sorted, and fast, as what was read of a study is remembered.

A row is kept in the cache folder with the times and sizes of the files that it came from, and read again once one of
them has changed. Whether a process drives a study, its tags and its note are looked at every time. Nothing heavy is
imported unless a study has to be read.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.table import Column, Table
from rich.text import Text

from raymeta import __version__
from raymeta.errors import UserError, suggest
from raymeta.keeping.labels import note_of, tags_of
from raymeta.storage.files import cache_folder, write_atomically
from raymeta.storage.places import AnyPath
from raymeta.study.record.folder import is_driven, names_in

if TYPE_CHECKING:
    from raymeta.study.record.record import StudyRecord

Order = Literal["name", "created", "last", "score", "trials", "size", "method", "task"]
STATES = ("running", "left", "over")
Stamp = dict[str, list[int] | None]


@dataclass(frozen=True)
class Row:
    """A study in a line; what it has of `Status` is that.

    Attributes:
        value: of the best, for sorting; None: there is none.
        higher: a higher value is better.
        size: bytes on this machine's disk; None: not asked for, or it is on a store.
    """

    study: str
    method: str
    task: str
    planned: int
    trials: dict[str, int]
    driven: bool
    over: bool
    settled: bool
    finalists: tuple[int, int]
    last_round: str | None
    best: int | None
    score: str
    created: str
    value: float | None
    higher: bool
    tags: list[str] = field(default_factory=list)
    note: str = ""
    size: int | None = None

    @property
    def state(self) -> str:
        """In a word."""
        return "running" if self.driven else "over" if self.settled else "left"

    @property
    def ended(self) -> int:
        """Trials that have, as `TrialRecord.ended` has it."""
        return sum(count for state, count in self.trials.items() if state not in ("running", "waiting"))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "state": self.state}


@dataclass(frozen=True)
class Filters:
    """Which studies are listed: those that all of it is true of.

    Attributes:
        names: patterns such as `maml-*`, one of which fits.
        tags: all of them.
        state: running, left or over.
        method: a pattern, or a part of its name.
        task: the same.
    """

    names: Sequence[str] = ()
    tags: Sequence[str] = ()
    state: str | None = None
    method: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise UserError(f"state: found '{self.state}', {suggest(self.state, STATES)}")

    def take(self, row: Row) -> bool:
        """Whether a study is listed."""
        return (
            set(self.tags) <= set(row.tags)
            and self.state in (None, row.state)
            and all(
                wanted is None or wanted in found or fnmatchcase(found, wanted)
                for wanted, found in ((self.method, row.method), (self.task, row.task))
            )
        )


def listed(
    home: AnyPath, filters: Filters, order: str = "name", *, reverse: bool = False, sizes: bool = False
) -> tuple[list[Row], list[UserError]]:
    """The studies of a folder, and what is wrong with those that can't be read.

    Args:
        home: the folder.
        filters: which.
        order: by name, method and task from a to z, else the newest, best or largest first.
        reverse: the other way round.
        sizes: how much each takes on the disk, too.

    Raises:
        UserError: there is no such order.
    """
    if order not in get_args(Order):
        raise UserError(f"sort: found '{order}', {suggest(order, get_args(Order))}")
    names = names_in(home)
    chosen = [name for name in names if not filters.names or any(fnmatchcase(name, one) for one in filters.names)]
    rows, wrong = _rows(home, chosen, set(names))
    rows = [row for row in rows if filters.take(row)]
    if sizes or order == "size":
        rows = [replace(row, size=size_of(home / row.study)) for row in rows]
    return sorted(rows, key=lambda row: _key(row, order), reverse=reverse), wrong


def _key(row: Row, order: str) -> tuple[Any, ...]:
    if order == "score":
        value = row.value if row.value is not None and isfinite(row.value) else None
        return (value is None, 0.0 if value is None else -value if row.higher else value)
    falling = {
        "created": _moment(row.created),
        "last": _moment(row.last_round),
        "trials": float(row.ended),
        "size": float(row.size or 0),
    }
    if order in falling:
        return (-falling[order], row.study)
    return ({"method": row.method, "task": row.task}.get(order, ""), row.study)


def _moment(text: str | None) -> float:
    from datetime import datetime

    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp() if text else -inf
    return -inf


def _rows(home: AnyPath, names: Sequence[str], all_names: set[str]) -> tuple[list[Row], list[UserError]]:
    cache = _cache_of(home)
    known = _read_cache(cache) if cache else {}
    found, wrong, changed = [], [], False
    for name in names:
        folder, entry = home / name, known.get(name)
        row = _remembered(folder, entry) if isinstance(folder, Path) and entry else None
        try:
            if row is None:
                row, stamp = read_row(folder)
                known[name] = {"stamp": stamp, "row": asdict(row)}
                changed = True
            found.append(replace(row, driven=is_driven(folder), tags=tags_of(folder), note=note_of(folder)))
        except UserError as error:
            wrong.append(error)
    if cache and (changed or not set(known) <= all_names):
        with suppress(OSError):  # then it is read again the next time
            kept = {name: entry for name, entry in known.items() if name in all_names}
            write_atomically(cache, json.dumps({"raymeta": __version__, "home": str(home), "studies": kept}))
    return found, wrong


def _cache_of(home: AnyPath) -> Path | None:
    if not isinstance(home, Path):
        return None
    return cache_folder() / "studies" / f"{sha256(str(home).encode()).hexdigest()[:16]}.json"


def _read_cache(cache: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found["raymeta"] == __version__:
            return dict(found["studies"])
    return {}


def _remembered(folder: Path, entry: dict[str, Any]) -> Row | None:
    """The row, if all files that it came from are as they were."""
    try:
        if all(_stat(folder / name) == stat for name, stat in entry["stamp"].items()):
            row = entry["row"]
            return Row(**{one.name: row[one.name] for one in fields(Row)} | {"finalists": tuple(row["finalists"])})
    except (KeyError, TypeError, AttributeError):  # another version's
        pass
    return None


def _stat(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def read_row(folder: AnyPath) -> tuple[Row, Stamp]:
    """A study's row, and the stamp of the files that it came from.

    Raises:
        UserError: it can't be read.
    """
    from raymeta.report.status import status_of
    from raymeta.study.record.finalists import all_weights
    from raymeta.study.record.home import read_study

    # Stamped before it is read: what changes meanwhile is read again the next time.
    stamp: Stamp = {}
    if isinstance(folder, Path):
        stamp = {name: _stat(folder / name) for name in ("study.yaml", "journal.log")}
    record = read_study(folder)
    if isinstance(record, UserError):
        raise record
    if isinstance(folder, Path):
        for one in all_weights(record):
            path = Path(str(one.folder)) / "finalist.json"
            stamp[path.relative_to(folder).as_posix()] = _stat(path)
    known = status_of(record).as_dict()
    extra: dict[str, Any] = {"created": str(record.about.get("created", "")), "value": _value(record)}
    return Row(**known, **extra, higher=record.metric.mode == "max"), stamp


def _value(record: "StudyRecord") -> float | None:
    """What the best is called best by."""
    from raymeta.study.record.finalists import standings

    standing, best = standings(record), record.best()
    if standing and best and (scored := standing.of(best.number)) and scored.values:
        return float(scored.mean)
    entry = best.best(record.metric) if best else None
    return float(entry[f"val_{record.metric.name}"]) if entry else None


def size_of(folder: AnyPath) -> int | None:
    """Bytes that a study takes on the disk, not those behind links; None: it is on a store."""
    if not isinstance(folder, Path):
        return None
    size, left = 0, [str(folder)]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:  # one may just be deleted
            for entry in entries:
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
    return size


def in_words(size: int) -> str:
    """`1.2 GB`."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def table_of(rows: Sequence[Row]) -> Table:
    """A row for each study; columns for sizes, tags and notes where there are any."""
    optional = [name for name in ("size", "tags", "note") if any(getattr(row, name) for row in rows)]
    whole = [Column(name, no_wrap=True) for name in ("state", "trials", "best", "last round")]
    table = Table(
        Column("study", overflow="fold"), *whole, Column("method, task", overflow="fold"),
        *(Column(name, overflow="fold") for name in optional), box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        best = f"{row.score} (trial {row.best})" if row.best is not None else "-"
        last = row.last_round[:16].replace("T", " ") if row.last_round else "-"
        more = {"size": in_words(row.size or 0), "tags": ", ".join(row.tags), "note": _first_line(row.note)}
        cells = [row.study, row.state, f"{row.ended}/{row.planned}", best, last, f"{row.method}, {row.task}"]
        table.add_row(*(Text(cell) for cell in [*cells, *(more[name] for name in optional)]))
    return table


def _first_line(text: str) -> str:
    line, _, rest = text.partition("\n")
    return f"{line} …" if rest else line
