"""Published images as files: below a folder, in a zip or in a tar archive, and how they become a store.

Whatever the files' places say of classes and splits, a loader makes of them `Classes`: split -> class -> its images.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b, sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import UserError, shown, some
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.reading.archives import READ, Lost, Tar, Zip, check_size, opened
from raymeta.problems.images.reading.files import (
    BROKEN_PICTURE,
    HEAD,
    NO_CLASS,
    NO_SUFFIX,
    LeftOut,
    begins_as_picture,
    is_picture,
    sentence,
    suffix,
)
from raymeta.problems.images.reading.packing import Files, Packed, Progress
from raymeta.problems.images.reading.pictures import BROKEN, Fit, NotPlain, Why, decode, unreadable
from raymeta.problems.images.reading.sources import reading
from raymeta.problems.images.reading.walking import special, walk

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")

Classes = Mapping[Split, Mapping[str, Sequence[str]]]


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

    def read_in_order(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """As `read`, in the order asked for of a tar archive, too: what comes early waits in memory."""
        wanted = list(dict.fromkeys(paths))
        files, early = self.read(wanted), dict[str, bytes]()
        for path in wanted:
            while path not in early:
                early.update([next(files)])
            yield path, early.pop(path)

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


def pack_files(
    tree: Tree,
    classes: Classes,
    shape: tuple[int, ...],
    fit: Fit,
    progress: Progress,
    *,
    about: Mapping[str, Any] = MappingProxyType({}),
    left: Mapping[str, Sequence[str]] = MappingProxyType({}),
    skip: bool = False,
    remedy: str = "",
) -> Packed:
    """Pack images of a tree.

    Args:
        tree: where they are.
        classes: their paths in it.
        shape: of a packed image, (C, H, W).
        fit: makes an image of that size and colour of a picture.
        progress: called per image.
        about: what the store is to say of itself.
        left: why -> paths of what is left out.
        skip: leave out pictures that can't be read, too.
        remedy: what ends the sentence that names them, if they are not left out.
    """
    names, sizes, splits = in_order({s: {c: len(paths) for c, paths in classes[s].items()} for s in SPLITS})
    paths = [path for split in SPLITS for name in sorted(classes[split]) for path in classes[split][name]]
    rows = {path: row for row, path in enumerate(paths)}
    lost, said = set[int](), dict(about)
    notes: dict[str, list[str]] = {}

    def note(path: str, kind: str) -> None:
        notes.setdefault(kind, []).append(path)

    def read(wanted: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        there, broken = len(paths) - len(wanted), dict[str, Why]()
        asked = tree.read((paths[row] for row in wanted), lambda path: broken.update({path: BROKEN}))
        for done, (path, content) in enumerate(asked, start=there + 1):
            try:
                image = decode(content, path, fit, partial(note, path))
            except NotPlain as error:
                broken[path] = error.why
            else:
                yield rows[path], image[None]
            progress(done, len(paths))
        if broken and not skip:
            raise UserError(f"{shown(tree.source)}: {unreadable(broken)}{remedy and f'; {remedy}'}")
        for one in (name for split in SPLITS for name in classes[split]):
            if all(path in broken for split in SPLITS for path in classes[split].get(one, ())):
                raise UserError(f"{shown(tree.source)}: no picture of the class '{shown(one)}' can be read")
        lost.update(rows[path] for path in broken)
        every = {**left, **({BROKEN_PICTURE: sorted(broken)} if broken else {})}
        said["left_out"], said["left_out_paths"] = sentence(every).removeprefix("left out: "), every
        every_note = {kind: sorted(set(noted)) for kind, noted in sorted(notes.items())}
        said["notes"] = {kind: f"{len(noted):,} ({some(noted)})" for kind, noted in every_note.items()}

    files = Files((len(paths), shape[0], shape[1], shape[2]), tree.stamps(paths), read, lost, notes)
    return Packed(files, list(map(shown, names)), sizes, splits, about=said)


def in_order(
    counts: Mapping[Split, Mapping[str, int]],
) -> tuple[list[str], list[int], dict[str, dict[str, list[int]]]]:
    """Names and sizes of classes as they are packed, split after split, sorted within one; and the one class split."""
    names = [name for split in SPLITS for name in sorted(counts[split])]
    sizes = [counts[split][name] for split in SPLITS for name in sorted(counts[split])]
    ends = np.cumsum([len(counts[split]) for split in SPLITS]).tolist()
    members = {s: list(range(end - len(counts[s]), end)) for s, end in zip(SPLITS, ends, strict=True)}
    return names, sizes, {"standard": {str(split): classes for split, classes in members.items()}}
