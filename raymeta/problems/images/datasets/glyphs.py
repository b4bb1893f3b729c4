"""Glyphs: characters of many scripts, drawn from the DejaVu fonts that matplotlib's wheel carries. No download.

28x28 grey, ink = 255. A class is a code point; its 20 examples are its faces (sans, serif, mono; upright, bold,
slanted; those that have it) under a small seeded affine jitter. Characters are fitted to the same box, so that size
tells nothing. 2,374 classes train, 146 validate, 218 test (matplotlib 3.11's fonts, Pillow 12).

The splits share no script: Cyrillic, Hebrew and Tifinagh validate; Armenian, Georgian, Arabic and N'Ko test; the rest
(Latin, Greek, Canadian syllabics, Lao, ..., symbols) trains. What looks like a character that comes before it in that
order is dropped: Cyrillic А is Latin A, so it is in the training split only.

The drawings are a function of the fonts and of FreeType, so the fingerprint may differ between releases of matplotlib
and Pillow, never between two builds of one environment.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import ink_high

FACES = tuple(
    f"DejaVu{family}{style}"
    for styles in (("", "", ""), ("-Bold",) * 3, ("-Oblique", "-Italic", "-Oblique"),
                   ("-BoldOblique", "-BoldItalic", "-BoldOblique"))
    for family, style in zip(("Sans", "Serif", "SansMono"), styles, strict=True)
)  # fmt: skip
VALIDATION, TEST = {"CYRILLIC", "HEBREW", "TIFINAGH"}, {"ARMENIAN", "GEORGIAN", "ARABIC", "NKO"}
# Patterns rather than characters: hundreds of look-alikes each.
LEFT_OUT = {"BRAILLE", "BOX", "DOMINO", "HEXAGRAM", "PLAYING", "TETRAGRAM"}

EXAMPLES = 20
SIDE, FIT = 28, 20  # pixels: of the image, and of a character's longer side
OVERSAMPLING = 2
POINTS = 48  # drawn at this size and then scaled down
ALIKE = 0.07  # share of ink that may differ between two drawings that are taken for the same
ROTATION, SHEAR, SCALE, SHIFT = np.pi / 18, 0.12, 0.12, 1.5  # largest jitter: radians, -, share, pixels
SEED = 20_240


@registry.dataset("glyphs")
class Glyphs(ImageDataset):
    """See the module's docstring."""

    input_shape: tuple[int, ...] = (1, SIDE, SIDE)
    fitted: ClassVar[str] = "drawn"

    def build(self, root: Path | None, progress: Progress) -> Packed:
        if root is not None:
            raise UserError(f"{root}: glyphs is drawn from fonts and reads no data: leave out --data-root")
        faces = _faces()
        characters = _select(faces)
        total = len(characters)
        images = np.empty((total, EXAMPLES, 1, SIDE, SIDE), np.uint8)
        generator = np.random.default_rng(SEED)
        for done, character in enumerate(characters):
            images[done, :, 0] = _examples(list(_drawings(character, faces)), generator)
            progress(done + 1, total)
        splits = {
            split: [i for i, character in enumerate(characters) if _split(character) == place]
            for place, split in enumerate(("train", "validation", "test"))
        }
        names = [f"U+{ord(character):04X} {unicodedata.name(character)}" for character in characters]
        return Packed(images.reshape(-1, 1, SIDE, SIDE), names, [EXAMPLES] * total, {self.splits[0]: splits})

    def fit(self, image: Image.Image) -> Image.Image:
        """A character of one's own, dark on light as on paper."""
        return ink_high(image, SIDE)


class Face:
    """A font file, and the characters that it has."""

    def __init__(self, path: Path) -> None:
        from matplotlib.ft2font import FT2Font

        self.characters = {chr(code) for code, glyph in FT2Font(str(path)).get_charmap().items() if glyph}
        self._font = ImageFont.truetype(str(path), POINTS, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, character: str) -> Image.Image | None:
        """The ink of a character, cropped to it; None if there is none."""
        mask = self._font.getmask(character, mode="L")
        image = Image.frombytes("L", mask.size, bytes(mask))
        box = image.getbbox()
        return image.crop(box) if box else None


def _faces() -> list[Face]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [folder / f"{name}.ttf" for name in FACES]
    if missing := [path.name for path in paths if not path.exists()]:
        raise UserError(f"{folder}: the font {missing[0]} is missing: reinstall matplotlib")
    return [Face(path) for path in paths]


def _drawings(character: str, faces: list[Face]) -> Iterator[Image.Image]:
    """A character in each face that has it."""
    for face in faces:
        if character in face.characters and (drawing := face.draw(character)):
            yield drawing


def _split(character: str) -> int:
    """0, 1 or 2: train, validation or test, by script."""
    words = _words(character)
    return 2 if words & TEST else 1 if words & VALIDATION else 0


def _words(character: str) -> set[str]:
    return set(unicodedata.name(character, "").replace("-", " ").split())


def _candidates(faces: list[Face]) -> list[str]:
    """Letters, digits, punctuation and symbols that are not a style of another character, in order of splits."""
    found = []
    for character in sorted(set[str]().union(*(face.characters for face in faces))):
        plain = unicodedata.normalize("NFKC", character).strip()
        styled = len(plain) == 1 and plain != unicodedata.normalize("NFC", character)  # superscript, final form, ...
        words = _words(character)
        if unicodedata.category(character)[0] in "LNPS" and words and not words & LEFT_OUT and not styled:
            found.append(character)
    return sorted(found, key=_split)  # stable: by code point within a split


def _select(faces: list[Face]) -> list[str]:
    """The classes: what does not look like a character before it.

    Everything is compared in its first face; then what validates or tests, in all its faces, with all faces of the
    splits before (Cyrillic т is unlike Latin m upright but not in italics).
    """
    characters, first = [], []
    for character in _candidates(faces):
        if drawing := next(_drawings(character, faces), None):
            characters.append(character)
            first.append(drawing)
    alike = _alike(_signatures(first), _signatures(first))
    kept = np.ones(len(characters), bool)
    for i in range(len(characters)):
        kept[i] = not (alike[i, :i] & kept[:i]).any()
    characters = [character for character, keep in zip(characters, kept, strict=True) if keep]

    owners, drawings = [], []
    for i, character in enumerate(characters):
        for drawing in _drawings(character, faces):
            owners.append(i)
            drawings.append(drawing)
    owner, signatures = np.array(owners), _signatures(drawings)
    split = np.array([_split(character) for character in characters])
    dropped: set[int] = set()
    for place in (1, 2):
        before = ~np.isin(owner, list(dropped)) & (split[owner] < place)
        here = split[owner] == place
        dropped |= set(owner[here][_alike(signatures[here], signatures[before]).any(1)].tolist())
    return [character for i, character in enumerate(characters) if i not in dropped]


def _signatures(drawings: Iterable[Image.Image]) -> NDArray[np.float32]:
    """Drawings without jitter as whole numbers 0..15, [n, 14 * 14]: inner products are exact in float32.

    So what is alike does not depend on the order in which a BLAS sums.
    """
    plain = (0.0, 0.0, 1.0, 0.0, 0.0)
    small = [np.asarray(_place(drawing, *plain).reduce(2)) for drawing in drawings]
    return (np.stack(small).reshape(len(small), -1) >> 4).astype(np.float32)


def _alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """|a - b|^2 <= ALIKE (|a|^2 + |b|^2) for all pairs of rows."""
    energy = (a * a).sum(1)[:, None] + (b * b).sum(1)
    alike: NDArray[np.bool_] = energy - 2 * (a @ b.T) <= np.float32(ALIKE) * energy
    return alike


def _examples(drawings: list[Image.Image], generator: np.random.Generator) -> NDArray[np.uint8]:
    """The examples of a class, [EXAMPLES, SIDE, SIDE]: its drawings in turn, each under its own jitter."""
    jitter = generator.random((EXAMPLES, 5)) * 2 - 1
    jitter *= (ROTATION, SHEAR, SCALE, SHIFT, SHIFT)
    jitter[:, 2] = 0.95 + jitter[:, 2]  # a turned character needs more room
    return np.stack([np.asarray(_place(drawings[i % len(drawings)], *row)) for i, row in enumerate(jitter.tolist())])


def _place(drawing: Image.Image, turn: float, shear: float, scale: float, right: float, down: float) -> Image.Image:
    """A drawing fitted to the image's middle: sheared, turned, scaled, moved, and averaged down."""
    width, height = drawing.size
    shrink = max(width, height) / (OVERSAMPLING * FIT * scale)  # pixels of the drawing per oversampled pixel
    cos, sin = shrink * np.cos(turn), shrink * np.sin(turn)
    # Pillow wants the way back, from a pixel of the result to one of the drawing.
    xx, xy, yx, yy = cos - shear * sin, sin + shear * cos, -sin, cos
    x, y = OVERSAMPLING * (SIDE / 2 + right), OVERSAMPLING * (SIDE / 2 + down)
    matrix = (xx, xy, width / 2 - xx * x - xy * y, yx, yy, height / 2 - yx * x - yy * y)
    side = OVERSAMPLING * SIDE
    placed = drawing.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return placed.reduce(OVERSAMPLING)
