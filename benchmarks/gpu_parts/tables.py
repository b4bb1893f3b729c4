"""Rows as tables."""

from collections.abc import Sequence
from typing import Any


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of results as Markdown: a table for each name. Columns that hold nothing are left out, notes come last."""
    text = []
    for name in dict.fromkeys(row["table"] for row in rows):
        own = [{k: v for k, v in row.items() if k not in ("part", "table")} for row in rows if row["table"] == name]
        heads = list(dict.fromkeys(key for row in own for key, value in row.items() if value not in (None, "")))
        heads.sort(key="note".__eq__)
        lines = [heads, *([shown(row.get(head)) for head in heads] for row in own)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        rule = ["-" * width for width in widths]
        text += ["", name, *(_line(line, widths) for line in [heads, rule, *lines[1:]])]
    return "\n".join(text)


def shown(value: Any) -> str:
    """A value of a row."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
