"""Pictures of a data set, for the documentation and `raymeta data show`. The test split is never drawn."""

from pathlib import Path
from typing import Any

import numpy as np

from raymeta.data.episodes import Split
from raymeta.data.store import Dataset, ImageDataset

SHOWN: tuple[Split, ...] = ("train", "validation")
INK = "#1f2430"


def draw_classes(dataset: Dataset, path: Path, classes: int = 8, examples: int = 10) -> None:
    """Write a picture of what is in the training and the validation split.

    Args:
        dataset: a prepared data set.
        path: where to; the suffix says the format (png, svg, pdf).
        classes: rows of each split, evenly spaced over its classes; for a regression, curves.
        examples: images of a class.

    Raises:
        UserError: the data are not prepared.
        OSError: `path` can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    axes = figure.subplots(1, len(SHOWN), sharey=dataset.kind == "regression")
    for axis, split in zip(axes, SHOWN, strict=True):
        if isinstance(dataset, ImageDataset):
            _draw_images(axis, dataset, split, classes, examples)
        else:
            _draw_curves(axis, dataset, split, classes)
    width = 0.36 * examples * len(SHOWN) + 0.6 if isinstance(dataset, ImageDataset) else 9.0
    height = 0.36 * classes + 0.6 if isinstance(dataset, ImageDataset) else 3.6
    figure.set_size_inches(max(width, 4.0), max(height, 1.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)


def _draw_images(axis: Any, dataset: ImageDataset, split: Split, classes: int, examples: int) -> None:
    store = dataset.store
    members = store.classes(split)
    chosen = members[np.linspace(0, len(members) - 1, min(classes, len(members))).round().astype(int)]
    channels, height, width = store.images.shape[1:]
    gap = max(height // 14, 1)
    sheet = np.full((len(chosen) * (height + gap) - gap, examples * (width + gap) - gap, channels), 255, np.uint8)
    for row, one in enumerate(chosen):
        for column in range(min(examples, int(store.sizes[one]))):
            top, left = row * (height + gap), column * (width + gap)
            image = store.images[store.starts[one] + column].transpose(1, 2, 0)
            sheet[top : top + height, left : left + width] = image
    axis.imshow(sheet if channels == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axis.set_axis_off()
    axis.set_title(f"{split}: {len(chosen)} of {len(members):,} classes", fontsize=9, color=INK, loc="left")


def _draw_curves(axis: Any, dataset: Dataset, split: Split, tasks: int) -> None:
    episodes = dataset.bank(split, seed=0).batch(0, tasks)
    for i in range(episodes.tasks):
        support_x, support_y, query_x, query_y = (values[:, 0].numpy() for values in episodes.task(i))
        x, y = np.concatenate([support_x, query_x]), np.concatenate([support_y, query_y])
        order = x.argsort()
        (line,) = axis.plot(x[order], y[order], linewidth=1, alpha=0.8)
        axis.plot(support_x, support_y, "o", markersize=3.5, color=line.get_color())
    axis.set_title(f"{split}: dots are support, lines join all points", fontsize=9, color=INK, loc="left")
    axis.set_xlabel("x", color=INK)
    axis.set_ylabel("y", color=INK)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
