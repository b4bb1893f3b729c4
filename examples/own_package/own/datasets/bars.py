"""Bars: 16x16 pictures of a bar at one of thirty angles, with some noise. Drawn, not downloaded."""

from pathlib import Path
from typing import Any

import numpy as np

from raymeta import registry
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed

SIDE, CLASSES, EACH = 16, 30, 20


@registry.dataset("bars")
class Bars(ImageDataset):
    """See the module's docstring."""

    input_shape: tuple[int, ...] = (1, SIDE, SIDE)

    def build(self, root: Path | None, progress: Any) -> Packed:
        random = np.random.default_rng(0)
        y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
        angles = np.pi * np.arange(CLASSES) / CLASSES
        away = np.abs(x * np.sin(angles)[:, None, None] - y * np.cos(angles)[:, None, None])
        bars = np.clip(2 - away, 0, 1)[:, None] + 0.2 * random.standard_normal((CLASSES, EACH, SIDE, SIDE))
        pixels = (255 * np.clip(bars, 0, 1)).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
        order = random.permutation(CLASSES).tolist()
        splits = {"train": order[:20], "validation": order[20:25], "test": order[25:]}
        return Packed(pixels, [f"{angle:.2f} rad" for angle in angles], [EACH] * CLASSES, {"standard": splits})
