"""Studies that are removed and moved: a rename, which is done or not; what takes long happens under a hidden name.

    <studies>/.raymeta-<name>-1f0c2a3b/     on its way in (copied, unpacked) or out (removed); held by its process
    <studies>/.raymeta-unfinished/<name>    on a store: the same of a folder that has its name already, or still

`ls` does not look at hidden folders. Whoever is killed leaves one, and the next who writes here deletes it.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path

from raymeta.errors import UserError, shown
from raymeta.storage.places import AnyPath, RemotePath
from raymeta.study.record.folder import HIDDEN, LOCK, NAME, check_name, clean_store, held_still, on_its_way
from raymeta.study.record.pulse import FILE as DRIVER

OWN = (LOCK, DRIVER, "journal.log.lock", "driver.lease")  # of a study's process, not of the study
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # a file that was being written when its process was killed
ON_ITS_WAY = re.compile(re.escape(HIDDEN) + NAME.pattern + "-[0-9a-f]{8}")
YOUNG_S = 60.0  # so long a hidden folder may be without a lock: it is being made or deleted


def remove(folder: AnyPath) -> None:
    """Delete a study, even a damaged one. What a link in it points to stays.

    Raises:
        UserError: it is driven, or may not be deleted.
    """
    refuse_link(folder)
    with held_still(folder):
        if isinstance(folder, RemotePath):
            with on_its_way(folder):
                (folder / "study.yaml").unlink(missing_ok=True)  # without it, it is no study
                folder.rmtree()
        else:
            _throw_away(folder)
    clean(folder.parent)


def _throw_away(folder: Path) -> None:
    hidden = _hidden(folder)
    try:
        os.rename(folder, hidden)
    except OSError as error:
        raise UserError(f"{folder}: cannot be deleted: {error.strerror}") from error
    shutil.rmtree(hidden, ignore_errors=True)  # never past a link
    if hidden.exists():
        raise UserError(f"{hidden}: not all that is left of '{folder.name}' could be deleted: delete it by hand")


def move(folder: AnyPath, target: AnyPath) -> None:
    """Give a study another name, or another home. To another file system it is copied, and the copy compared with it.

    Raises:
        UserError: it is driven, the target is taken, or one of both is on a store.
    """
    if isinstance(folder, RemotePath) or isinstance(target, RemotePath):
        raise UserError(
            f"{folder}: on a store a study is not moved: archive it, open the archive under the new name or with "
            "RAYMETA_STUDIES set to the new place, and remove it"
        )
    refuse_link(folder)
    check_name(target.name)
    if os.path.lexists(target):
        raise UserError(f"{shown(target)}: is there already: give another name")
    if inside := next((above for above in target.parents if (above / "study.yaml").exists()), None):
        raise UserError(f"{shown(target)}: is inside the study '{shown(inside.name)}': name a folder of studies")
    with held_still(folder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise UserError(f"{shown(target)}: '{folder.name}' cannot be moved there: {error.strerror}") from error
            with coming(target) as place:
                copy(folder, place)
            _throw_away(folder)
    clean(target.parent)


@contextmanager
def coming(folder: Path) -> Iterator[Path]:
    """Where to put the files of a study that comes here; it has its name once all are there.

    Raises:
        UserError: there is something of that name, or no room on the disk.
    """
    clean(folder.parent)
    place = _hidden(folder)
    try:
        place.mkdir(parents=True)
        handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{folder.parent}: studies can't be kept there: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield place
        if os.path.lexists(folder):
            raise UserError(f"{shown(folder)}: is there already: give another name")
        os.rename(place, folder)
        _sync(folder.parent)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{shown(folder)}: cannot be written: {error.strerror or error}") from error
        raise
    finally:
        os.close(handle)


def copy(folder: Path, place: Path) -> None:
    """Copy a study's files, and compare what is there then with what was here."""
    for name in files_in(folder):
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / name, target)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())
            copied = file_digest(file, "sha256").digest()
        with open(folder / name, "rb") as file:
            if file_digest(file, "sha256").digest() != copied:
                raise UserError(f"{target}: is not what was copied there: is the disk in order?")


def files_in(folder: AnyPath) -> list[str]:
    """A study's files by their paths in it, without what is of its process, and unfinished ones.

    Raises:
        UserError: it has links or other things that are no files: what they point to would be left behind.
    """
    if isinstance(folder, RemotePath):
        return [name for name in folder.files() if name not in OWN]
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        for name in [*folders, *names]:
            if (here / name).is_symlink() or not ((here / name).is_dir() or (here / name).is_file()):
                raise UserError(f"{shown(here / name)}: is a link or a device, which can't go along: put a file there")
        files = [(here / name).relative_to(folder).as_posix() for name in names if not UNFINISHED.fullmatch(name)]
        found += [name for name in files if name not in OWN]
    return sorted(found)


def refuse_link(folder: AnyPath) -> None:
    """Refuse a study that is a link to one.

    Raises:
        UserError: it is.
    """
    if isinstance(folder, Path) and folder.is_symlink():
        raise UserError(f"{folder}: is a link to {shown(os.readlink(folder))}: what is there is left alone; unlink it")


def clean(home: AnyPath) -> None:
    """Delete what those have left who were killed on their way."""
    if not isinstance(home, Path):
        clean_store(home)
        return
    for path in home.glob(f"{HIDDEN}*"):
        ours = ON_ITS_WAY.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if ours and _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    try:
        with open(path / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # it has none
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > YOUNG_S
        return False
    except OSError:  # it is held, or there is no telling
        return False
    return True


def _hidden(folder: Path) -> Path:
    return folder.parent / f"{HIDDEN}{folder.name}-{secrets.token_hex(4)}"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
