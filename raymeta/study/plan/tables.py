"""Tables of papers as presets: a file a table, a preset TABLE/TASK-METHOD each of its figures.

    source: Baik et al. 2020 (ALFA), Table 1
    interval: answers                          # what stands behind ±; see `Interval`
    evidence: P                                # how far to trust a figure; see `Evidence`
    outer: {lr: 1e-3}                          # sections as in any preset: of all rows,
    tasks:                                     # … of the rows of a task, on top,
      mini-5w1s: {task: {dataset: miniimagenet}, outer: {tasks_per_step: 4}}
    methods:                                   # … of a method,
      alfa: {spec: alfa, published: {mini-5w1s: 50.58 ± 0.51}, alfa: {depth: 3}}
    rows:                                      # … and of one row alone
      mini-5w1s-alfa: {differs: [theirs drew no tasks on Sundays]}
    lacking:                                   # rows that no preset covers
      tiered-5w1s-alfa: {published: 53.16, needs: the images}

A method has a row of every task that its `published` names; null: no figure is known. `differs` says what of a source
no key can say, and `spec`, `source`, `evidence`, `interval`, `unit` and `differs` may stand at every level. Nothing
here needs the classes of methods, so that tables are listed at once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from raymeta import registry
from raymeta.errors import UserError, suggest
from raymeta.schema import Section, check, merge
from raymeta.storage.files import read_yaml
from raymeta.storage.places import expanded

Interval = Literal["tasks", "batches", "queries", "answers", "seeds"]
INTERVALS: dict[Interval, str] = {
    "tasks": "95 % interval over test tasks",
    "batches": "95 % interval over batches of test tasks",
    "queries": "95 % interval over all answers, as if they were independent",
    "answers": "standard deviation of one answer, no interval",
    "seeds": "standard deviation over runs",
}
Evidence = Literal["P", "C", "R", "M", "J"]
EVIDENCE: dict[Evidence, str] = {
    "P": "read in the paper",
    "C": "read in the authors' code or logs",
    "R": "recalled, not checked",
    "M": "measured",
    "J": "judged",
}
ENDS = (".yaml", ".yml")
FIGURE = re.compile(r"\s*(?P<value>\d+(?:\.\d+)?)\s*(?:±|\+-)\s*(?P<interval>\d*\.?\d+)\s*")
FORMER = {  # names of presets that rows have replaced
    "metamix-omniglot20w": "metamix-table/omniglot-20w1s-metamix",
    "metadropout-omniglot20w": "metadropout-table/omniglot-20w1s-metadropout",
}


class Figure(NamedTuple):
    """A published figure as it is printed.

    Attributes:
        interval: what stands behind ±; None: nothing does, or it is not known.
        of: what that is.
        unit: `%`, or what an error is.
    """

    value: float
    interval: float | None
    of: Interval | None
    unit: str

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" ± {self.interval:.2f}"
        return f"{self.value:.2f}{spread} {self.unit}"

    @property
    def meaning(self) -> str:
        """What ± is, in words; "": it has none."""
        return "" if self.interval is None else INTERVALS[self.of] if self.of else "±: not known of what"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self._asdict(), "meaning": self.meaning}


class About(Section):
    """What a level of a table says besides sections of a preset."""

    spec: str | None = None
    source: str = ""
    evidence: Evidence | None = None
    interval: Interval | None = None
    unit: str = "%"
    differs: tuple[str, ...] = ()


class Lacking(Section):
    """A figure of a source that no preset covers."""

    published: str | float | None = None
    needs: str


class Whole(About):
    """The keys of a table's file, but for sections of a preset."""

    base: str | None = None
    tasks: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, Any]] = Field(default_factory=dict)
    lacking: dict[str, Lacking] = Field(default_factory=dict)

    @field_validator("tasks", "methods", "rows", mode="before")
    @classmethod
    def _empty_is_nothing(cls, value: Any) -> Any:
        return {key: {} if one is None else one for key, one in value.items()} if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Row:
    """A preset that is a row of a table.

    Attributes:
        name: TABLE/TASK-METHOD.
        spec: which method and regularizers it trains, as in `maml+dropgrad`.
        data: its sections, as those of any preset.
        base: the preset that the table builds on, by name or file.
        figure: what the source has published; None: nothing that is known.
        differs: what of the source it is not, a sentence each.
        file: of the table.
    """

    name: str
    spec: str
    data: dict[str, Any]
    base: str | None
    figure: Figure | None
    source: str
    evidence: Evidence | None
    differs: tuple[str, ...]
    file: Path

    @property
    def dataset(self) -> str:
        """What its tasks are made of; `miniimagenet → cub`: where it is tested on other data."""
        task = self.data.get("task", {})
        data = str(task.get("dataset") or task.get("problem", "-"))
        return f"{data} → {task['test_dataset']}" if task.get("test_dataset") else data

    @property
    def outer_steps(self) -> int | None:
        """What it costs."""
        steps = self.data.get("budget", {}).get("outer_steps")
        return steps if isinstance(steps, int) else None


@dataclass(frozen=True)
class Table:
    """A file with all of its rows, by what stands behind the slash of their names."""

    name: str
    file: Path
    source: str
    rows: dict[str, Row]
    lacking: dict[str, Lacking]

    def row(self, name: str) -> Row:
        """One of its rows.

        Raises:
            UserError: it has none of that name.
        """
        if name not in self.rows:
            raise UserError(f"the table {self.file.stem} has no row '{name}': {suggest(name, self.rows)}")
        return self.rows[name]


def read_table(file: Path) -> Table:
    """A table from its file.

    Raises:
        UserError: it is none.
    """
    changed = file.stat() if file.is_file() else None
    return _read(file, changed and (changed.st_mtime_ns, changed.st_size))


@lru_cache(maxsize=64)
def _read(file: Path, changed: tuple[int, int] | None) -> Table:
    data = read_yaml(file)
    sections = {key: value for key, value in data.items() if key not in Whole.model_fields}
    for key, value in sections.items():
        if not isinstance(value, Mapping):
            known = suggest(key, Whole.model_fields)
            raise UserError(f"{file}: {key}: expected a section of keys, found {value!r} (keys of a table: {known})")
    whole = check(Whole, {key: value for key, value in data.items() if key in Whole.model_fields}, str(file))
    rows = dict(_rows(file, whole, sections))
    for name in (*whole.rows, *whole.lacking):
        if (name in whole.rows) != (name in rows):
            why = "rows: no task and method make" if name in whole.rows else "lacking: there is a row"
            raise UserError(f"{file}: {why} '{name}'")
    return Table(file.stem, file, whole.source, rows, whole.lacking)


def _rows(file: Path, whole: Whole, sections: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    shared = whole.model_dump(include=set(About.model_fields), exclude_unset=True)
    for method, entry in whole.methods.items():
        figures = entry.get("published")
        if not isinstance(figures, Mapping):
            raise UserError(f"{file}: methods.{method}: published: expected figures by task, found {figures!r}")
        for task, figure in figures.items():
            if task not in whole.tasks:
                known = suggest(str(task), whole.tasks)
                raise UserError(f"{file}: methods.{method}: published: unknown task '{task}': {known}")
            name = f"{task}-{method}"
            own = {key: value for key, value in entry.items() if key != "published"}
            levels = [{**shared, **sections}, whole.tasks[task], own, whole.rows.get(name, {})]
            yield name, _row(name, file, whole.base, levels, figure)


def _row(name: str, file: Path, base: str | None, levels: list[dict[str, Any]], figure: Any) -> Row:
    merged, where = merge(*levels), f"{file}: {name}"
    said = {key: value for key, value in merged.items() if key in About.model_fields}
    differs = [sentence for level in levels for sentence in level.get("differs") or ()]
    about = check(About, {**said, "differs": differs}, where)
    if about.spec is None:
        raise UserError(f"{where}: spec: it is missing: which method a row trains, as in spec: maml+dropgrad")
    data = {key: value for key, value in merged.items() if key not in About.model_fields}
    found = _figure(figure, about, where)
    return Row(f"{file.stem}/{name}", about.spec, data, base, found, about.source, about.evidence, about.differs, file)


def _figure(found: Any, about: About, where: str) -> Figure | None:
    """`56.80`, `56.80 ± 0.49` or null."""
    if found is None:
        return None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return Figure(float(found), None, None, about.unit)
    if not isinstance(found, str) or not (match := FIGURE.fullmatch(found)):
        raise UserError(f"{where}: published: found {found!r}: expected a figure, as in 56.80 or 56.80 ± 0.49, or null")
    return Figure(float(match["value"]), float(match["interval"]), about.interval, about.unit)


def every_table() -> list[Table]:
    """All tables of folders of presets."""
    return [read_table(_file(name)) for name in registry.tables()]


def names() -> list[str]:
    """All presets: those that are a file each, and the rows of tables."""
    rows = [row.name for table in every_table() for row in table.rows.values()]
    return [*registry.presets(), *rows]


def is_file(preset: str | Path) -> bool:
    """Whether a preset is named by its file, or by the file of its table: a name has one slash, or none."""
    if isinstance(preset, Path) or preset.endswith(ENDS) or Path(preset).parent.suffix in ENDS:
        return True
    return preset.count("/") > 1 or preset.startswith((".", "~", "/")) or (Path(preset).is_file() and "/" in preset)


def row_of(preset: str | Path) -> Row | None:
    """The row of a table by its name, `alfa-table1/mini-5w1s-maml`, or that of an own table, `mine.yaml/5w1s-maml`.

    Returns:
        None: it is a preset that is a file.

    Raises:
        UserError: there is no such table or row, or it is a whole table.
    """
    if is_file(preset):
        path = expanded(preset)
        return read_table(path.parent).row(path.name) if path.parent.suffix in ENDS else None
    name, slash, row = str(preset).partition("/")
    if slash and name in registry.tables():
        return read_table(_file(name)).row(row)
    if slash:
        raise UserError(f"unknown preset '{preset}': {_nearest(str(preset))}")
    if name in registry.tables():
        raise UserError(f"{name} is a table; name one of its rows: {_some(read_table(_file(name)))}")
    return None


def named_file(name: str) -> Path:
    """The file of a preset that is no row.

    Raises:
        UserError: there is none of that name; the sentence has the nearest one.
    """
    if (file := registry.preset_file(name)) is None:
        if name in FORMER:
            raise UserError(f"the preset {name} is a row of a table now: {FORMER[name]} (raymeta presets lists all)")
        raise UserError(f"unknown preset '{name}': {_nearest(name)}")
    return file


def _file(name: str) -> Path:
    file = registry.table_file(name)
    assert file is not None
    return file


def _some(table: Table) -> str:
    return ", ".join(f"{table.name}/{row}" for row in list(table.rows)[:4]) + (", …" if len(table.rows) > 4 else "")


def _nearest(name: str) -> str:
    """The nearest of all names; listed are presets that are a file each, for rows are many."""
    if "/" in name:
        return suggest(name, names()).partition(" (allowed")[0] + "; raymeta presets lists all"
    return f"{suggest(name, registry.presets())}; rows of tables: raymeta presets"
