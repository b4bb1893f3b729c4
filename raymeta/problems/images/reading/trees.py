"""Published images as files: below a folder, in a zip or in a tar archive, and how they become a store.

Whatever the files' places say of classes and splits, a loader makes of them `Classes`: split -> class -> its images.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.reading.packing import Files, Packed, Progress
from raymeta.problems.images.reading.sources import UNREADABLE, reading

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")
FOLDERS: dict[str, Split] = {
    "train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"
}  # fmt: skip
LARGEST = 2**28  # bytes of a file in an archive, unpacked: more is a bomb and no image or list

Classes = Mapping[Split, Mapping[str, Sequence[str]]]
Fit = Callable[[Image.Image], Image.Image]


class Tree:
    """Files by their paths in a folder or an archive, as `train/n01532829/1.jpg`; hidden ones are left out.

    Attributes:
        source: the folder or the archive.
        paths: of all files, sorted.
    """

    def __init__(self, source: Path) -> None:
        """List the files.

        Raises:
            UserError: there is no such thing, or it is damaged; also from `read`.
        """
        self.source = source
        with reading(source):
            self.paths = sorted(filter(_shown, self._list()))

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Paths and contents of some files, each once, in the order asked for; a tar archive gives them in its own."""
        wanted = dict.fromkeys(paths)
        with reading(self.source):
            if self.source.is_dir():
                for path in wanted:
                    yield path, (self.source / path).read_bytes()
            elif self.source.suffix == ".zip":
                with zipfile.ZipFile(self.source) as archive:
                    members = {_plain(name): name for name in archive.namelist()}
                    for path in wanted:
                        _check_size(self.source, path, archive.getinfo(members[path]).file_size)
                        yield path, archive.read(members[path])
            else:
                with tarfile.open(self.source, "r|*") as tape:  # a compressed one can't be read in another order
                    for member in tape:
                        path, file = _plain(member.name), None
                        if path in wanted:
                            _check_size(self.source, path, member.size)
                            file = tape.extractfile(member)
                        if file is not None:
                            del wanted[path]
                            yield path, file.read()

    def stamps(self, paths: Sequence[str]) -> NDArray[np.uint64]:
        """A number, not 0, for each of some files, or for its archive: another one if name, size or time is another."""
        is_folder, archive = self.source.is_dir(), self.source.stat()

        def stamp(path: str) -> int:
            about = (self.source / path).stat() if is_folder else archive
            text = f"{path}\n{about.st_size}\n{about.st_mtime_ns}"
            return int.from_bytes(blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "big") | 1

        with reading(self.source):
            return np.fromiter(map(stamp, paths), np.uint64, len(paths))

    def _list(self) -> Iterator[str]:
        if self.source.is_dir():
            for folder, _, names in os.walk(self.source, followlinks=True):
                below = Path(folder).relative_to(self.source)
                yield from ((below / name).as_posix() for name in names)
        elif self.source.suffix == ".zip":
            with zipfile.ZipFile(self.source) as archive:
                yield from (_plain(info.filename) for info in archive.infolist() if not info.is_dir())
        else:
            with tarfile.open(self.source, "r|*") as tape:
                yield from (_plain(member.name) for member in tape if member.isfile())


def find(root: Path, names: Sequence[str], layout: str) -> Path:
    """The folder or archive of one of some names in `root`, or `root` itself if it is an archive.

    Args:
        root: what the user gave.
        names: without an archive's suffix.
        layout: what the sentence says should have been there.

    Raises:
        UserError: nothing of that name is there.
    """
    if root.is_file() and root.name.endswith(ARCHIVES):
        return root
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    for name in names:
        for found in (root / name, *(root / f"{name}{suffix}" for suffix in ARCHIVES)):
            if found.exists():
                return found
    raise UserError(f"{root}: {layout}")


def split_folders(tree: Tree) -> dict[Split, dict[str, list[str]]]:
    """Classes of a tree `train/CLASS/...`, `val/CLASS/...`, `test/CLASS/...`, at its top or one folder down."""
    known = Image.registered_extensions()
    found: dict[Split, dict[str, list[str]]] = {split: {} for split in SPLITS}
    parts = [path.split("/") for path in tree.paths if PurePosixPath(path).suffix.lower() in known]
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


def _check_size(source: Path, path: str, size: int) -> None:
    if size > LARGEST:
        raise UserError(f"{source}: {path} is {size:,} bytes unpacked, at most {LARGEST:,} are read")


def _plain(name: str) -> str:
    return str(PurePosixPath(name))


def _shown(path: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
