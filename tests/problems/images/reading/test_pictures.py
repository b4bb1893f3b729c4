"""Pictures of every kind: packed pixels are those of a slow reference that knows nothing of Pillow's conversions."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from raymeta.problems.images.reading.pictures import FLOATS, NOT_FINITE, WHOLE, NotPlain, as_array, decode, plain

SEEDS = st.integers(0, 2**32 - 1)
GREY = np.array([19595, 38470, 7471])  # of 65536: 0.299, 0.587, 0.114


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def packed(content: bytes, *, grey: bool = False, background: tuple[int, int, int] = (255, 255, 255)) -> NDArray[Any]:
    """[H, W] or [H, W, 3], as a data set of that very size has it."""
    array = decode(content, "x", lambda image: plain(image, grey, background)).astype(int)
    return array[0] if grey else array.transpose(1, 2, 0)


def over(rgb: NDArray[Any], alpha: NDArray[Any], background: tuple[int, int, int]) -> NDArray[Any]:
    """Colours [H, W, 3] seen through alpha [H, W], by hand."""
    a = alpha[..., None].astype(np.int64)
    return (2 * (rgb.astype(np.int64) * a + np.array(background) * (255 - a)) + 255) // 510


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels [H, W, ...] as EXIF's table has it: where row 0 and column 0 of the file are in the scene."""
    flipped = array[:, ::-1] if orientation in (2, 4, 5, 7) else array
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.rot90(flipped, quarters)


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, NDArray[Any], NDArray[Any] | None, str]:
    """A file, its colours [H, W, 3] upright, its alpha if it has any, and what was drawn."""
    rng = np.random.default_rng(draw(SEEDS))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    mode = draw(st.sampled_from(["1", "L", "P", "RGB", "LA", "RGBA", "I;16", "F", "P+", "L+", "RGB+", "I;16+"]))
    kind = draw(st.sampled_from({
        "1": ["PNG", "TIFF", "BMP", "PPM"], "L": ["PNG", "TIFF", "BMP", "PPM", "WEBP"],
        "P": ["PNG", "TIFF", "BMP", "GIF"],
        "RGB": ["PNG", "TIFF", "BMP", "PPM", "WEBP"], "LA": ["PNG", "TIFF"], "RGBA": ["PNG", "TIFF", "WEBP"],
        "I;16": ["PNG", "TIFF", "PPM"], "F": ["TIFF"], "P+": ["PNG", "GIF"], "L+": ["PNG"], "RGB+": ["PNG"],
        "I;16+": ["PNG"],
    }[mode]))  # fmt: skip
    shape, options, alpha = (height, width), dict[str, Any](), None
    few = rng.integers(0, 4, shape)  # so that a transparent value is there more than once
    colours = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    if mode == "1":
        image = Image.fromarray(few > 1)
        colours = np.where(few > 1, 255, 0)[..., None].repeat(3, -1)
    elif mode[0] == "L":
        grey = (few * 50).astype(np.uint8) if mode == "L+" else colours[..., 0]
        image, colours = Image.fromarray(grey), grey[..., None].repeat(3, -1)
    elif mode[0] == "P":
        palette = rng.permutation(256 * 3).astype(np.uint8)[: 4 * 3]
        image = Image.fromarray(few.astype(np.uint8)).convert("L")
        image = Image.frombytes("P", (width, height), few.astype(np.uint8).tobytes())
        image.putpalette(palette.tolist())
        colours = palette.reshape(4, 3)[few]
    elif mode[:4] == "I;16":
        deep = rng.integers(0, 2**16, 4)[few].astype(np.uint16)
        image, colours = Image.fromarray(deep), np.round(deep / 257)[..., None].repeat(3, -1)
    elif mode == "F":
        floats = rng.random(shape, np.float32)
        image, colours = Image.fromarray(floats), np.round(floats * np.float32(255))[..., None].repeat(3, -1)
    else:
        colours = colours // 128 * 128 if mode == "RGB+" else colours
        image = Image.fromarray(colours)
    if mode in ("LA", "RGBA"):
        alpha = rng.integers(0, 256, shape).astype(np.uint8)
        image.putalpha(Image.fromarray(alpha))
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    elif mode.endswith("+"):
        values = np.asarray(image)
        clear: Any = (128, 0, 128) if mode == "RGB+" else int(values[0, 0])
        options["transparency"] = clear
        alpha = np.where((values == clear).all(-1) if mode == "RGB+" else values == clear, 0, 255)
    elif kind == "WEBP":
        options = {"lossless": True}
    if kind in ("PNG", "TIFF", "WEBP") and (orientation := draw(st.integers(1, 8))) > 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
        colours = upright(colours, orientation)
        alpha = None if alpha is None else upright(alpha, orientation)
    return saved(image, kind, **options), colours.astype(int), alpha, f"{mode} {kind} {options}"


@settings(max_examples=300, deadline=None)
@given(cases(), st.tuples(*[st.integers(0, 255)] * 3))
def test_every_mode_and_format_is_packed_as_the_reference_says(case: Any, background: tuple[int, int, int]) -> None:
    content, colours, alpha, about = case
    expected = colours if alpha is None else over(colours, alpha, background)
    found = packed(content, background=background)
    assert found.shape == expected.shape, about
    assert np.array_equal(found, expected), about
    assert np.array_equal(packed(content, grey=True, background=background), (expected @ GREY + 2**15) // 2**16), about


@pytest.mark.parametrize(("bits", "scale"), [(2, 85), (4, 17)])
def test_a_transparent_value_of_few_bits(bits: int, scale: int) -> None:
    values = np.arange(2**bits, dtype=np.uint8).reshape(1, -1)
    rows = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(1, -1), axis=-1)
    content = _png(rows, 2**bits, bits)
    assert packed(content, grey=True).tolist() == [[255 if value == 1 else value * scale for value in range(2**bits)]]


def test_colour_with_16_bits_a_channel_is_within_one() -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (6, 5, 3)).astype(">u2")
    found = packed(_png(deep.reshape(6, -1).view(np.uint8), 5, 16, colour=2))
    assert np.abs(found - deep / 257).max() < 1
    assert (found == deep >> 8).all()
    clear = _png(deep.reshape(6, -1).view(np.uint8), 5, 16, colour=2, clear=deep[2, 3].tobytes())
    assert packed(clear)[2, 3].tolist() == [255] * 3


def _png(rows: NDArray[Any], width: int, bits: int, *, colour: int = 0, clear: bytes = b"\0\1") -> bytes:
    """A PNG of rows of bytes, with a transparent value if it is grey or one is given."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    transparent = chunk(b"tRNS", clear) if colour == 0 or len(clear) == 6 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_other_colours_become_rgb() -> None:
    colours = np.array([[[255, 255, 255], [0, 0, 0], [200, 60, 30]]], np.uint8)
    for mode, kind, most in (("CMYK", "TIFF", 0), ("CMYK", "JPEG", 12), ("YCbCr", "JPEG", 12), ("LAB", "TIFF", 2)):
        if mode == "LAB":  # white, black, and a red by its coordinates
            image = Image.frombytes("LAB", (3, 1), bytes([255, 0, 0, 0, 0, 0, 120, 52, 45]))
        else:
            image = Image.fromarray(colours).resize((48, 16), Image.Resampling.NEAREST).convert(mode)
        content = saved(image, kind, **({"quality": 100} if kind == "JPEG" else {}))
        found = packed(content)
        seen = found[0] if mode == "LAB" else found[8, [8, 24, 40]]
        assert np.abs(seen - colours[0]).max() <= max(most, 12 if mode == "LAB" else 0), mode


def test_white_is_zero_and_twelve_bits_in_tiff() -> None:
    deep = np.array([[0, 1000, 65535]], np.uint16)
    inverted = saved(Image.fromarray(deep), "TIFF", tiffinfo={262: 0})
    assert packed(inverted, grey=True).tolist() == [[255, 255 - round(1000 / 257), 0]]


@pytest.mark.parametrize(("array", "why"), [
    (np.array([[0, 70_000]], np.int32), WHOLE),
    (np.array([[0, 255]], np.int32), WHOLE),
    (np.array([[0, 1.5]], np.float32), FLOATS),
    (np.array([[-0.1, 1]], np.float32), FLOATS),
    (np.array([[np.nan, 1]], np.float32), NOT_FINITE),
    (np.array([[np.inf, 1]], np.float32), NOT_FINITE),
])  # fmt: skip
def test_what_has_no_known_range_is_refused(array: NDArray[Any], why: Any) -> None:
    with pytest.raises(NotPlain) as caught:
        packed(saved(Image.fromarray(array), "TIFF"))
    assert caught.value.why == why
    assert str(caught.value) == f"x {why.one}"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "TGA", "JPEG2000"]), SEEDS)
def test_a_damaged_file_is_refused_or_read(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(saved(Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)), kind))
    for place in rng.integers(0, len(content), rng.integers(1, 8)):
        content[place] = rng.integers(256)
    with suppress(NotPlain):
        assert decode(bytes(content[: rng.integers(1, len(content) + 1)]), "x", plain).shape[0] == 3


def test_of_several_pages_the_first_is_read_and_that_is_noted() -> None:
    pages = [Image.new("L", (4, 4), shade) for shade in (10, 200)]
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        notes: list[str] = []
        extra = {"lossless": True} if kind == "WEBP" else {}
        content = saved(pages[0], kind, save_all=True, append_images=pages[1:], **extra)
        assert (decode(content, "x", plain, notes.append) == 10).all()
        assert notes == ["first page only"]
    assert as_array(plain(pages[0])).shape == (3, 4, 4)
