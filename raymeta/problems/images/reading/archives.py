"""The files in a zip or tar archive. Of an entry that is there twice the last one counts; links are what they mean."""

import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.files import (
    DEVICE,
    FIFO,
    FOLDER_LINK,
    HEAD,
    HIDDEN,
    NOWHERE,
    LeftOut,
    is_hidden,
    suffix,
)

READ = "a zip or tar archive (tar as it is, or compressed by gzip, bzip2 or xz)"
LARGEST = 2**28  # bytes of a file in an archive, unpacked: more is a bomb and no image or list
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, tarfile.TarError)
Lost = Callable[[str], None]  # called with the path of a file that can't be read

_TAPES = {b"\x1f\x8b": "r|gz", b"BZh": "r|bz2", b"\xfd7zXZ\x00": "r|xz"}
_FOREIGN = {b"(\xb5/\xfd": "compressed by zstd", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive"}
_ENDINGS = (".tar", ".tgz", ".tbz2", ".tbz", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")


class Zip:
    """A zip archive.

    Attributes:
        files: its entries by their paths.
        left: what is left out.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.left = source, LeftOut()
        with zipfile.ZipFile(source) as archive:
            infos = archive.infolist()
            if any(info.flag_bits & 1 for info in infos):
                raise UserError(f"{shown(source)}: a zip archive with a password: unpack it and name the folder")
            slashed = any("/" in info.filename for info in infos)
            found: dict[str, zipfile.ZipInfo | str] = {}
            for info in infos:
                # Old tools of Windows write backslashes; in a name that was made elsewhere one is a letter.
                windows = info.create_system == 0 or not slashed
                name = info.filename.replace("\\", "/") if windows else info.filename
                if name.endswith("/"):
                    continue
                path = plain(name)
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                found[path] = _target(path, archive.read(info).decode("utf-8", "replace")) if is_link else info
        self.files = _resolved(found, self.left)

    def head(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The first bytes of some files."""
        with zipfile.ZipFile(self.source) as archive:
            for path in paths:
                try:
                    with archive.open(self.files[path]) as file:
                        yield path, file.read(HEAD)
                except DAMAGED:
                    yield path, b""

    def read(self, paths: Iterable[str], lost: Lost | None) -> Iterator[tuple[str, bytes]]:
        """Paths and contents; without `lost` one that is damaged is an error."""
        with zipfile.ZipFile(self.source) as archive:
            for path in paths:
                check_size(self.source, path, self.files[path].file_size)
                try:
                    content = archive.read(self.files[path])
                except DAMAGED:
                    if lost is None:
                        raise
                    lost(path)
                    continue
                yield path, content


class Tar:
    """A tar archive, compressed or not, which is read from its start to its end.

    Attributes:
        files: path -> number of the entry that has its content, and its bytes.
        left: what is left out.
        heads: the first bytes of the files without a suffix.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.left = source, LeftOut()
        self._mode = next((mode for start, mode in _TAPES.items() if _start(source).startswith(start)), "r|")
        found: dict[str, tuple[int, int] | str] = {}
        heads: dict[int, bytes] = {}
        with self._open() as tape:
            for number, member in enumerate(tape):
                path = plain(member.name)
                if member.isdir():
                    continue
                if member.isfile():
                    found[path] = number, member.size
                    file = None if suffix(path) else tape.extractfile(member)
                    if file is not None:
                        heads[number] = file.read(HEAD)
                elif member.issym():
                    found[path] = _target(path, member.linkname)
                elif member.islnk() and plain(member.linkname) in found:
                    found[path] = found[plain(member.linkname)]  # as it is now: a later entry is another file
                else:
                    found.pop(path, None)
                    kind = FIFO if member.isfifo() else NOWHERE if member.islnk() else DEVICE
                    self.left.setdefault(kind, []).append(path)
        self.files = _resolved(found, self.left)
        self.heads = {path: heads[number] for path, (number, _) in self.files.items() if number in heads}

    def head(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The first bytes of some files without a suffix."""
        return ((path, self.heads.get(path, b"")) for path in paths)

    def read(self, paths: Iterable[str], lost: Lost | None) -> Iterator[tuple[str, bytes]]:
        """Paths and contents in the archive's order. A damaged one is an error: where it goes on is not known."""
        wanted: dict[int, list[str]] = {}
        for path in paths:
            number, size = self.files[path]
            check_size(self.source, path, size)
            wanted.setdefault(number, []).append(path)
        last = max(wanted, default=-1)
        with self._open() as tape:
            for number, member in enumerate(tape):
                if number > last:
                    return
                if number in wanted:
                    file = tape.extractfile(member)
                    content = file.read() if file is not None else b""
                    yield from ((path, content) for path in wanted[number])

    def _open(self) -> tarfile.TarFile:
        mode: Any = self._mode
        return tarfile.open(self.source, mode, tarinfo=_Member)  # a compressed one can't be read in another order


class _Member(tarfile.TarInfo):
    """tarfile takes a damaged entry for the end of the archive, unless it is the first one."""

    @classmethod
    def fromtarfile(cls, tape: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tape)
        except tarfile.HeaderError as error:
            if tape.offset and type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(error)) from error
            raise


def opened(source: Path) -> Zip | Tar:
    """An archive by what is in it, whatever its name.

    Raises:
        UserError: it is something else.
    """
    start = _start(source)
    name = source.name.lower()
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise UserError(f"{shown(source)}: {what}, which is not read: name a folder, or {READ}")
    if start[257:262] == b"ustar" or start.startswith(tuple(_TAPES)) or name.endswith(_ENDINGS):
        return Tar(source)
    if start.startswith(b"PK") or name.endswith(".zip") or zipfile.is_zipfile(source):
        return Zip(source)
    if _is_tape(source):
        return Tar(source)
    raise UserError(f"{shown(source)}: neither a folder nor {READ}")


def plain(name: str) -> str:
    """A path in an archive without what means nothing in it: `./cat//1.png` and `/cat/1.png` are `cat/1.png`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def check_size(source: Path, path: str, size: int) -> None:
    """Refuse what is too large to be an image or a list."""
    if size > LARGEST:
        raise UserError(f"{shown(source)}: {shown(path)} is {size:,} bytes unpacked, at most {LARGEST:,} are read")


def _start(source: Path) -> bytes:
    with open(source, "rb") as file:
        return file.read(512)


def _is_tape(source: Path) -> bool:
    """Whether it is a tar archive of the time before they had a mark."""
    try:
        return tarfile.is_tarfile(source)
    except DAMAGED:
        return False


def _target(path: str, link: str) -> str:
    """Where a symbolic link in an archive leads, as a path in it."""
    return plain(posixpath.normpath(posixpath.join(posixpath.dirname(path), link)))


def _resolved(found: dict[str, Any], left: LeftOut) -> dict[str, Any]:
    """The shown files behind their paths; links to folders, links to nothing and what is hidden are left out."""
    files = {}
    for path, one in found.items():
        seen = set[str]()
        while isinstance(one, str):
            target = one
            one = found.get(target) if target not in seen else None
            seen.add(target)
            if one is None:
                is_folder = any(other.startswith(f"{target}/" if target else "") for other in found)
                left.setdefault(FOLDER_LINK if is_folder else NOWHERE, []).append(path)
        if path and one is not None:
            files[path] = one
    hidden = {path for path in files if any(map(is_hidden, path.split("/")))}
    if hidden:
        left[HIDDEN] = sorted(hidden)
    return {path: one for path, one in files.items() if path not in hidden}
