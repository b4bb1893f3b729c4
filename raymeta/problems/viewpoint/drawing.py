"""Pictures of views: a thing with its axes, as they are and as they are predicted. The test split is never drawn."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymeta.problem import SPLITS
from raymeta.problems.viewpoint.bank import Views, rotations_of
from raymeta.problems.viewpoint.rotations import Array, square
from raymeta.storage.outputs import write_output

if TYPE_CHECKING:
    from raymeta.problems.viewpoint.viewpoint import Viewpoint

AXES = ("#e8402a", "#f2c230", "#2458d6")  # front, side, up
ROWS, COLUMNS, LENGTH = 6, 8, 0.42


def draw_axes(axis: Any, picture: NDArray[Any], truth: Array, predicted: Array | None = None) -> None:
    """A picture [H, W, 3] with the thing's axes as they are, thin, and as predicted, dotted; rotations [3, 3]."""
    side, middle = picture.shape[0], (picture.shape[0] - 1) / 2
    axis.imshow(picture, interpolation="antialiased")
    dotted = {"linewidth": 2.4, "linestyle": (0, (0.8, 0.8))}
    for rotation, style in ((truth, {"linewidth": 1.1}), (predicted, dotted)):
        if rotation is not None:
            for column, colour in zip(rotation.T, AXES, strict=True):
                across, down = LENGTH * side * column[0], -LENGTH * side * column[1]  # rows are counted downwards
                axis.plot([middle, middle + across], [middle, middle + down], color=colour, **style)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    axis.spines[:].set_visible(False)


def draw_views(problem: "Viewpoint", path: Path) -> None:
    """Write a picture of some training and validation categories, a row each, and of a training task.

    Raises:
        UserError: the data are not prepared, or `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    store, rotations = problem.store, rotations_of(problem.store)
    figure = Figure(figsize=(3 * (COLUMNS * 0.5 + 0.7), ROWS * 0.5 + 0.8), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    parts: Any = figure.subfigures(1, 3)
    left, middle, right = parts
    for part, split in ((left, SPLITS[0]), (middle, SPLITS[1])):
        classes = store.classes(split)
        chosen = classes[np.linspace(0, len(classes) - 1, min(ROWS, len(classes))).round().astype(int)]
        part.suptitle(f"{split}: {len(chosen)} of {len(classes)} categories, as the data say", fontsize=8)
        for line, one in zip(_lines(part), chosen, strict=False):
            line[0].set_ylabel(store.class_names[one], fontsize=6, rotation=0, ha="right", va="center")
            for panel, row in zip(line, range(store.starts[one], store.starts[one] + store.sizes[one]), strict=False):
                draw_axes(panel, store.images[row].transpose(1, 2, 0), rotations[row])
    _draw_task(right, problem)
    content, suffix = BytesIO(), path.suffix.lower()
    metadata = {"Software": None} if suffix == ".png" else None
    figure.savefig(content, format=suffix[1:], dpi=100, metadata=metadata)
    write_output(path, content.getvalue())


def _draw_task(part: Any, problem: "Viewpoint") -> None:
    """The first training task: support views, then query views, with the axes that its labels say."""
    bank = Views(problem.store, problem.task, "train", 0)
    (task,) = (bank.draw(0, 1).task(0),)
    part.suptitle(
        f"a training task: {len(task.support.y)} support, then {len(task.query.y)} query views of {bank.category(0)}; "
        "red: front, blue: up",
        fontsize=8,
    )
    lines = _lines(part)
    half = ROWS // 2
    for rows, (x, y) in zip((lines[:half], lines[half:]), task, strict=True):
        pictures = problem.pixels(x).permute(0, 2, 3, 1).numpy()
        for panel, picture, rotation in zip(rows.flat, pictures, square(y).numpy(), strict=False):
            draw_axes(panel, picture, rotation)


def _lines(part: Any) -> Any:
    """Empty panels [ROWS, COLUMNS]."""
    panels = part.subplots(ROWS, COLUMNS, squeeze=False)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    return panels
