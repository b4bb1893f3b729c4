"""Folders on a store: any URI that pyarrow's file systems open (s3, gs, abfs, …), with the methods of `Path` used here.

A `RemotePath` reads and writes whole objects; a put is atomic, there is no append, and a rename is a copy and a delete.
Credentials come from where pyarrow takes them (`$AWS_ACCESS_KEY_ID`, `~/.aws`, the machine's role), never from a URI.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from raymeta.errors import StorageError, UserError

_SECRET_WORDS = ("sig", "secret_key", "access_key", "session_token", "password")
# Seconds and attempts: at first a store is only looked for; a study that runs waits for one that is away a while.
_LOOK = {"connect_timeout": 5, "request_timeout": 10, "attempts": 2, "limit_s": 10}
_WORK = {"connect_timeout": 5, "request_timeout": 30, "attempts": 8, "limit_s": 120}


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder on a store. `str` is its URI, which `place` takes back; it can be pickled.

    Every method raises StorageError if the store cannot be opened or does not do what it is asked, and
    FileNotFoundError where `Path` does.

    Attributes:
        store: scheme and host or bucket, `s3://bucket`.
        path: in the store, without a slash at its ends.
        query: what follows the `?` of the URI, such as `region=eu-central-1`.
    """

    store: str
    path: str
    query: str = ""

    def __str__(self) -> str:
        # `+` stands for itself in a path; what is quoted is what would end it.
        shown = f"{self.store}/{quote(self.path, safe='/+=,@:~ ')}"
        return shown + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> "RemotePath":
        return replace(self, path=f"{self.path}/{name}".strip("/"))

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> "RemotePath":
        return replace(self, path=self.path.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        return self.parent / PurePosixPath(self.name).with_suffix(suffix).name

    # -- what is there ---------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """There is a file, or a folder with something in it."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def _kind(self) -> str:
        with self._told() as (files, key):
            return str(files.get_file_info(key).type.name)

    def iterdir(self) -> Iterator["RemotePath"]:
        """What lies in this folder, by name; nothing if there is no such folder."""
        return iter([self / name for name in sorted({path.split("/")[0] for path, _ in self._list(recursive=False)})])

    def files(self) -> list[str]:
        """The paths of all files below this folder, relative to it, sorted."""
        return sorted(path for path, is_file in self._list(recursive=True) if is_file)

    def _list(self, *, recursive: bool) -> list[tuple[str, bool]]:
        from pyarrow.fs import FileSelector

        with self._told() as (files, key):
            found = files.get_file_info(FileSelector(key, recursive=recursive, allow_not_found=True))
        return [(info.path[len(key) :].strip("/"), info.is_file) for info in found]

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Files and folders below whose parts match the parts of a pattern (`*/study.yaml`); `**` is not known."""
        first, _, rest = pattern.partition("/")
        here = [self / first] if not re.search(r"[*?\[]", first) else self.iterdir()
        for path in here:
            if fnmatchcase(path.name, first):
                if rest:
                    yield from path.glob(rest)
                elif path.exists():
                    yield path

    def read_bytes(self) -> bytes:
        """The whole file. One that is put anew meanwhile, in another length, comes cut off or with zeros behind it."""
        with self._told() as (files, key), files.open_input_file(key) as file:
            return bytes(file.read(file.size()))  # of a known size it is one request

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    # -- what changes it -------------------------------------------------------------------------------------------

    def write_bytes(self, data: bytes) -> None:
        """Put the file whole or not at all."""
        with self._told() as (files, key):
            file = files.open_output_stream(key)
            file.write(data)  # an error in here leaves the upload unfinished, so that nothing is put
            file.close()

    def touch(self) -> None:
        self.write_bytes(b"")

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing: a store makes folders of the names of its files."""

    def copy_to(self, target: "RemotePath") -> None:
        """Copy the file inside the store."""
        with self._told() as (files, key):
            files.copy_file(key, target._key())

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._told() as (files, key):
                files.delete_file(key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Delete all that lies below, if anything does."""
        try:
            with self._told() as (files, key):
                files.delete_dir(key)
        except FileNotFoundError:
            pass

    # -- the store -------------------------------------------------------------------------------------------------

    def _key(self) -> str:
        base = _opened(self.store, self.query)[1]
        return f"{base.rstrip('/')}/{self.path}" if self.path else base

    @contextmanager
    def _told(self) -> Iterator[tuple[Any, str]]:
        """The file system and this file's path in it; its errors are told as this module's."""
        from pyarrow import ArrowException

        try:
            yield _opened(self.store, self.query)[0], self._key()
        except StorageError:
            raise
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
        except (OSError, ArrowException) as error:
            raise _trouble(str(self), error) from error


AnyPath: TypeAlias = Path | RemotePath


def expanded(path: str | Path) -> Path:
    """A path of a user's with `~` and `~user` as the shell takes them.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no user '{Path(path).parts[0].removeprefix('~')}'") from None


def any_path(text: str) -> AnyPath:
    """The folder or file that a text names: a path, `file://…`, or the URI of a store.

    Raises:
        UserError: it is a URI that holds a secret, or that pyarrow knows no file system for.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return expanded(text).resolve()
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).resolve()
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    secret = parts.password or [key for key, _ in parse_qsl(parts.query) if key.lower() in _SECRET_WORDS]
    if secret:
        raise UserError(
            f"{shown}: the URI holds a secret, which would be written into logs and records; give it by the "
            "environment (for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    if parts.scheme not in ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"):
        raise UserError(
            f"{shown}: '{parts.scheme}' is no store that pyarrow opens; allowed: a path, file, s3, gs, abfs, hdfs"
        )
    if not parts.netloc:
        raise UserError(f"{shown}: names no bucket; expected {parts.scheme}://bucket/prefix")
    return RemotePath(f"{parts.scheme}://{parts.netloc}", unquote(parts.path).strip("/"), parts.query)


def rename(path: AnyPath, name: str) -> None:
    """Give a file another name in its folder. On a store it is copied first: whoever dies in between leaves both."""
    if isinstance(path, Path):
        path.replace(path.with_name(name))
    else:
        path.copy_to(path.with_name(name))
        path.unlink()


def remove_tree(folder: AnyPath) -> None:
    """Delete a folder with all that is in it, as far as it lets itself be deleted."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.rmtree()


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """A file of this machine with the same name and content, for what reads only such; of a local file itself."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raymeta-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


@cache
def _opened(store: str, query: str) -> tuple[Any, str]:
    """The file system of a store, and the path of its root in it.

    Raises:
        StorageError: it cannot be reached, or there is no such bucket.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileType

    uri = f"{store}/" + (f"?{query}" if query else "")
    try:
        files, root = _connect(uri, **_LOOK)
        missing = files.get_file_info(root or "/").type == FileType.NotFound
    except (OSError, ArrowException) as error:
        raise _trouble(store, error) from error
    if missing:
        raise StorageError(errno.ENOENT, "there is no such bucket, or no such folder", store)
    return _connect(uri, **_WORK)[0] if files.type_name in ("s3", "gcs") else files, root


def _connect(uri: str, *, connect_timeout: int, request_timeout: int, attempts: int, limit_s: int) -> tuple[Any, str]:
    from pyarrow import fs

    if uri.startswith("gs") and "retry_limit_seconds" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={limit_s}"
    files, root = fs.FileSystem.from_uri(uri)
    if files.type_name == "s3":
        # A URI cannot say how long to wait, so the same is made once more from what pyarrow made of the URI.
        options: dict[str, Any] = files.__reduce__()[1][0]
        waiting = {"connect_timeout": connect_timeout, "request_timeout": request_timeout}
        single = {"allow_delayed_open": True} if "allow_delayed_open" in options else {}  # a small file is one request
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
        files = fs.S3FileSystem(**{**options, **waiting, **single, "retry_strategy": retry})
    return files, root


def _trouble(shown: str, error: Exception) -> StorageError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return StorageError(errno.EIO, f"the store does not answer as it should: {lines[0][:300]}", shown)
