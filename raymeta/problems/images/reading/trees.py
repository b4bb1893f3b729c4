"""Published images as files: below a folder, in a zip or in a tar archive, and how they become a store.

Whatever the files' places say of classes and splits, a loader makes of them `Classes`: split -> class -> its images.
"""

import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.reading.archives import READ, Lost, Tar, Zip, check_size, opened
from raymeta.problems.images.reading.files import (
    HEAD,
    NO_CLASS,
    NO_SUFFIX,
    LeftOut,
    begins_as_picture,
    is_picture,
    shown,
    suffix,
)
from raymeta.problems.images.reading.packing import Files, Packed, Progress
from raymeta.problems.images.reading.sources import UNREADABLE, reading
from raymeta.problems.images.reading.walking import special, walk

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")
FOLDERS: dict[str, Split] = {
    "train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"
}  # fmt: skip

Classes = Mapping[Split, Mapping[str, Sequence[str]]]
Fit = Callable[[Image.Image], Image.Image]


class Tree:
    """Files by their paths in a folder or an archive, as `train/n01532829/1.jpg`; hidden ones are left out.

    Attributes:
        source: the folder or the archive.
        used: paths that were read.
    """

    def __init__(self, source: Path) -> None:
        """Files are listed, once, when they are first asked for.

        Raises:
            UserError: there is no such thing, or it is neither a folder nor a file. What is asked for later raises it
                of an archive that is none or damaged, and of what can't be read.
        """
        self.source = source
        self.used: set[str] = set()
        with reading(source):
            self._about = os.stat(source)
        if kind := special(self._about.st_mode):
            raise UserError(f"{shown(source)}: a {kind}, neither a folder nor {READ}")

    @cached_property
    def paths(self) -> list[str]:
        """Of all files, sorted."""
        return sorted(self._files)

    @property
    def left(self) -> LeftOut:
        """What is no file, or hidden: why -> paths."""
        return self._listed[1]

    @cached_property
    def pictures(self) -> list[str]:
        """Paths of the files that Pillow reads, by their suffix or, where they have none, by their first bytes."""
        bare = [path for path in self.paths if not suffix(path)]
        with reading(self.source):
            heads = self._archive.head(bare) if self._archive else ((path, self._head(path)) for path in bare)
            begun = {path for path, head in heads if begins_as_picture(head)}
        return [path for path in self.paths if is_picture(path) or path in begun]

    def read(self, paths: Iterable[str], lost: Lost | None = None) -> Iterator[tuple[str, bytes]]:
        """Paths and contents of some files, each once, in the order asked for; a tar archive gives them in its own.

        Args:
            paths: of files.
            lost: called with the path of a file that can't be read; None: that is an error.
        """
        wanted = list(dict.fromkeys(paths))
        self.used.update(wanted)
        with reading(self.source):
            yield from self._archive.read(wanted, lost) if self._archive else self._read(wanted, lost)

    def left_out(self, packed: Iterable[str]) -> LeftOut:
        """Why -> paths of all that lies there, was not read and is not among some that are packed."""
        there = self.used.union(packed)
        left = {kind: list(paths) for kind, paths in self.left.items()}
        pictures = set(self.pictures)
        for path in self.paths:
            if path not in there:
                kind = NO_CLASS if path in pictures else suffix(path) or NO_SUFFIX
                left.setdefault(kind, []).append(path)
        return left

    def stamps(self, paths: Sequence[str]) -> NDArray[np.uint64]:
        """A number, not 0, for each of some files, or for its archive: another one if name, size or time is another."""

        def stamp(path: str) -> int:
            text = "\n".join(map(str, (path, *self._size_and_time(path))))
            return int.from_bytes(blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "big") | 1

        return np.fromiter(map(stamp, paths), np.uint64, len(paths))

    @cached_property
    def listing(self) -> str:
        """A sum over names, sizes and times of all files, or of the archive."""
        digest = sha256()
        for path in self.paths if self._is_folder else [""]:
            about = [os.fspath(self.source / path), *self._size_and_time(path)]
            digest.update(json.dumps(about).encode())
        return digest.hexdigest()

    @property
    def _is_folder(self) -> bool:
        return stat.S_ISDIR(self._about.st_mode)

    @cached_property
    def _archive(self) -> Zip | Tar | None:
        with reading(self.source):
            return None if self._is_folder else opened(self.source)

    @cached_property
    def _listed(self) -> tuple[Mapping[str, Any], LeftOut]:
        if self._archive:
            return self._archive.files, self._archive.left
        with reading(self.source):
            return walk(self.source)

    @property
    def _files(self) -> Mapping[str, Any]:
        return self._listed[0]

    def _size_and_time(self, path: str) -> tuple[int, int]:
        if self._is_folder:
            size, written = self._files[path]
            return size, written
        return self._about.st_size, self._about.st_mtime_ns

    def _read(self, paths: Iterable[str], lost: Lost | None) -> Iterator[tuple[str, bytes]]:
        for path in paths:
            check_size(self.source, path, self._files[path].size)
            try:
                content = (self.source / path).read_bytes()
            except OSError:
                if lost is None:
                    raise
                lost(path)
                continue
            yield path, content

    def _head(self, path: str) -> bytes:
        with open(self.source / path, "rb") as file:
            return file.read(HEAD)


def find(root: Path, names: Sequence[str], layout: str) -> Path:
    """The folder or archive of one of some names in `root`, or `root` itself if it is a file.

    Args:
        root: what the user gave.
        names: without an archive's suffix.
        layout: what the sentence says should have been there.

    Raises:
        UserError: nothing of that name is there.
    """
    if root.exists() and not root.is_dir():
        return root  # an archive, or `Tree` says what it is
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    for name in names:
        for found in (root / name, *(root / f"{name}{ending}" for ending in ARCHIVES)):
            if found.exists():
                return found
    raise UserError(f"{root}: {layout}")


def split_folders(tree: Tree) -> dict[Split, dict[str, list[str]]]:
    """Classes of a tree `train/CLASS/...`, `val/CLASS/...`, `test/CLASS/...`, at its top or one folder down."""
    found: dict[Split, dict[str, list[str]]] = {split: {} for split in SPLITS}
    parts = [path.split("/") for path in tree.pictures]
    down = 0 if any(part[0] in FOLDERS for part in parts) else 1
    for part in parts:
        if len(part) > down + 2 and part[down] in FOLDERS:
            found[FOLDERS[part[down]]].setdefault(part[down + 1], []).append("/".join(part))
    return found


def pack_files(tree: Tree, classes: Classes, side: int, fit: Fit, progress: Progress) -> Packed:
    """Pack images of a tree as RGB.

    Args:
        tree: where they are.
        classes: their paths in it.
        side: of a packed image, in pixels.
        fit: makes an RGB image one of side x side.
        progress: called per image.
    """
    names, sizes, splits = in_order({s: {c: len(paths) for c, paths in classes[s].items()} for s in SPLITS})
    paths = [path for split in SPLITS for name in sorted(classes[split]) for path in classes[split][name]]
    rows = {path: row for row, path in enumerate(paths)}

    def read(wanted: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        there = len(paths) - len(wanted)
        for done, (path, content) in enumerate(tree.read(paths[row] for row in wanted), start=there + 1):
            yield rows[path], decode(content, f"{tree.source}: {path}", fit)[None]
            progress(done, len(paths))

    return Packed(Files((len(paths), 3, side, side), tree.stamps(paths), read), names, sizes, splits)


def in_order(
    counts: Mapping[Split, Mapping[str, int]],
) -> tuple[list[str], list[int], dict[str, dict[str, list[int]]]]:
    """Names and sizes of classes as they are packed, split after split, sorted within one; and the one class split."""
    names = [name for split in SPLITS for name in sorted(counts[split])]
    sizes = [counts[split][name] for split in SPLITS for name in sorted(counts[split])]
    ends = np.cumsum([len(counts[split]) for split in SPLITS]).tolist()
    members = {s: list(range(end - len(counts[s]), end)) for s, end in zip(SPLITS, ends, strict=True)}
    return names, sizes, {"standard": {str(split): classes for split, classes in members.items()}}


def decode(content: bytes, where: str, fit: Fit) -> NDArray[np.uint8]:
    """An image file as uint8 [3, H, W].

    Raises:
        UserError: it can't be read; `where` says which it is.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(fit(image.convert("RGB"))).transpose(2, 0, 1)
    except (*UNREADABLE, ValueError) as error:
        raise UserError(f"{where} is not an image that can be read") from error


def squeezed(side: int) -> Fit:
    """To a square with Lanczos, as MAML's and CAVIA's scripts do; an image of that size stays as it is."""
    return lambda image: image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)


def ink_high(image: Image.Image, side: int) -> Image.Image:
    """A drawing, dark on light, as a grey square with its ink high; grey before it is scaled, so edges stay soft."""
    return ImageOps.invert(image.convert("L")).resize((side, side), Image.Resampling.LANCZOS)


def centred(side: int) -> Fit:
    """To a square 1.15 times as large, bilinear, and its centre: the evaluation transform of CloserLookFewShot."""
    large = int(1.15 * side)
    edge = round((large - side) / 2)
    box = (edge, edge, edge + side, edge + side)
    return lambda image: image.resize((large, large), Image.Resampling.BILINEAR).crop(box)
