"""A `--data-root` that is a URL: an archive of what the folder would hold, or of a packed store, fetched and unpacked.

http, https and file are opened by urllib, anything else (s3, gs, hdfs, ...) by pyarrow with the credentials that it
finds in the environment. A download that breaks off starts anew the next time.
"""

import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raymeta.errors import UserError
from raymeta.problems.images.reading.packing import Progress
from raymeta.problems.images.reading.sources import reason

Root = Path | str  # a path on this machine, or a URL
BLOCK = 2**20


@contextmanager
def local(root: Root | None, scratch: Path, progress: Progress) -> Iterator[Path | None]:
    """A root as a folder on this machine.

    Args:
        root: a path or None are given back as they are.
        scratch: an empty folder for what is fetched; whoever made it removes it.
        progress: called with bytes read and bytes in all while a URL is read.

    Raises:
        UserError: the URL can't be read, or is no archive; in a sentence from within, the URL stands for the folder.
    """
    if root is None or isinstance(root, Path):
        yield root
        return
    archive, folder = scratch / "archive", scratch / "unpacked"
    done = 0
    with open(archive, "wb") as file:
        for block, size in _blocks(root):
            file.write(block)
            done += len(block)
            progress(done, max(size, done))
    _unpack(root, archive, folder)
    archive.unlink()
    try:
        yield folder
    except UserError as error:
        raise UserError(str(error).replace(str(folder), root)) from error


def _blocks(url: str) -> Iterator[tuple[bytes, int]]:
    """What is at a URL, each block with the bytes in all; 0: nobody knows."""
    try:
        with _opened(url) as (source, size):
            done = 0
            while block := source.read(BLOCK):
                done += len(block)
                yield block, size
    except (OSError, ValueError, ImportError) as error:  # urllib's and pyarrow's are these
        raise UserError(f"{url}: cannot be read: {reason(error)}") from error
    if done < size:
        raise UserError(f"{url}: cannot be read: it broke off after {done} of {size} bytes")


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, int]]:
    """A file to read from, and its bytes; 0: nobody knows."""
    if urlsplit(url).scheme in ("http", "https", "file"):
        with urllib.request.urlopen(url, timeout=60) as source:
            yield source, int(source.headers.get("Content-Length") or 0)
        return
    from pyarrow import fs  # of Ray's; imported here: it takes a second

    filesystem, path = fs.FileSystem.from_uri(url)
    with filesystem.open_input_stream(path, compression=None) as source:
        yield source, filesystem.get_file_info(path).size or 0


def _unpack(url: str, archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as files:
                files.extractall(folder)  # never above the folder
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tape:
                tape.extractall(folder, filter="data")  # nor here
        else:
            raise UserError(f"{url}: neither a zip nor a tar archive")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{url}: an archive that is cut off or damaged ({reason(error)})") from error
