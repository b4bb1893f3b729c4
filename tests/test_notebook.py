"""docs/notebook.md: its cells are run in order, and print what the page says, whatever the numbers are.

uv run python tests/test_notebook.py        # runs the cells and writes their outputs into the page
"""

import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "notebook.md"
CELL = re.compile(r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<output>.*?)^```\n", re.MULTILINE | re.DOTALL)


def run(code: str, names: dict[str, Any]) -> str:
    """What a cell prints, and its last expression as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]
            if value is not None:
                print(value if isinstance(value, str) else repr(value))
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


def cells(page: str) -> Iterator[tuple[re.Match[str], str]]:
    """The cells of the page with what they print, one after the other."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in CELL.finditer(page):
        yield cell, run(cell["code"], names)


def shape(output: str) -> str:
    """An output without what differs from machine to machine: numbers, and how wide columns are for them."""
    return re.sub(r"[\s━─┏┳┓┡╇┩└┴┘]+", " ", re.sub(r"\d+(\.\d*)?(e[-+]\d+)?", "#", output))


def environment(folder: Path) -> dict[str, str]:
    return {"RAYMETA_STUDIES": str(folder / "studies"), "COLUMNS": "120"}


def test_every_cell_has_an_output() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("```python") == page.count("```text") == len(CELL.findall(page)) > 8


def test_the_shape_of_an_output() -> None:
    assert shape("a  1.25 e\n│ 2e-05 ┃") == shape("a 17. e │ 3 ┃") == "a # e │ # ┃"
    assert shape("pruned 3") != shape("completed 3")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_is_what_its_cells_print(glyphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in environment(tmp_path).items():
        monkeypatch.setenv(key, value)
    for cell, printed in cells(PAGE.read_text(encoding="utf-8")):
        assert shape(printed) == shape(cell["output"]), cell["code"]


def write() -> None:
    """Run the cells and put what they print into the page."""
    page, done, end = PAGE.read_text(encoding="utf-8"), "", 0
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ.update(environment(Path(scratch)))
        for cell, printed in cells(page):
            done += page[end : cell.start("output")] + printed
            end = cell.end("output")
            print(printed, file=sys.stderr)
    PAGE.write_text(done + page[end:], encoding="utf-8")


if __name__ == "__main__":
    write()
