"""From a picture of any kind to pixels: one rule, for the files of a data set and for the pictures that a user brings.

    turned     upright, as its EXIF data say
    pages      the first one, of a TIFF with several or of an animation
    alpha      over a background, white unless the task says another; also a transparent colour of a palette, or of grey
    8 bits     as they are; one bit is 0 or 255
    16 bits    by their range: value / 257, rounded; of 12 bits in a TIFF value / 16.06. Colour with 16 bits a channel
               comes from Pillow as its high bytes
    floats     0..1 times 255, rounded; others are refused, and so are NaN and infinity
    32 bits    refused, as whole numbers with a sign are: nothing says what is white (but PGM does)
    colour     CMYK, YCbCr, LAB and palettes become RGB; colour profiles (ICC) are not looked at
    grey       0.299 R + 0.587 G + 0.114 B, where the data set is grey

What is left is fitted to the size of the data set, in colour or grey: see `squeezed`, `centred`, `ink_high`.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from raymeta.errors import UserError, shown, some

Fit = Callable[[Image.Image], Image.Image]
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
_ANIMATED = ("AVIF", "DCX", "FLI", "GIF", "PNG", "TIFF", "WEBP")  # in others, more pages are previews or layers
_DEPTH, _PHOTOMETRIC, _SIGN = 258, 262, 339  # tags of TIFF


class Why(NamedTuple):
    """Why a picture can't be packed, as it is said of one and of several."""

    one: str
    many: str


BROKEN = Why("is not an image that can be read", "are not images that can be read")
TOO_LARGE = Why("has more pixels than are read, 178 million", "have more pixels than are read, 178 million")
_RANGE = "whole numbers of 32 bits or with a sign, of which nothing says what is white (save {} with 8 or 16 bits)"
WHOLE = Why(f"has {_RANGE.format('it')}", f"have {_RANGE.format('them')}")
_UNIT = "floats that are not in 0..1 (divide them by their range)"
FLOATS = Why(f"has {_UNIT}", f"have {_UNIT}")
_NUMBERS = "pixels that are no numbers (NaN or infinity)"
NOT_FINITE = Why(f"has {_NUMBERS}", f"have {_NUMBERS}")


class NotPlain(UserError):
    """A picture that can't be packed right."""

    def __init__(self, why: Why, where: str = "") -> None:
        super().__init__(f"{where} {why.one}".strip())
        self.why = why


def unreadable(broken: Mapping[str, Why]) -> str:
    """All at once: `cat/1.png is not an image that can be read`, or `4 pictures are ...: a, b, c and 1 more`.

    Args:
        broken: paths of pictures to what is wrong with them.
    """
    kinds: dict[str, list[str]] = {}
    for path, why in sorted(broken.items()):
        kinds.setdefault(why.many, []).append(path)
    return "; ".join(
        f"{shown(paths[0])} {broken[paths[0]].one}"
        if len(paths) == 1
        else f"{len(paths):,} pictures {many}: {some(paths)}"
        for many, paths in kinds.items()
    )


def decode(content: bytes, where: str, fit: Fit, note: Callable[[str], None] | None = None) -> NDArray[np.uint8]:
    """An image file as uint8 [C, H, W].

    Args:
        content: of the file.
        where: which it is, for messages.
        fit: makes an 8-bit image, grey or RGB, of it.
        note: called with what is to be said once of such files: that it has more pages, more bits, or is transparent.

    Raises:
        NotPlain: it can't be read, or not right.
    """
    try:
        # Pillow warns of odd files one by one; what it can't read is said once, in a sentence
        with catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            notes = list(_notes(image)) if note is not None else []
            pixels = as_array(fit(image))
    except NotPlain as error:
        raise NotPlain(error.why, where) from None
    except Image.DecompressionBombError as error:
        raise NotPlain(TOO_LARGE, where) from error
    except Exception as error:  # a damaged file can do all sorts of things wrong
        raise NotPlain(BROKEN, where) from error
    if note is not None:
        for one in notes:
            note(one)
    return pixels


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """A grey or an RGB image as uint8 [C, H, W]."""
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def plain(image: Image.Image, grey: bool = False, background: Colour = WHITE) -> Image.Image:
    """An opened picture of any kind, upright, as RGB of 8 bits or as grey; see the module's docstring.

    Raises:
        NotPlain: its numbers can't be brought to 0..255 right.
        OSError, ValueError, SyntaxError: it is damaged.
    """
    tiles: Any = getattr(image, "tile", None)
    coding = str(tiles[0][3]) if tiles else ""
    image.load()
    turned = image
    with suppress(Exception):  # EXIF data that can't be read say nothing
        turned = ImageOps.exif_transpose(image)
    found = _in_bytes(turned, image, coding)
    if found.has_transparency_data:
        seen = found.convert("RGBA")
        found = Image.new("RGB", seen.size, background)
        found.paste(seen.convert("RGB"), mask=seen.getchannel("A"))
    elif found.mode not in ("L", "RGB"):
        found = found.convert("L" if found.mode == "1" else "RGB")
    if grey:
        return found.convert("L")
    return found.convert("RGB")


def squeezed(side: int) -> Fit:
    """To a square with Lanczos, as MAML's and CAVIA's scripts do; an image of that size stays as it is."""
    return lambda image: image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)


def ink_high(image: Image.Image, side: int) -> Image.Image:
    """A drawing, dark on light, as a grey square with its ink high; grey before it is scaled, so edges stay soft."""
    return ImageOps.invert(plain(image, grey=True)).resize((side, side), Image.Resampling.LANCZOS)


def centred(side: int) -> Fit:
    """To a square 1.15 times as large, bilinear, and its centre: the evaluation transform of CloserLookFewShot."""
    large = int(1.15 * side)
    edge = round((large - side) / 2)
    box = (edge, edge, edge + side, edge + side)
    return lambda image: image.resize((large, large), Image.Resampling.BILINEAR).crop(box)


def _notes(image: Image.Image) -> Iterator[str]:
    """What is to be said of an opened picture, once for all of its kind."""
    tiles: Any = getattr(image, "tile", None)
    if image.mode.startswith("I"):
        yield "16 bits, scaled by their range"
    elif tiles and ";16" in str(tiles[0][3]):
        yield "colour of 16 bits, its high bytes"
    if image.mode == "F":
        yield "floats, times 255"
    if image.has_transparency_data:
        yield "with transparency, over the background"
    if image.format in _ANIMATED and _has_pages(image):
        yield "first page only"


def _has_pages(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "n_frames", 1) > 1)
    except Exception:  # a second page that is damaged
        return True


def _in_bytes(image: Image.Image, opened: Image.Image, coding: str) -> Image.Image:
    """The same, if its channels have more than 8 bits, as grey of 8 bits with alpha; else itself.

    Args:
        image: loaded and upright.
        opened: the same as it came of its file.
        coding: how the file has its pixels, by Pillow's name.
    """
    tags: Any = getattr(opened, "tag_v2", {})
    clear = image.info.get("transparency")
    if set(tags.get(_SIGN) or ()) & {2}:
        raise NotPlain(WHOLE)
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format in ("PNG", "PPM")):
        top = 4095 if tags.get(_DEPTH) in (12, (12,)) else 65535
        values = np.asarray(image).astype(np.int64)
        grey = (values * 255 + top // 2) // top
        if tags.get(_PHOTOMETRIC) == 0:  # white is 0
            grey = 255 - grey
        return _grey(grey, None if clear is None else values == clear)
    if image.mode == "I":
        raise NotPlain(WHOLE)
    if image.mode == "F":
        floats = np.asarray(image)
        if not np.isfinite(floats).all():
            raise NotPlain(NOT_FINITE)
        if floats.size and not 0 <= floats.min() <= floats.max() <= 1:
            raise NotPlain(FLOATS)
        if tags.get(_PHOTOMETRIC) == 0:  # white is 0
            floats = 1 - floats
        return _grey((floats * 255).round(), None)
    # Pillow keeps a transparent colour in the file's bits, and the pixels in 8.
    if isinstance(clear, int) and coding in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if coding == "L;2" else 17)
    elif isinstance(clear, tuple) and coding == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    return image


def _grey(values: NDArray[Any], clear: NDArray[np.bool_] | None) -> Image.Image:
    grey = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if clear is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))))
