"""A study's folder on this machine or on a store: who may write to it, its journal, and how it is made."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from filelock import FileLock, Timeout

from raymeta.errors import UserError
from raymeta.storage.places import AnyPath, RemotePath
from raymeta.study.record.lease import Lease
from raymeta.study.record.pulse import Beat, Pulse, last_beat

if TYPE_CHECKING:
    from raymeta.study.record.journal import Journal
    from raymeta.study.record.stored_journal import StoredJournal

LOCK = "driver.lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
HIDDEN = ".raymeta-"  # folders beside studies, which are on their way in or out
UNFINISHED = f"{HIDDEN}unfinished"  # on a store, where no folder can be renamed: objects that name those
RESERVED = ("finals", "mlartifacts", "mlflow.db", "wandb")


def names_in(home: AnyPath) -> list[str]:
    """The studies in a folder, sorted."""
    names = (path.parent.name for path in home.glob("*/study.yaml"))
    return sorted(name for name in names if not name.startswith("."))


def journal_in(folder: AnyPath) -> "Journal | StoredJournal":
    """The study's journal, empty if there is none."""
    from raymeta.study.record.journal import Journal  # with Optuna, which who only looks for drivers can do without
    from raymeta.study.record.stored_journal import StoredJournal

    if isinstance(folder, Path):
        return Journal(folder / "journal.log")
    return StoredJournal(folder / "journal")


def is_driven(folder: AnyPath) -> bool:
    """A process drives the study right now."""
    if not isinstance(folder, Path):
        return Lease(folder / "driver.lease").taken
    try:
        with open(folder / LOCK, "rb") as file:  # nothing is made or written, so that a folder may be read-only
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, it is another user's, or the file system has no locks
        pass
    beat = last_beat(folder)  # not on every file system another machine's locks are seen
    return beat is not None and not beat.here and beat.fresh


def fallen_driver(folder: AnyPath) -> Beat | None:
    """What the study's last driver said, if it was killed; None: it was not."""
    if last_beat(folder) is None or is_driven(folder):
        return None
    return last_beat(folder)  # it may have ended in order between the two


def driver_of(folder: AnyPath) -> int | None:
    """The process of this machine that drives a study right now; None: another machine's does, or none."""
    if not isinstance(folder, Path):
        return Lease(folder / "driver.lease").driver
    beat = last_beat(folder)
    # One that was killed left the file, and another, which drives it now, may not have written it again: a full disk.
    mine = beat is not None and beat.here and beat.pid > 0 and beat.alive
    return beat.pid if beat is not None and mine and is_driven(folder) else None


@contextmanager
def driving(folder: AnyPath, journal: "Journal | StoredJournal") -> Iterator[Pulse]:
    """Hold a study with the journal that is written to: one driver at a time.

    Raises:
        UserError: another process drives it, it is not to be written to, or it was moved or removed.
    """
    refuse_gone(folder)  # a lock makes the folders above it
    if not isinstance(folder, Path):
        stored = cast("StoredJournal", journal)
        lease = Lease(folder / "driver.lease")
        with lease.held(), stored.owned(lease.confirm):
            refuse_gone(folder)
            with Pulse([folder]) as pulse:
                yield pulse
        return
    lock = FileLock(str(folder / LOCK))
    try:
        lock.acquire(timeout=1)  # `is_driven` may be looking
    except Timeout:
        raise UserError(f"the study '{folder.name}' is being driven by another process on this machine") from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror or error}): the study can be looked at and exported; "
            "to drive it, copy its home to where you may write"
        ) from error
    try:
        refuse_gone(folder)  # it may have been moved since
    except BaseException:
        with suppress(OSError):  # what the lock has made in its place
            (folder / LOCK).unlink()
            folder.rmdir()
        lock.release()
        raise
    try:
        with Pulse([folder]) as pulse:
            yield pulse
    finally:
        lock.release()


@contextmanager
def held_still(folder: AnyPath) -> Iterator[None]:
    """Hold a study that is to be read whole, moved or removed: no driver is at work, and none begins.

    Raises:
        UserError: a process drives it.
    """
    if not isinstance(folder, Path):
        with Lease(folder / "driver.lease").held():
            yield
        return
    handle = _lock_file(folder / LOCK)
    if handle is None:  # it can't be written to, so it has no drivers
        yield
        return
    try:
        kind = fcntl.LOCK_EX if os.access(folder / LOCK, os.W_OK) else fcntl.LOCK_SH
        end = time.monotonic() + 1  # `is_driven` may be looking
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(
                        f"the study '{folder.name}' is in use by another process: let it end, or stop it"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _lock_file(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None


@contextmanager
def made_whole(folder: AnyPath) -> Iterator[AnyPath]:
    """Where to write the files of a new study, `study.yaml` last: then all are there, or it is none.

    Raises:
        UserError: the study exists, or another process makes it right now.
    """
    if isinstance(folder, Path):
        refuse_taken(folder)
        unfinished = folder.parent / f".{folder.name}.{os.getpid()}"
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"{folder.parent}: studies can't be kept there: {error.strerror}: {error.filename}"
            ) from error
        try:
            yield unfinished
            os.rename(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return
    refuse_taken(folder)
    clean_store(folder.parent)
    with Lease(folder / "driver.lease").held():
        refuse_taken(folder)  # another process may just have made it
        if (folder / "trials").exists():
            raise UserError(f"{folder}: has trials, but no study.yaml: delete it, or give another --name")
        (folder / "journal").rmtree()  # a study of 0.1.0 that was killed in here
        with on_its_way(folder):
            try:
                yield folder
            except BaseException:
                folder.rmtree()
                raise


@contextmanager
def on_its_way(folder: RemotePath) -> Iterator[None]:
    """Note beside a study of a store that it is on its way in or out, so that what a kill leaves of it is no riddle."""
    mark = folder.parent / UNFINISHED / folder.name
    mark.write_bytes(b"")
    yield
    mark.unlink(missing_ok=True)


def clean_store(home: RemotePath) -> None:
    """Delete what those have left who were killed on the way in or out: folders without a study.yaml, and their marks.

    What a living process has on its way is left alone.
    """
    for mark in (home / UNFINISHED).iterdir():
        folder = home / mark.name
        with suppress(UserError), Lease(folder / "driver.lease").held():
            if not (folder / "study.yaml").exists():
                folder.rmtree()
            mark.unlink(missing_ok=True)


def check_name(name: str) -> None:
    """Refuse a name that no folder should have, or that is a path.

    Raises:
        UserError: it cannot name a study.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name a study: use letters, digits and . _ + - (at most 100)")
    if name in RESERVED:
        raise UserError(f"'{name}' cannot name a study: raymeta keeps something else there")


def refuse_gone(folder: AnyPath) -> None:
    """Say that a study that was opened is not there any more.

    Raises:
        UserError: it was moved or removed meanwhile.
    """
    if not (folder / "study.yaml").is_file():
        raise UserError(f"the study '{folder.name}' is not in {folder.parent} any more: it was moved or removed")


def refuse_unwritable(folder: AnyPath, what: str) -> None:
    """Say that nothing can be kept in a folder, which need not be there yet.

    Args:
        folder: where.
        what: is to be kept there.

    Raises:
        UserError: it is no folder, or the user may not write to it. (Of a store only writing tells.)
    """
    if isinstance(folder, Path):
        above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: {what} can't be kept there: {above} is no folder that you may write to")


def refuse_taken(folder: AnyPath) -> None:
    """Say that there is a study of this name, or something else, or that there can be none.

    Raises:
        UserError: there is, or no study can be made there.
    """
    refuse_unwritable(folder.parent, "studies")
    name = folder.name
    if (folder / "study.yaml").exists():
        raise UserError(f"the study '{name}' exists: go on with `raymeta resume {name}`, or give another --name")
    if isinstance(folder, Path) and os.path.lexists(folder):
        raise UserError(f"{folder} is there already, and is no study: give another --name, or move it away")
