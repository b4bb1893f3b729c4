"""Colours, and how a picture is begun and saved: one look for all of them."""

from io import BytesIO
from pathlib import Path
from typing import Any

from raymeta.storage.outputs import write_output

STATES = {  # of trials and of other runs, on a terminal
    "running": "cyan", "completed": "green", "done": "green", "pruned": "dim", "waiting": "dim", "diverged": "magenta",
    "failed": "red",
}  # fmt: skip
COLOURS = {"running": "C0", "completed": "green", "pruned": "0.65", "diverged": "magenta", "failed": "red"}  # pictures
BEST, EQUAL, REST = "C3", "C0", "0.65"
GUIDE: dict[str, Any] = {"color": "0.8", "lw": 0.8, "ls": "--", "zorder": 0}  # lines to read by, behind the data
PICTURES = (".png", ".svg", ".pdf")
DPI = 110


def panels(rows: int, columns: int, width: float, height: float, *, share_y: bool = False) -> tuple[Any, Any]:
    """A figure and its axes [rows, columns], each panel so many inches large.

    Without pyplot: a notebook's own backend and figures are left alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawn(figure: Any, suffix: str = ".png") -> bytes:
    """A picture as the content of a file with one of the suffixes `PICTURES`."""
    content = BytesIO()
    figure.savefig(content, format=suffix[1:].lower(), dpi=DPI)
    return content.getvalue()


def save(figure: Any, path: Path) -> None:
    """Write a picture to a user's file; the suffix says of what kind it is.

    Raises:
        UserError: it can't be written.
    """
    write_output(path, drawn(figure, path.suffix))
