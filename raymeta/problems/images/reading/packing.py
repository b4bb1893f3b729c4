"""Packed data sets on disk: the format, and how a store is written whole or not at all.

A store is a folder of `images.npy`, uint8 [total, C, H, W], all images of class 0, then of class 1 and so on; of
`meta.json`, which says what they are; and, if something was not packed, of `left_out.txt`. Folders of `$RAYMETA_CACHE`
that begin with a dot are being built, or are what a killed builder has left for the next one.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from hashlib import sha256
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from raymeta.errors import UserError, shown

FORMAT = 1
# Keys of `meta.json`, beside `about`.
CONTENTS = ("format", "fingerprint", "shape", "class_names", "sizes", "splits", "angles")
REMARKS = ("layout", "left_out", "left_out_paths", "notes")  # keys of `meta.json` on how a store came about
LEFT_OUT = "left_out.txt"  # all paths that were not packed, a line each
MOST_LISTED = 1000  # of a kind in `meta.json`, which everyone reads who opens the store
BLOCK = 1024  # images hashed at a time
SETTLE_S = 2.0  # what a killed builder of many files loses at most
Progress = Callable[[int, int], None]  # steps done, steps in all


class Stream(NamedTuple):
    """Images that are read while they are written: a data set need not fit into memory.

    Attributes:
        shape: of all: (total, C, H, W).
        parts: row of the first image and images, uint8 [n, C, H, W]; every row comes once, in any order.
    """

    shape: tuple[int, int, int, int]
    parts: Iterable[tuple[int, NDArray[np.uint8]]]


class Files(NamedTuple):
    """Images that come of a file each: whoever packs them goes on with what a killed builder has left.

    Attributes:
        shape: of all: (total, C, H, W).
        stamps: uint64 [total], none of them 0: of the file of each row, another one if it is another file.
        read: rows to their images, as in a stream.
        lost: rows that `read` has found no image for; they are not packed.
        notes: what `read` has noted of files; what a killed builder's has noted is added to it.
    """

    shape: tuple[int, int, int, int]
    stamps: NDArray[np.uint64]
    read: Callable[[NDArray[np.int64]], Iterable[tuple[int, NDArray[np.uint8]]]]
    lost: AbstractSet[int] = frozenset()
    notes: dict[str, list[str]] | None = None


class Packed(NamedTuple):
    """What a builder hands over.

    Attributes:
        images: uint8 [total, C, H, W], class after class; an array, a memory map, a stream or files.
        class_names: a name per class.
        sizes: images per class, in the same order; they sum to `total`.
        splits: class split by name -> "train", "validation", "test" -> indices of classes.
        expected: the fingerprint that all this must have; None: whatever it has.
        about: what else `meta.json` says: how the classes were recognised, and what was left out; it is there when all
            images are read.
        angles: of images that show a thing from somewhere, in degrees: azimuth, elevation, tilt of each.
    """

    images: NDArray[np.uint8] | Stream | Files
    class_names: Sequence[str]
    sizes: Sequence[int]
    splits: Mapping[str, Mapping[str, Sequence[int]]]
    expected: str | None = None
    about: Mapping[str, Any] = MappingProxyType({})
    angles: Sequence[Sequence[float]] | None = None


def fingerprint(packed: Packed) -> str:
    """SHA-256 over the pixels, the classes and the splits, as 64 hexadecimal digits."""
    assert isinstance(packed.images, np.ndarray)  # others are read once
    digest = sha256(json.dumps(_labels(packed), sort_keys=True).encode())
    for first in range(0, len(packed.images), BLOCK):
        digest.update(np.ascontiguousarray(packed.images[first : first + BLOCK]).data)
    return digest.hexdigest()


def build_store(folder: Path, about: Mapping[str, Any], build: Callable[[Path], Packed], *, rebuild: bool) -> None:
    """Make sure that a store is at `folder`; a killed or a second builder never leaves or sees half of one there.

    Args:
        folder: where the store goes; it is built in a hidden folder next to it and renamed.
        about: what `meta.json` says beside the contents: name and version.
        build: makes the contents; called under a lock, only if there is nothing at `folder` or on `rebuild`, with an
            empty folder for what it has to put somewhere meanwhile.
        rebuild: replace what is there. Processes that have the old images mapped keep them.

    Raises:
        UserError: the cache can't be written (full disk, no permission), or the contents are not what they should be.
    """
    hidden = f".{folder.name}."
    left = folder.parent / f"{hidden}part"  # what a killed builder has read of many files
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.lock"):
            for other in folder.parent.glob(f"{hidden}*"):  # of a killed builder: we hold the lock, so it is nobody's
                if other != left:
                    shutil.rmtree(other)
            if folder.exists() and not rebuild:
                shutil.rmtree(left, ignore_errors=True)
                return
            temporary = Path(tempfile.mkdtemp(prefix=hidden, dir=folder.parent))
            (temporary / "scratch").mkdir()
            try:
                _write(temporary / "new", about, build(temporary / "scratch"), left)
                if folder.exists():
                    folder.rename(temporary / "old")
                (temporary / "new").rename(folder)
                _sync(folder.parent)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                shutil.rmtree(temporary)
    except OSError as error:
        shutil.rmtree(left, ignore_errors=True)  # the disk may be full of it
        raise UserError(f"{folder}: cannot be written: {error.strerror or error} (RAYMETA_CACHE moves it)") from error


def packed_at(folder: Path) -> Path | None:
    """Where a packed store is: `folder`, or the only folder in it; None: in neither."""
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return next((one for one in [folder, *inside[: len(inside) == 1]] if (one / "meta.json").exists()), None)


def packed_from(meta: Mapping[str, Any], images: NDArray[np.uint8] | Stream) -> Packed:
    """The contents of a store that was packed elsewhere, from its `meta.json` and its images."""
    about = {key: meta[key] for key in REMARKS if key in meta}
    contents = meta["class_names"], meta["sizes"], meta["splits"], meta["fingerprint"]
    return Packed(images, *contents, about, meta.get("angles"))


def _write(folder: Path, about: Mapping[str, Any], packed: Packed, left: Path) -> None:
    folder.mkdir()
    if isinstance(packed.images, Files):
        _read_files(left, packed.images)
        if packed.images.lost:
            packed = _without(packed, packed.images.lost, left / "images.npy", folder / "images.npy")
        else:
            (left / "images.npy").rename(folder / "images.npy")
    else:
        with open(folder / "images.npy", "wb") as file:
            if isinstance(packed.images, Stream):
                _write_stream(file, packed.images)
            else:
                np.save(file, packed.images, allow_pickle=False)
            _settle(file)
    packed = packed._replace(images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False))
    meta = {
        "format": FORMAT,
        **about,
        **packed.about,
        "fingerprint": fingerprint(packed),
        **_labels(packed),
    }
    if packed.expected not in (None, meta["fingerprint"]):
        raise UserError(
            f"{about['name']}: what came has fingerprint {meta['fingerprint'][:12]} and should have "
            f"{str(packed.expected)[:12]}"
        )
    if unread := meta.get("left_out_paths"):
        meta["left_out_paths"] = {why: paths[:MOST_LISTED] for why, paths in unread.items()}
        lines = [f"{shown(why)}\t{shown(path)}\n" for why, paths in unread.items() for path in paths]
        (folder / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
    with open(folder / "meta.json", "w", encoding="utf-8") as text:
        json.dump(meta, text)  # in ASCII: a name may have bytes that are no UTF-8
        _settle(text)
    _sync(folder)


def _write_stream(file: BinaryIO, stream: Stream) -> None:
    total, *one = stream.shape
    start, written = _write_header(file, stream.shape), 0
    for row, images in stream.parts:
        file.seek(start + row * prod(one))
        file.write(np.ascontiguousarray(images, np.uint8).data)
        written += len(images)
    if written != total:
        raise ValueError(f"{written} images were streamed, {total} were promised")


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Begin a `.npy` file of bytes; returns where they start."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _read_files(folder: Path, files: Files) -> None:
    """Write the images of `files` to `images.npy` in a folder; what is there of the same files already is kept.

    `stamps.npy` beside it has the stamps of the rows that are there, once they are safe on the disk.
    """
    total, *one = files.shape
    done = _there(folder, files)
    with open(folder / "images.npy", "r+b") as pixels:
        start = os.fstat(pixels.fileno()).st_size - prod(files.shape)

        def settle() -> None:
            _settle(pixels)
            (folder / "new.json").write_text(json.dumps(files.notes))
            (folder / "new.json").replace(folder / "notes.json")
            np.save(folder / "new.npy", done)
            (folder / "new.npy").replace(folder / "stamps.npy")

        settled = time.monotonic()
        try:
            for row, images in files.read(np.flatnonzero(done != files.stamps)):
                pixels.seek(start + row * prod(one))
                pixels.write(np.ascontiguousarray(images, np.uint8).data)
                done[row : row + len(images)] = files.stamps[row : row + len(images)]
                if time.monotonic() - settled > SETTLE_S:
                    settle()
                    settled = time.monotonic()
        finally:
            settle()
    if missing := int((done != files.stamps).sum()) - len(files.lost):
        raise ValueError(f"{missing} of {total} images did not come")


def _without(packed: Packed, lost: AbstractSet[int], read: Path, written: Path) -> Packed:
    """Write what was read without some rows."""
    ends = np.cumsum(packed.sizes)
    sizes = [
        sum(row not in lost for row in range(end - size, end)) for size, end in zip(packed.sizes, ends, strict=True)
    ]
    images = np.load(read, mmap_mode="r", allow_pickle=False)
    with open(written, "wb") as file:
        _write_header(file, (sum(sizes), *images.shape[1:]))
        for row, image in enumerate(images):
            if row not in lost:
                file.write(np.ascontiguousarray(image).data)
        _settle(file)
    return packed._replace(sizes=sizes)


def _there(folder: Path, files: Files) -> NDArray[np.uint64]:
    """The stamps of the rows that are in a folder; it is emptied if it holds something else."""
    with suppress(OSError, ValueError, EOFError):
        stamps = np.load(folder / "stamps.npy", allow_pickle=False)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        notes = json.loads((folder / "notes.json").read_text())
        if (stamps.shape, stamps.dtype) == (files.stamps.shape, np.uint64) and images.shape == files.shape:
            if files.notes is not None:
                files.notes.update(notes or {})
            return np.array(stamps)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with open(folder / "images.npy", "wb") as file:
        file.truncate(_write_header(file, files.shape) + prod(files.shape))
    nothing = np.zeros(len(files.stamps), np.uint64)
    np.save(folder / "stamps.npy", nothing)
    return nothing


def _settle(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _labels(packed: Packed) -> dict[str, Any]:
    """All but the pixels, as plain data."""
    angles = {} if packed.angles is None else {"angles": [[float(one) for one in three] for three in packed.angles]}
    return angles | {
        "shape": list(packed.images.shape),
        "class_names": list(packed.class_names),
        "sizes": [int(size) for size in packed.sizes],
        "splits": {
            name: {split: [int(one) for one in classes] for split, classes in splits.items()}
            for name, splits in packed.splits.items()
        },
    }


def _sync(folder: Path) -> None:
    """Make renames and new files in a folder outlive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
