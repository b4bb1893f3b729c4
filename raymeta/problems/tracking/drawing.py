"""Pictures of sequences: frames with boxes. The test split is never drawn."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from raymeta.problem import SPLITS
from raymeta.problems.tracking.boxes import Array
from raymeta.storage.outputs import write_output

if TYPE_CHECKING:
    from raymeta.problems.tracking.sequenced import Sequenced

ROWS, COLUMNS = 5, 6
TRUTH, FOUND, LOST = "#ffffff", "#f2c230", "#e8402a"


def draw_frame(axis: Any, frame: Image.Image, *boxes: tuple[Array, str]) -> None:
    """A frame with boxes in colours; those that are NaN are left out."""
    axis.imshow(np.asarray(frame), interpolation="antialiased")
    for box, colour in boxes:
        if not np.isnan(box).any():
            draw_box(axis, box, colour)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, frame.width - 0.5), ylim=(frame.height - 0.5, -0.5))
    axis.spines[:].set_visible(False)


def draw_box(axis: Any, box: Array, colour: str) -> None:
    """The outline of a box in pixels."""
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((box[0] - 0.5, box[1] - 0.5), box[2], box[3], fill=False, edgecolor=colour, linewidth=1.2))


def draw_clips(problem: "Sequenced", path: Path) -> None:
    """Write a picture of some training and validation sequences, a row each, with the target's boxes.

    Raises:
        UserError: the data are not there or damaged, or `path` can't be written.
    """
    figure = _figure(2 * (COLUMNS * 0.9 + 0.7), ROWS * 0.9 + 0.4)
    parts: Any = figure.subfigures(1, 2)
    for part, split in zip(parts, SPLITS, strict=False):
        count = problem.count(split)
        chosen = np.linspace(0, count - 1, min(ROWS, count)).round().astype(int)
        part.suptitle(f"{split}: {len(chosen)} of {count} sequences, and the target", fontsize=9)
        for line, number in zip(part.subplots(len(chosen), COLUMNS, squeeze=False), chosen, strict=True):
            clip = problem.clip(split, int(number))
            line[0].set_ylabel(clip.name, fontsize=7)
            for axis, time in zip(line, spread(len(clip), COLUMNS), strict=False):
                draw_frame(axis, clip.read(time), (clip.boxes[time], TRUTH))
    _save(figure, path, 75)


def draw_strip(path: Path, frames: Sequence[tuple[int, Image.Image]], boxes: Array, lost: Sequence[bool]) -> None:
    """Write a picture of some frames of a sequence with the boxes that were found.

    Args:
        path: where to; the suffix says the format.
        frames: numbers and frames.
        boxes: of all frames, [T, 4].
        lost: of all frames, whether the target was not found.
    """
    figure = _figure(1.6 * len(frames), 1.6 * frames[0][1].height / frames[0][1].width + 0.25)
    for axis, (number, frame) in zip(figure.subplots(1, len(frames), squeeze=False)[0], frames, strict=True):
        draw_frame(axis, frame, (boxes[number], LOST if lost[number] else FOUND))
        axis.set_title(f"{number + 1}{', not found' if lost[number] else ''}", fontsize=8)
    _save(figure, path, 110)


def spread(count: int, columns: int) -> list[int]:
    """So many numbers of frames, evenly over all, the first and the last among them."""
    return [int(one) for one in np.linspace(0, count - 1, min(columns, count)).round()]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    return figure


def _save(figure: Any, path: Path, dpi: int) -> None:
    content, suffix = BytesIO(), path.suffix.lower()
    figure.savefig(content, format=suffix[1:], dpi=dpi, metadata={"Software": None} if suffix == ".png" else None)
    write_output(path, content.getvalue())
