"""Colours, and how a picture is begun and saved: one look for all of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from raymeta.storage.outputs import write_output

STATES = {  # of trials and of other runs, on a terminal
    "running": "cyan", "completed": "green", "done": "green", "pruned": "dim", "waiting": "dim", "diverged": "magenta",
    "failed": "red",
}  # fmt: skip
COLOURS = {  # in pictures
    "running": "C0", "completed": "green", "pruned": "0.65", "waiting": "0.65", "diverged": "magenta", "failed": "red",
}  # fmt: skip
BEST, EQUAL, REST = "C3", "C0", "0.65"
GUIDE: dict[str, Any] = {"color": "0.8", "lw": 0.8, "ls": "--", "zorder": 0}  # lines to read by, behind the data
PICTURES = (".png", ".svg", ".pdf")
DPI = 110
INK = "#010203"  # stands for the colour of a page's text
SAME: Any = {"svg.hashsalt": "raymeta"}  # else ids are random


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


def ordered(count: int) -> list[Any]:
    """So many colours for what has an order, from light to dark."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](0.15 + 0.85 * place / max(count - 1, 1)) for place in range(count)]


def legend(axis: Any) -> None:
    """What the lines of a panel are, above it in a line: nothing is covered."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, frameon=False, fontsize=8, columnspacing=1.2)


def drawn(figure: Any, suffix: str = ".png") -> bytes:
    """A picture as the content of a file with one of the suffixes `PICTURES`: the same for the same figure."""
    from matplotlib import rc_context

    content, dates = BytesIO(), {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context(SAME):
        figure.savefig(content, format=suffix[1:].lower(), dpi=DPI, metadata=dates.get(suffix.lower()))
    return content.getvalue()


def inline(figure: Any, name: str, title: str, alt: str) -> str:
    """A picture as an `<svg>` element of a page: lines and text in the page's own colour and font, light or dark.

    Args:
        figure: begun and saved inside `on_paper`.
        name: what sets its ids off from those of the page's other pictures.
        title: what it shows.
        alt: the same in a sentence, for those who don't see it.
    """
    content = BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(content, format="svg", metadata=nothing, transparent=True)
    text = content.getvalue().decode()
    body = text[text.index(">", text.index("<svg")) + 1 :].strip()
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL).replace(INK, "currentColor")
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*; ?", "", re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body))
    wide, high = (72 * inches for inches in figure.get_size_inches())
    box = f'viewBox="0 0 {wide:g} {high:g}" width="{wide:g}" height="{high:g}"'
    said = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-alt">{escape(alt)}</desc>'
    return f'<svg {box} role="img" aria-labelledby="{name}-title" aria-describedby="{name}-alt">{said}{body}'


@contextmanager
def on_paper() -> Iterator[None]:
    """Figures that are begun and saved inside take the page's ink, and equal ones give equal text."""
    import matplotlib

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = {"svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(SAME | settings | dict.fromkeys(inks, INK)):
        yield


def save(figure: Any, path: Path) -> None:
    """Write a picture to a user's file; the suffix says of what kind it is.

    Raises:
        UserError: it can't be written.
    """
    write_output(path, drawn(figure, path.suffix))
