"""Files that a user names to be written: only a plain file is ever replaced; what can't be written is said first."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from raymeta.errors import UserError, shown
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath, expanded


def output(path: str | Path, endings: Sequence[str] = ()) -> Path:
    """A path to write to later, looked at now: before there is anything to lose. Folders on its way are made later.

    Args:
        path: as the user gave it.
        endings: allowed ones, lower case; (): any.

    Raises:
        UserError: nothing could be written there.
    """
    if not str(path) or str(path) == ".":
        raise UserError(f"'{path}' is not the name of a file to write")
    given = expanded(path)
    if endings and given.suffix.lower() not in endings:
        allowed = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        raise UserError(f"{shown(given)}: its name is to end in {allowed}")
    try:
        target = given.resolve()
        if target.is_dir():
            raise UserError(f"{shown(given)}: is a folder, and a file is to be written")
        if target.is_socket() or target.is_block_device():
            raise UserError(
                f"{shown(given)}: is a {'socket' if target.is_socket() else 'disk'}, and a file is to be written"
            )
        around = next(folder for folder in target.parents if folder.exists())
        if not around.is_dir():
            raise UserError(f"{shown(given)}: cannot be written: {around} is a file")
        writable = os.access(target if target.exists() else around, os.W_OK)
        if not writable or (target.is_file() and not os.access(around, os.W_OK)):
            raise UserError(f"{shown(given)}: cannot be written: no permission")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long, a NUL in it
        if isinstance(error, UserError):
            raise
        raise _unwritable(given, error) from error
    return given


def write_output(path: AnyPath, content: bytes | str) -> None:
    """Write what a user asked for: through links, pipes and devices, and a plain file whole or not at all.

    Raises:
        UserError: it can't be written.
    """
    if not isinstance(path, Path):
        write_atomically(path, content)
        return
    given = output(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_plain(given):
            write_atomically(given.resolve(), data)
        else:
            # Without waiting for a reader of a pipe that nobody reads.
            handle = os.open(given, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            os.set_blocking(handle, True)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
    except OSError as error:
        raise _unwritable(given, error) from error


def _is_plain(path: Path) -> bool:
    """A plain file, or one that is not there yet."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


def _unwritable(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return UserError(f"{shown(path)}: is a pipe that nothing reads")
    return UserError(f"{shown(path)}: cannot be written: {getattr(error, 'strerror', None) or error}")
