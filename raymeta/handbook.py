"""What the methods are, from their own docstrings and settings: the list, and a page for each.

python -m raymeta.handbook docs/methods        # writes the pages
"""

import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.files import write_atomically


@dataclass(frozen=True)
class About:
    """A method in a line: name, title, paper, what adapts, what is learned, cost of a step relative to MAML's."""

    name: str
    title: str
    paper: str
    adapts: str
    learns: str
    cost: float | None

    @property
    def short(self) -> str:
        """The paper as it is cited: `Finn et al. (ICML 2017)`."""
        authors, venue = self.paper.split(":")[0], self.paper[self.paper.rfind("(") :].rstrip(".")
        first, *others = authors.split(",")
        return f"{first} et al. {venue}" if others else f"{authors} {venue}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def about(name: str | None = None) -> list[About]:
    """All methods, or one."""
    found = []
    for each in [name] if name else registry.names("method"):
        cls = registry.find("method", each)
        title, paper, *_ = [" ".join(part.split()) for part in _docstring(cls).split("\n\n")]
        found.append(About(each, title, paper, cls.adapts, cls.learns, vars(cls).get("cost")))
    return found


def listing() -> Table:
    """A row a method."""
    table = Table("method", "paper", "adapts", "meta-learned", "cost", box=None, pad_edge=False)
    for one in about():
        cost = f"{one.cost:.1f}" if one.cost is not None else "-"
        table.add_row(one.name, one.short, one.adapts, one.learns, cost)
    table.caption = "cost: time of an outer step, second-order MAML's being 1"
    return table


def page(name: str) -> str:
    """A method's page in Markdown: its docstring, its settings with their defaults, what else it changes.

    Raises:
        UserError: no such method.
    """
    (one,) = about(name)
    cls = registry.find("method", name)
    _, *paragraphs = _docstring(cls).split("\n\n")
    lines = [f"# {one.title.rstrip('.')}", "", *(part + "\n" for part in map(_markdown, paragraphs))]
    lines += [f"Adapts {one.adapts}. Meta-learned: {one.learns}.", ""]
    fields = cls.Config.model_fields
    if fields:
        lines += ["| setting | default | values | what it is |", "| --- | --- | --- | --- |"]
    for key, field in fields.items():
        default = "null" if field.default is None else str(field.default).lower()
        lines.append(f"| `{name}.{key}` | {default} | {_values(field.annotation)} | {field.description or ''} |")
    if cls.defaults:
        plain, own = parse_trial({"method": "maml"}).flat(), parse_trial({"method": name}).flat()
        changed = [f"`{k}: {str(v).lower()}`" for k, v in own.items() if k in plain and plain[k] != v and k != "method"]
        lines += ["", f"Unless said otherwise: {', '.join(changed)}."]
    lines += ["", f"`raymeta search {name}` searches [its space](../../search_spaces/{name}.yaml).", ""]
    return "\n".join(lines)


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


def write(folder: Path) -> None:
    """Write every method's page."""
    for name in registry.names("method"):
        write_atomically(folder / f"{name}.md", page(name))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
