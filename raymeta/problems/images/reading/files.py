"""What a file is by its name or its first bytes, how a name is written in a sentence, and what was left out and why."""

import re
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath

from PIL import Image

from raymeta.errors import shown, some

LeftOut = dict[str, list[str]]  # why, in one of the words below or a suffix, to paths
NO_SUFFIX = "without a suffix"
HIDDEN = "hidden"
NOWHERE = "link that leads nowhere"
AGAIN = "link to a folder that is read by its own name"
FOLDER_LINK = "link to a folder of the archive"
FIFO = "FIFO"
SOCKET = "socket"
DEVICE = "device"
NO_CLASS = "picture of no class"
NO_SPLIT = "picture of a folder that is no split"
BELOW = "picture in a folder within a class"
UNLISTED = "picture that no list names"
UNUSED = "list that is not used"
BROKEN_PICTURE = "broken picture"
_MANY = {
    NOWHERE: "links that lead nowhere", AGAIN: "links to folders that are read by their own names",
    FOLDER_LINK: "links to folders of the archive", FIFO: "FIFOs", SOCKET: "sockets", DEVICE: "devices",
    NO_CLASS: "pictures of no class", NO_SPLIT: "pictures of folders that are no splits",
    BELOW: "pictures in folders within classes", UNLISTED: "pictures that no list names",
    UNUSED: "lists that are not used", BROKEN_PICTURE: "broken pictures",
}  # fmt: skip

# Suffixes that Pillow knows of what it can't read everywhere: no pictures, or by a program that may not be there.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
_FIRST_BYTES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\x00|MM\x00\*|RIFF....WEBP|\x00\x00\x00.ftypavi[fs]", re.DOTALL
)
HEAD = 16  # bytes that tell


@cache
def _suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind not in _NOT_READ)


def suffix(path: str) -> str:
    """Of a file, in small letters: `.jpg`, or ''."""
    return PurePosixPath(path).suffix.lower()


def is_picture(path: str) -> bool:
    """Whether a file is one that Pillow reads, by its suffix."""
    return suffix(path) in _suffixes()


def begins_as_picture(head: bytes) -> bool:
    """Whether the first bytes are those of a picture; it is asked of files without a suffix only."""
    return _FIRST_BYTES.match(head) is not None


def is_hidden(name: str) -> bool:
    """Whether a name is one that a file manager doesn't show, or of those that macOS puts into archives."""
    return name.startswith((".", "__MACOSX"))


def typed(word: object) -> str:
    """A word of a command line, as it is to be typed."""
    text = str(word)
    return shlex.quote(text) if text.isprintable() else shown(text)


def counted(kind: str, count: int) -> str:
    """`30 .heic`, `1 FIFO`, `2 links that lead nowhere`."""
    return f"{count:,} {shown(_MANY.get(kind, kind) if count > 1 else kind)}"


def sentence(left: Mapping[str, Iterable[str]]) -> str:
    """`left out: 1 .h5, 30 .heic, 1 FIFO (cat/pipe.png)`; '': nothing was."""
    parts = list[str]()
    for kind in sorted(left, key=lambda kind: (kind in _MANY, kind == HIDDEN, kind)):
        paths = sorted(left[kind])
        parts.append(counted(kind, len(paths)) + (f" ({some(paths)})" if kind in _MANY else ""))
    return f"left out: {', '.join(parts)}" if parts else ""
