"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people (Lake, Salakhutdinov, Tenenbaum, 2015; MIT).

28x28 grey, ink = 1. The published drawings are 105x105 one-bit PNGs. They are turned into grey *before* they are
scaled down with Lanczos, so that strokes keep soft edges. Pillow takes the nearest pixel for one-bit images, whatever
filter it is asked for, so the "Lanczos" scripts of MAML and MAML++ make binary images with broken strokes: their
pixels are not these.

Class splits, over all 1,623 characters in the order of their paths:

    finn     1100 train / 100 validation / 423 test, shuffled by `random.Random(1)`: sizes and rule of MAML's code
    vinyals  1028 / 172 / 423: the sizes of Vinyals and Snell, same shuffle
    mamlpp   1150 / 50 / 423: the sizes of MAML++'s code and its kind of shuffle, NumPy's `RandomState`. From which seed
             and from which order of the characters is not known here, so seed 0 shuffles them in the order of their
             paths: which characters are in which split is not as there

Meta-Dropout's 1200 / none / 423 is not made: a search would have to select on classes that it trains or tests on.
`finn` has its sizes, with 100 characters of the 1200 held out for validation.

A multiple of 90 degrees is drawn per class and episode, in training and evaluation (`task.rotations: always`), as MAML;
MAML++ turns in training only (`train`). Vinyals and Snell make each turn a class of its own, which is `task.split:
vinyals` with `task.rotations: classes`: 4112 / 688 / 1692 classes.
"""

import io
import random
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import ink_high
from raymeta.problems.images.reading.sources import UNREADABLE, Published, downloading
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.images.store import Rule
from raymeta.storage.files import cache_folder

SIDE = 28
PARTS = {"images_background": 964, "images_evaluation": 659}  # characters in each
DRAWERS = 20
SIZES = {"finn": (1100, 100, 423), "vinyals": (1028, 172, 423), "mamlpp": (1150, 50, 423)}
PACKED = ("finn", "vinyals")  # class splits that are listed in the store
SHUFFLE_SEED = 1
MAMLPP_SEED = 0
TORCHVISION_FOLDER = "omniglot-py"


@registry.dataset("omniglot")
class Omniglot(ImageDataset):
    """See the module's docstring."""

    input_shape: tuple[int, ...] = (1, SIDE, SIDE)
    splits: ClassVar[tuple[str, ...]] = tuple(SIZES)
    task_defaults: ClassVar[dict[str, Any]] = {"rotations": "always"}
    published: ClassVar[Mapping[str, Published]] = {
        name: Published(dict(zip(SPLITS, sizes, strict=True)), (DRAWERS, DRAWERS), DRAWERS * sum(PARTS.values()))
        for name, sizes in SIZES.items()
    }
    rules: ClassVar[Mapping[str, Rule]] = {"mamlpp": lambda characters: _mamlpp(characters)}

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the drawings.

        Args:
            root: a folder with the two archives, with the two unpacked trees, or one that torchvision filled; None:
                downloaded with torchvision, once, to the cache.
            progress: called per character.
        """
        names, images = pack(_download() if root is None else root, PARTS, progress)
        splits = {name: _split(_shuffled(len(names)), SIZES[name]) for name in PACKED}
        return Packed(images, names, [DRAWERS] * len(names), splits)

    def fit(self, image: Image.Image) -> Image.Image:
        return ink_high(image, SIDE)


def pack(root: Path, parts: dict[str, int], progress: Progress) -> tuple[list[str], NDArray[np.uint8]]:
    """Read the parts of a published tree, zipped or not.

    Args:
        root: see `Omniglot.build`.
        parts: characters expected in each part.
        progress: called per character.

    Returns:
        Names, sorted within a part, as `images_background/Alphabet_of_the_Magi/character01`; images, uint8
        [characters * 20, 1, 28, 28].

    Raises:
        UserError: a part is not there, damaged or incomplete; the sentence names the file.
    """
    total = sum(parts.values())
    names: list[str] = []
    images = np.empty((total * DRAWERS, 1, SIDE, SIDE), np.uint8)
    for part, expected in parts.items():
        source = _find(root, part)
        before = len(names)
        for name, drawings in _characters(source, part):
            if len(drawings) != DRAWERS:
                raise UserError(f"{source}: {name} has {len(drawings)} drawings, {DRAWERS} are expected")
            if len(names) - before == expected:
                raise UserError(f"{source}: more than the {expected} characters of {part}")
            for row, drawing in enumerate(drawings, start=len(names) * DRAWERS):
                images[row, 0] = _shrink(drawing, f"{source}: {name}")
            names.append(name)
            progress(len(names), total)
        if len(names) - before != expected:
            raise UserError(f"{source}: {len(names) - before} characters, {part} has {expected}")
    return names, images


def _find(root: Path, part: str) -> Path:
    """The folder or the archive of a part, under `root` or under torchvision's folder in it."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    for base in (root, root / TORCHVISION_FOLDER):
        for found in (base / part, base / f"{part}.zip"):
            if found.exists():
                return found
    raise UserError(f"{root}: neither {part}.zip nor a folder {part} is in it or in its folder {TORCHVISION_FOLDER}")


def _characters(source: Path, part: str) -> Iterator[tuple[str, list[bytes]]]:
    """Name and PNG files of each character, in the order of their paths."""
    tree, base = Tree(source), "" if source.is_dir() else f"{part}/"
    drawings = [path.removeprefix(base).split("/") for path in tree.paths if path.startswith(base)]
    paths = ["/".join(parts) for parts in sorted(drawings) if len(parts) == 3 and parts[-1].endswith(".png")]
    contents = tree.read(f"{base}{path}" for path in paths)
    for name, files in groupby(contents, lambda file: file[0].removeprefix(base).rpartition("/")[0]):
        yield f"{part}/{name}", [content for _, content in files]


def _shrink(png: bytes, where: str) -> NDArray[np.uint8]:
    """A drawing to 28x28 with ink high."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            return np.asarray(ink_high(image, SIDE))
    except UNREADABLE as error:
        raise UserError(f"{where}: a drawing is not a readable PNG file") from error


def _shuffled(characters: int) -> list[int]:
    order = list(range(characters))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return order


def _mamlpp(characters: int) -> dict[str, list[int]]:
    order = np.arange(characters)
    np.random.RandomState(MAMLPP_SEED).shuffle(order)  # NumPy keeps this generator's stream as it is
    return _split(order.tolist(), SIZES["mamlpp"])


def _split(order: list[int], sizes: tuple[int, int, int]) -> dict[str, list[int]]:
    train, validation, _ = sizes
    return {
        "train": sorted(order[:train]),
        "validation": sorted(order[train : train + validation]),
        "test": sorted(order[train + validation :]),
    }


def _download() -> Path:
    """Both archives, by torchvision, which checks their sums and fetches nothing twice."""
    from torchvision.datasets import Omniglot as Published  # imported here: torchvision costs every worker seconds

    folder = cache_folder() / "downloads"
    with downloading("Omniglot", "images_background.zip and images_evaluation.zip"):
        for background in (True, False):
            Published(str(folder), background=background, download=True)
    return folder
