"""Images that a user has, as a data set has them packed: files, Pillow's images, arrays of NumPy or torch.

Files and Pillow's images, and arrays of another size, pass through what the data set's own files passed through when
they were packed (`ImageDataset.fit`); arrays of its size and colour are taken as packed pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.pictures import Fit, NotPlain, as_array, decode
from raymeta.problems.images.reading.sources import UNREADABLE
from raymeta.problems.images.reading.walking import special

LAYOUTS = "[n, H, W], [n, H, W, C] or [n, C, H, W], C being 1 or 3"
COLOURS = (1, 3)


def pixels(given: Any, shape: tuple[int, ...], fit: Fit) -> NDArray[np.uint8]:
    """Images as the store of a data set would have them.

    Args:
        given: an array [n, H, W], [n, H, W, C] or [n, C, H, W] of uint8, of uint16 or of floats in 0..1; or a sequence
            of Pillow's images, of paths of image files, or of arrays of one image each.
        shape: of the data set's images, (C, H, W).
        fit: what makes its images of files.

    Returns:
        [n, C, H, W].

    Raises:
        UserError: not of such a form, a file that is no image, or values out of range.
    """
    if isinstance(given, str | Path | Image.Image):
        given = [given]
    if isinstance(given, np.ndarray | Tensor):
        if given.ndim not in (3, 4):
            raise UserError(f"images: found an array of shape {list(given.shape)}: expected {LAYOUTS}")
        if given.ndim == 3 and given.shape[-1] in COLOURS:
            raise UserError(f"images: found an array of shape {list(given.shape)}: one image? expected {LAYOUTS}")
    elif not isinstance(given, Sequence):
        raise UserError(f"images: found {type(given).__name__}: expected an array or a sequence of images")
    found = [_pixels(one, shape, fit) for one in given]
    if not found:
        raise UserError("images: found none")
    return np.stack(found)


def _pixels(one: Any, shape: tuple[int, ...], fit: Fit) -> NDArray[np.uint8]:
    """One image as the store would have it, uint8 [C, H, W]."""
    if isinstance(one, str | Path):
        return _file(Path(one), fit)
    if isinstance(one, Image.Image):
        return _fitted(one, fit)
    if not isinstance(one, np.ndarray | Tensor):
        raise UserError(f"images: found {type(one).__name__}: expected images of Pillow, paths or arrays")
    array = _bytes(np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one))
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or not (array.shape[0] in COLOURS or array.shape[-1] in COLOURS):
        raise UserError(f"images: found an image of shape {list(array.shape)}: expected {LAYOUTS}")
    if array.shape[0] not in COLOURS:
        array = array.transpose(2, 0, 1)
    if array.shape == shape:
        return array
    picture = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    return _fitted(picture, fit)


def _file(path: Path, fit: Fit) -> NDArray[np.uint8]:
    try:
        if kind := special(path.stat().st_mode):
            raise UserError(f"{shown(path)}: a {kind}, not an image")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file") from None
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    return decode(content, shown(path), fit)


def _fitted(image: Image.Image, fit: Fit) -> NDArray[np.uint8]:
    try:
        return as_array(fit(image))
    except NotPlain as error:
        raise UserError(f"images: found one that {error.why.one}") from None
    except (*UNREADABLE, ValueError) as error:
        raise UserError("images: found one of a file that cannot be read") from error


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"images: found numbers of type {array.dtype}: expected uint8, uint16 or floats in 0..1")
    low, high = (float(bound) for bound in (array.min(), array.max())) if array.size else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise UserError(f"images: found floats from {low:g} to {high:g}: expected 0..1; they are standardised here")
    return (array * 255).round().astype(np.uint8)
