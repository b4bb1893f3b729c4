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

import random
import re
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.plan import Plan
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import NotPlain, Why, decode, ink_high, unreadable
from raymeta.problems.images.reading.sources import Published, downloading
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
CHARACTER = re.compile(r"character\d+")
EVALUATED = frozenset({  # alphabets of images_evaluation
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
})  # fmt: skip


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
            root: a folder with the two archives, with the two unpacked trees, or with all alphabets in one folder, at
                its top or in a folder in it; or an archive of that. None: downloaded with torchvision, once, to the
                cache.
            progress: called per character.
        """
        names, images = pack(_download() if root is None else root, PARTS, progress)
        splits = {name: _split(_shuffled(len(names)), SIZES[name]) for name in PACKED}
        return Packed(images, names, [DRAWERS] * len(names), splits)

    def plan(self, root: Path | None) -> Plan | None:
        if root is None:
            return None
        parts = find(root)
        drawings = [(f"{part.name}/{one}", paths) for part in parts for one, paths in part.characters.items()]
        members = (self.rules.get(self.split) or (lambda n: _split(_shuffled(n), SIZES[self.split])))(len(drawings))
        classes = {split: dict(drawings[number] for number in members[split]) for split in SPLITS}
        return Plan(root, Layout(classes, f"split as {self.split}", {}), parts[0].tree if len(parts) == 1 else None)

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
    found = find(root, tuple(parts))
    total = sum(parts.values())
    if len({part.source for part in found}) == 1 and sum(len(part.characters) for part in found) != total:
        there = sum(len(part.characters) for part in found)
        raise UserError(f"{found[0].source}: {there:,} characters, Omniglot has {total}")
    names: list[str] = []
    images = np.empty((total * DRAWERS, 1, SIDE, SIDE), np.uint8)
    for name, source, tree, characters in found:
        broken: dict[str, Why] = {}
        if len(characters) != parts[name]:
            raise UserError(f"{source}: {len(characters)} characters, {name} has {parts[name]}")
        for one, paths in characters.items():
            if len(paths) != DRAWERS:
                raise UserError(f"{source}: {name}/{one} has {len(paths)} drawings, {DRAWERS} are expected")
        files = tree.read_in_order(path for paths in characters.values() for path in paths)
        for one in characters:
            for row, (path, drawing) in enumerate(islice(files, DRAWERS), start=len(names) * DRAWERS):
                try:
                    images[row] = decode(drawing, path, partial(ink_high, side=SIDE))
                except NotPlain as error:
                    broken[path] = error.why
            names.append(f"{name}/{one}")
            progress(len(names), total)
        if broken:
            raise UserError(f"{source}: {unreadable(broken)}")
    return names, images


class Part(NamedTuple):
    """A part of the published tree, `images_background` or `images_evaluation`.

    Attributes:
        name: of the part.
        source: the folder or archive, for a sentence; the same of both parts if they lie in one.
        tree: of the files.
        characters: `Alphabet/character01` -> its drawings, in order.
    """

    name: str
    source: Path
    tree: Tree
    characters: dict[str, list[str]]


def find(root: Path, parts: tuple[str, ...] = tuple(PARTS)) -> list[Part]:
    """The parts, as archives or as folders, in `root` or in folders in it, or both merged into one folder.

    Raises:
        UserError: one is not there.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    archives = {part: _archive(root, part) for part in parts}
    within = None if all(archives.values()) else _characters(tree := Tree(root))
    if within and not any(archives.values()) and not any(_last(before) in parts for before in within):
        before = max(within, key=lambda one: len(within[one]))
        source, merged = root / before, within[before]
        evaluated = {one: paths for one, paths in merged.items() if one.partition("/")[0] in EVALUATED}
        trained = {one: paths for one, paths in merged.items() if one not in evaluated}
        return [Part(name, source, tree, some) for name, some in zip(parts, (trained, evaluated), strict=True)]
    found = []
    for part in parts:
        archive = archives[part]
        if archive is not None:
            drawings = _characters(packed := Tree(archive))
            found.append(Part(part, archive, packed, drawings.get(part) or drawings.get("") or {}))
            continue
        places = [one for one in within or () if _last(one) == part]
        if not places or not within:
            if not root.is_dir():
                raise UserError(f"{root}: a file without {part} in it: name the folder that holds the data")
            raise UserError(
                f"{root}: neither {part}.zip nor a folder {part} is in it or in a folder in it, and no folder of the "
                "alphabets (ALPHABET/character01/0001_01.png)"
            )
        place = min(places, key=len)
        found.append(Part(part, root / place, tree, within[place]))
    return found


def _archive(root: Path, part: str) -> Path | None:
    if not root.is_dir():
        return None
    return next((path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}{part}.zip"))), None)


def _last(before: str) -> str:
    return before.rpartition("/")[2]


def _characters(tree: Tree) -> dict[str, dict[str, list[str]]]:
    """Drawings of each character in the order of their paths, by what is before its alphabet."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in tree.paths:
        parts = path.split("/")
        if len(parts) > 2 and CHARACTER.fullmatch(parts[-2]) and path.lower().endswith(".png"):
            drawings = found.setdefault("/".join(parts[:-3]), {})
            drawings.setdefault("/".join(parts[-3:-1]), []).append(path)
    return {before: dict(sorted(drawings.items())) for before, drawings in found.items()}


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
