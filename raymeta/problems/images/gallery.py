"""Pictures of a data set, for the documentation and `raymeta data show`. The test split is never drawn."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

from raymeta.problem import Split
from raymeta.problems.images.episodes import ImageEpisodes
from raymeta.problems.images.store import Store
from raymeta.storage.outputs import write_output

if TYPE_CHECKING:
    from raymeta.problems.images.dataset import ImageDataset

SHOWN: tuple[Split, ...] = ("train", "validation")
INK = "#1f2430"
LONGEST = 22  # letters of a class's name


def draw_classes(dataset: "ImageDataset", path: Path, classes: int = 8, examples: int = 10) -> None:
    """Write a picture of what is in the training and the validation split, and of a training task.

    Args:
        dataset: a prepared data set.
        path: where to; the suffix says the format (png, svg, pdf).
        classes: rows of each split, evenly spaced over its classes.
        examples: images of a class, or of a class in the task.

    Raises:
        UserError: the data are not prepared.
        UserError: `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    axes = figure.subplots(1, len(SHOWN) + 1)
    for axis, split in zip(axes, SHOWN, strict=False):
        _draw_images(axis, dataset.store, split, classes, examples)
    _draw_task(axes[-1], dataset, examples)
    figure.set_size_inches(0.36 * examples * len(axes) + 2.2, max(0.36 * classes + 0.6, 1.5))
    content, suffix = BytesIO(), path.suffix.lower()
    metadata = {"Software": None} if suffix == ".png" else None
    with catch_warnings(action="ignore"):  # of letters that the font lacks, which are drawn as boxes
        figure.savefig(content, format=suffix[1:], dpi=150, metadata=metadata)
    write_output(path, content.getvalue())


def _draw_images(axis: Any, store: Store, split: Split, classes: int, examples: int) -> None:
    """Some classes and a drawn sample of each, the same every time."""
    members, draw = store.classes(split), np.random.default_rng(0)
    chosen = members[np.linspace(0, len(members) - 1, min(classes, len(members))).round().astype(int)]
    rows = []
    for one in chosen:
        size = int(store.sizes[one])
        sample = draw.choice(size, min(examples, size), replace=False)
        rows.append(store.images[store.starts[one] + np.sort(sample)])
    names = [store.class_names[one] for one in chosen]
    _draw_sheet(axis, rows, f"{split}: {len(chosen)} of {len(members):,} classes", examples, names)


def _draw_task(axis: Any, dataset: "ImageDataset", examples: int) -> None:
    """The first training task, or a smaller one if the data or the picture are too small: support, a gap, query."""
    store = dataset.store
    members = store.classes("train")
    most = min(examples - 1, int(store.sizes[members].min()))
    if most < 2:
        axis.set_axis_off()  # no class has an image for each of support and query
        return
    task = dataset.task
    shots = min(task.shots, most - 1)
    sizes = {"ways": min(task.ways, len(members)), "shots": shots, "queries": min(task.queries, most - shots)}
    episodes = ImageEpisodes(store, task.model_copy(update=sizes), "train", 0).draw(0, 1)
    support, query = (
        store.pixels(x[0].numpy()).reshape(sizes["ways"], -1, *store.images.shape[1:])
        for x in (episodes.support.x, episodes.query.x)
    )
    gap = np.full_like(support[:, :1], 255)
    title = f"a training task: {shots} support, {sizes['queries']} query"
    _draw_sheet(axis, list(np.concatenate([support, gap, query], 1)), title, examples)


def _draw_sheet(
    axis: Any, rows: Sequence[NDArray[np.uint8]], title: str, columns: int, names: Sequence[str] = ()
) -> None:
    """Rows of images [n, C, H, W] with white between them, and a name before each."""
    axis.set_axis_off()
    axis.set_title(title, fontsize=9, color=INK, loc="left")
    if not rows:
        return
    channels, height, width = rows[0].shape[1:]
    gap = max(height // 14, 1)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    axis.imshow(sheet if channels == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    for row, name in enumerate(names):
        middle = row * (height + gap) + height / 2
        label = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\u2026"
        axis.text(-gap, middle, label, ha="right", va="center", fontsize=6, color=INK, parse_math=False)
