"""What the methods and regularizers are, from their own docstrings and settings: the list, and a page for each.

python -m raymeta.report.handbook docs        # writes docs/methods.md, docs/methods/*.md and docs/matrix.md
"""

import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.console import Group
from rich.table import Table

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import UserError, suggest
from raymeta.installed import HERE
from raymeta.learner import build_learner
from raymeta.problem import open_problem, task_section
from raymeta.report.shown import Shown
from raymeta.schema import fields
from raymeta.storage.files import write_atomically

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Entry:
    """What has a name and a paper."""

    name: str
    title: str
    paper: str

    @property
    def short(self) -> str:
        """The paper as it is cited: `Finn et al. (ICML 2017)`."""
        authors, venue = self.paper.split(":")[0], self.paper[self.paper.rfind("(") :].rstrip(".")
        first, *others = authors.split(",")
        return f"{first} et al. {venue}" if others else f"{authors} {venue}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class About(Entry):
    """A method in a line: also what adapts, what is learned, cost of a step relative to MAML's."""

    adapts: str
    learns: str
    cost: float | None


@dataclass(frozen=True)
class AboutRegularizer(Entry):
    """A regularizer in a line: also what it acts on."""

    acts_on: str


def about(name: str | None = None) -> list[About]:
    """All methods, or one."""
    found = []
    for each, cls in ({name: registry.find("method", name)} if name else registry.working("method")).items():
        found.append(About(each, *_title(cls), cls.adapts, cls.learns, vars(cls).get("cost")))
    return found


def about_regularizers(name: str | None = None) -> list[AboutRegularizer]:
    """All regularizers, or one."""
    found = []
    for each, cls in ({name: registry.find("regularizer", name)} if name else registry.working("regularizer")).items():
        found.append(AboutRegularizer(each, *_title(cls), cls.acts_on))
    return found


@dataclass(frozen=True, repr=False)
class Listing(Shown):
    """All methods and regularizers."""

    methods: list[About]
    regularizers: list[AboutRegularizer]

    def __rich__(self) -> Group:
        table = Table("method", "paper", "adapts", "meta-learned", "cost", box=None, pad_edge=False)
        for one in self.methods:
            cost = f"{one.cost:.1f}" if one.cost is not None else "-"
            table.add_row(one.name, one.short, one.adapts, one.learns, cost)
        table.caption = "cost: time of an outer step, second-order MAML's being 1"
        added = Table("regularizer", "paper", "acts on", box=None, pad_edge=False)
        for other in self.regularizers:
            added.add_row(f"+{other.name}", other.short, other.acts_on)
        return Group(table, "", added)

    def as_dict(self) -> dict[str, Any]:
        """Plain data by name."""
        return {one.name: one.as_dict() for one in (*self.methods, *self.regularizers)}

    def frame(self) -> "pandas.DataFrame":
        """A row a method or regularizer; index: its name."""
        import pandas

        return pandas.DataFrame(list(self.as_dict().values())).set_index("name")


class Page(str):
    """Markdown that a notebook shows as such."""

    def _repr_markdown_(self) -> str:
        return str(self)


def listing() -> Listing:
    """All of them."""
    return Listing(about(), about_regularizers())


def page(name: str) -> str:
    """The page of a method or a regularizer in Markdown: its docstring, its settings with their defaults.

    Raises:
        UserError: there is neither of that name.
    """
    known = registry.names("method") + registry.names("regularizer")
    if name not in known:
        raise UserError(f"unknown method or regularizer '{name}': {suggest(name, known)}")
    if name in registry.names("regularizer"):
        return _regularizer_page(name)
    (one,) = about(name)
    cls = registry.find("method", name)
    lines = [*_head(cls), f"Adapts {one.adapts}. Meta-learned: {one.learns}.", "", *_settings(cls, name)]
    if cls.defaults or cls.networks:
        plain, own = parse_trial({"method": "maml"}).flat(), parse_trial({"method": name}).flat()
        changed = [f"`{k}: {str(v).lower()}`" for k, v in own.items() if k in plain and plain[k] != v and k != "method"]
        lines += ["", f"Unless said otherwise: {', '.join(changed)}."]
    lines += ["", f"`raymeta search {name}` {_searches('method', name)}.", ""]
    return "\n".join(lines)


def _searches(kind: Literal["method", "regularizer"], name: str) -> str:
    """Where its space is: a link of these pages for one of this repository, a path for another's."""
    if (file := registry.space_file(kind, name)) is None:
        return "searches what `--space FILE` or ranges say of it: it has no space of its own"
    here = file.is_relative_to(HERE)
    return "searches " + (f"[its space](../../{file.relative_to(HERE).as_posix()})" if here else f"its space, {file}")


def _regularizer_page(name: str) -> str:
    (one,) = about_regularizers(name)
    cls = registry.find("regularizer", name)
    where = "in training and evaluation" if cls.in_evaluation else "in training only"
    which = "learners with an inner loop" if "inner loop" in cls.needs else "any learner"
    lines = [*_head(cls), f"Acts on {one.acts_on}, {where}, of {which}.", "", *_settings(cls, f"regularizers.{name}")]
    space = f"`raymeta search maml+{name}` {_searches('regularizer', name)} with the learner's."
    return "\n".join([*lines, "", space, ""])


def _head(cls: type) -> list[str]:
    title, *paragraphs = _docstring(cls).split("\n\n")
    return [f"# {' '.join(title.split()).rstrip('.')}", "", *(part + "\n" for part in map(_markdown, paragraphs))]


def _settings(cls: Any, section: str) -> list[str]:
    """A row for each key of the section."""
    rows = []
    for key, field in fields(cls.Config).items():
        default = "null" if field.default is None else str(field.default).lower()
        rows.append(f"| `{section}.{key}` | {default} | {_values(field.annotation)} | {field.description or ''} |")
    return ["| setting | default | values | what it is |", "| --- | --- | --- | --- |", *rows] if rows else []


def _title(cls: type) -> tuple[str, str]:
    """Title and paper; a foreign module may have written neither."""
    title, paper, *_ = [*(" ".join(part.split()) for part in _docstring(cls).split("\n\n")), "", ""]
    return title or cls.__name__, paper


def _docstring(cls: type) -> str:
    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")


def _markdown(paragraph: str) -> str:
    """Indented formulas as code."""
    if paragraph.startswith("    "):
        return "\n".join(["```", inspect.cleandoc(paragraph), "```"])
    return paragraph


def _values(annotation: Any) -> str:
    choices = [value for value in get_args(annotation) if not isinstance(value, type)]
    if choices and not any(get_args(value) for value in choices):
        return ", ".join(str(value) for value in choices)
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    return " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)


DATA: dict[str, dict[str, Any]] = {
    "images": {"task": {"dataset": "glyphs"}, "model": {"name": "conv4", "width": 4}},
    "curves": {"task": {"problem": "sinusoid"}, "model": {"name": "mlp", "hidden": [8]}},
}


def refusal(method: str, regularizer: str, data: str) -> str | None:
    """Why a composition is refused on a kind of data, or None if it runs; at their default settings."""
    config = {"method": method, "regularizers": {regularizer: {}}, **DATA[data]}
    try:
        trial = parse_trial(config)
        build_learner(trial, open_problem(trial.task))
    except UserError as error:
        return str(error)
    return None


def matrix() -> str:
    """Every learner with every regularizer, in Markdown: what runs and why the rest is refused."""
    regularizers = registry.names("regularizer")
    lines = [
        "# Which regularizer goes with which learner", "",
        "Made from the code by `uv run python -m raymeta.report.handbook docs`; `tests/test_matrix.py` takes an outer "
        "step of every cell, in both orders where there are two.", "",
    ]  # fmt: skip
    for data, settings in DATA.items():
        name, problem = settings["model"]["name"], open_problem(task_section(settings["task"]))
        learners = [one for one in registry.names("method") if registry.find("method", one).needs <= problem.offers]
        reasons: dict[str, int] = {}
        rows = []
        for learner in learners:
            cells = []
            for regularizer in regularizers:
                reason = refusal(learner, regularizer, data)
                # The same reason for many learners is one footnote.
                said = (reason or "").removeprefix(f"{learner}+").replace(f"and {learner} has", "and the learner has")
                cells.append(f"[{reasons.setdefault(said, len(reasons) + 1)}]" if reason else "✓")
            rows.append(f"| {learner} | {' | '.join(cells)} |")
        lines += [
            f"## {data.capitalize()} ({problem.name}, {name})", "", f"| | {' | '.join(regularizers)} |",
            f"| --- |{' --- |' * len(regularizers)}", *rows, "",
            *(f"{number}. {said}" for said, number in reasons.items()), "",
        ]  # fmt: skip
    return "\n".join(lines)


def contents() -> str:
    """The list of all pages, in Markdown."""
    lines = [
        "# Methods and regularizers", "",
        "Each has a page with its equations and its settings, made from the code (`uv run python -m "
        "raymeta.report.handbook docs`), as `raymeta methods NAME` shows it. Side by side, measured: "
        "[learners](learners.md), [regularizers](regularizers.md), and [which goes with which](matrix.md).", "",
        "## Methods", "", "| method | paper | adapts | meta-learned | cost |", "| --- | --- | --- | --- | --- |",
        *(
            f"| [{one.name}](methods/{one.name}.md) | {one.short} | {one.adapts} | {one.learns} | "
            f"{'-' if one.cost is None else f'{one.cost:.1f}'} |"
            for one in about()
        ),
        "", "Cost: time of an outer step, second-order MAML's being 1.", "",
        "## Regularizers", "", "| `+` | paper | acts on |", "| --- | --- | --- |",
        *(f"| [{one.name}](methods/{one.name}.md) | {one.short} | {one.acts_on} |" for one in about_regularizers()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Write every page."""
    for name in registry.names("method") + registry.names("regularizer"):
        write_atomically(folder / "methods" / f"{name}.md", page(name))
    write_atomically(folder / "methods.md", contents())
    write_atomically(folder / "matrix.md", matrix())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
