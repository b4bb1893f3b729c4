"""Parts of frames as models see them: crops of boxes, and windows around a place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raymeta.problems.tracking.boxes import Array

GREY = 128.0  # inputs are pixels less this, over it
MARGIN = 16 / 107  # of a box, seen on each side of it


def crops(frame: Image.Image, boxes: Array, side: int, margin: float = MARGIN) -> Tensor:
    """Boxes [n, 4] cut out of a frame with a margin, as far as it goes, and squeezed: float32 [n, 3, side, side]."""
    low = (boxes[:, :2] - margin * boxes[:, 2:]).clip(min=0)
    high = np.minimum(boxes[:, :2] + (1 + margin) * boxes[:, 2:], np.array(frame.size, float))
    low = np.minimum(low, high - 1).clip(min=0)
    made = [
        np.asarray(frame.resize((side, side), Image.Resampling.BILINEAR, box=(*one, *other)))
        for one, other in zip(low.tolist(), high.tolist(), strict=True)
    ]
    return pixels_of(made)


def window(frame: Image.Image, middle: Array, extent: float, side: int) -> Tensor:
    """A square of so many pixels around a place (x, y), grey where it leaves the frame: float32 [3, side, side]."""
    low, high = middle - extent / 2, middle + extent / 2
    corner, end = np.floor(low).astype(int), np.ceil(high).astype(int)
    canvas = Image.new("RGB", tuple((end - corner).tolist()), (int(GREY),) * 3)
    canvas.paste(frame, tuple((-corner).tolist()))
    box = tuple(np.concatenate([low - corner, high - corner]).tolist())
    return pixels_of([np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR, box=box))])[0]


def pixels_of(pictures: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """uint8 [H, W, 3] each as models see them."""
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (x - GREY) / GREY
