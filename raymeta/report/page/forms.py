"""A report in the forms that it is written in: a page, Markdown, LaTeX, CSV and JSON."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raymeta.errors import UserError, shown, suggest
from raymeta.report.page.content import Grid, Report
from raymeta.report.style import inline, on_paper

HERE = Path(__file__).parent
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "×": r"$\times$", "…": r"\dots{}",
}  # fmt: skip


def html(report: Report) -> str:
    """One page that needs nothing but itself: pictures are inline, numbers are in tables under them."""
    with on_paper():
        drawn = {
            figure.numbers.name: Markup(inline(figure.draw(), figure.numbers.name, figure.numbers.title, figure.alt))
            for section in report.sections
            for figure in section.figures
        }
    jinja = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return jinja.get_template("page.html").render(report=report, css=css, drawn=drawn) + "\n"


def markdown(report: Report) -> str:
    """GitHub's Markdown, without pictures and long tables."""
    parts = [f"# {_md(report.title)}", _md(report.subtitle)]
    for section in report.sections:
        grids = [grid for grid in section.grids if not grid.long]
        if not (section.text or grids):
            continue
        parts += [f"## {_md(section.title)}", *map(_md, section.text)]
        if section.code:
            parts.append("\n".join(["```sh", *section.code, "```"]))
        for grid in grids:
            head, rule = list(map(_md, grid.columns)), ["--:" if number else ":--" for number in grid.numbers]
            lines = [head, rule, *([_md(cell) for cell in row] for row in grid.texts())]
            parts += [f"**{_md(grid.title)}**", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    r"""The tables for a paper, each a `table`; they need the packages booktabs and graphicx. Long ones are left out."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", report.title)
    parts = [f"% {_line(report.title)}: {_line(report.subtitle)}", r"% \usepackage{booktabs,graphicx}"]
    for section in report.sections:
        for grid in section.grids:
            if not grid.long:
                parts.append(_tabular(grid, f"tab:{name}-{grid.name}"))
    return "\n\n".join(parts) + "\n"


def _tabular(grid: Grid, label: str) -> str:
    columns = "".join("r" if number else "l" for number in grid.numbers)
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in [grid.columns, *grid.texts()]]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(grid.title)}}}",
            rf"\label{{{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def comma_separated(report: Report) -> str:
    """The report's rows: of a study its trials, with the score at every rung and what was searched."""
    grid = next((grid for section in report.sections for grid in section.grids if grid.name == report.rows), None)
    out = StringIO()
    if grid is not None:
        rows: list[Sequence[object]] = [grid.columns, *(["" if c is None else c for c in row] for row in grid.rows)]
        csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def as_json(report: Report) -> str:
    """Everything but the pictures."""
    return json.dumps(_finite(report.as_dict()), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


FORMS: dict[str, Callable[[Report], str]] = {
    "html": html, "md": markdown, "tex": latex, "csv": comma_separated, "json": as_json
}  # fmt: skip


def _finite(data: Any) -> Any:
    """The same with null for what is no number, which JSON has no word for."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def form_of(path: str | Path | None, form: str | None) -> str:
    """How a report is to be written: as is said, else by the file's ending, else as a page.

    Raises:
        UserError: there is no such form.
    """
    if form is None:
        form = Path(path).suffix[1:].lower() if path is not None and str(path) != "-" else "html"
        if form not in FORMS:
            raise UserError(f"{shown(path)}: its ending names no format: name one by --format ({', '.join(FORMS)})")
    if form not in FORMS:
        raise UserError(f"unknown format '{form}': {suggest(form, FORMS)}")
    return form


def _md(text: str) -> str:
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", _line(text)).replace("_", r"\_")


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())
