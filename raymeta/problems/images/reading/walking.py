"""The files below a folder: each real directory is listed once, whatever links there are, each file looked at once."""

import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple

from raymeta.problems.images.reading.files import AGAIN, DEVICE, FIFO, HIDDEN, NOWHERE, SOCKET, LeftOut, is_hidden

Key = tuple[object, object]  # of a directory: device and inode


class File(NamedTuple):
    """Of a file: bytes, and when it was written, in ns."""

    size: int
    written: int


class _Directory(NamedTuple):
    """What is in a directory, by name, without what is hidden.

    Attributes:
        path: under which it was first met.
        files: regular ones, or links to such.
        folders: directories first met here.
        others: directories met before, by a link or by a second mount.
    """

    path: str
    files: dict[str, File]
    folders: dict[str, Key]
    others: dict[str, Key]


def special(mode: int) -> str | None:
    """What a file is that can't be read from its start to its end, by its mode; None: it can, or is a folder."""
    kinds = {stat.S_IFIFO: FIFO, stat.S_IFSOCK: SOCKET, stat.S_IFCHR: DEVICE, stat.S_IFBLK: DEVICE}
    return kinds.get(stat.S_IFMT(mode))


def walk(root: Path) -> tuple[dict[str, File], LeftOut]:
    """The files below a folder by their paths, `/` between the parts, and what is left out.

    A directory within is read by its own path, one outside by the first link to it. By another link it is read again,
    as in `train/cat -> ../all/cat`, if it holds no link to a directory itself and the link is not in it: so links that
    lead in a circle are read once, and it ends.

    Raises:
        OSError: a directory can't be listed.
    """
    found, left = _scan(root)
    files = {_join(one.path, name): file for one in found.values() for name, file in one.files.items()}
    for key, one in found.items():
        for name, target in one.others.items():
            inside = _below(found, target)
            if any(found[other].others for _, other in inside) or key in {other for _, other in inside}:
                left.setdefault(AGAIN, []).append(_join(one.path, name))
                continue
            for below, other in inside:
                base = _join(_join(one.path, name), below)
                files.update({_join(base, file): about for file, about in found[other].files.items()})
    return files, left


def _scan(root: Path) -> tuple[dict[Key, _Directory], LeftOut]:
    """List every directory once, those that are there themselves before those that are linked."""
    left: LeftOut = {}
    found: dict[Key, _Directory] = {}
    own: deque[tuple[str, Key, Key | None]] = deque([("", _key("", os.stat(root)), None)])
    linked: deque[tuple[str, Key, Key | None]] = deque()
    while own or linked:
        path, key, parent = own.popleft() if own else linked.popleft()
        name = path.rpartition("/")[2]
        if key in found:
            if parent is not None:
                found[parent].others[name] = key
            continue
        if parent is not None:
            found[parent].folders[name] = key
        one = found[key] = _Directory(path, {}, {}, {})
        with os.scandir(root / path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            where = _join(path, entry.name)
            if is_hidden(entry.name):
                left.setdefault(HIDDEN, []).append(where)
                continue
            about = _look(entry)
            if about is None:
                left.setdefault(NOWHERE, []).append(where)
            elif stat.S_ISDIR(about.st_mode):
                (linked if entry.is_symlink() else own).append((where, _key(where, about), key))
            elif kind := special(about.st_mode):
                left.setdefault(kind, []).append(where)
            else:
                one.files[entry.name] = File(about.st_size, about.st_mtime_ns)
    return found, left


def _look(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """What is behind a name; None: a link that leads nowhere."""
    try:
        return entry.stat()
    except OSError as error:
        if entry.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None
        raise


def _key(path: str, about: os.stat_result) -> Key:
    return (about.st_dev, about.st_ino) if about.st_ino else ("", path)  # some network disks have no inodes


def _below(found: dict[Key, _Directory], top: Key) -> list[tuple[str, Key]]:
    """A directory and all in it that were first met there, with their paths in it."""
    inside = [("", top)]
    for path, key in inside:  # grows on the way
        inside += [(_join(path, name), other) for name, other in found[key].folders.items()]
    return inside


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path and name else path or name
