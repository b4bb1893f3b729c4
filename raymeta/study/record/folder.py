"""A study's folder on this machine or on a store: who may write to it, its journal, and how it is made."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from raymeta.errors import UserError
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.study.record.journal import Journal
from raymeta.study.record.lease import Lease, this_machine
from raymeta.study.record.stored_journal import StoredJournal

DRIVER = "driver.json"  # which process it is


def journal_in(folder: AnyPath) -> Journal | StoredJournal:
    """The study's journal, empty if there is none."""
    if isinstance(folder, Path):
        return Journal(folder / "journal.log")
    return StoredJournal(folder / "journal")


def is_driven(folder: AnyPath) -> bool:
    """A process drives the study right now."""
    if not isinstance(folder, Path):
        return Lease(folder / "driver.lease").taken
    try:
        with FileLock(folder / "driver.lock").acquire(timeout=0):
            return False
    except Timeout:
        return True


def driver_of(folder: AnyPath) -> int | None:
    """The process of this machine that drives a study right now; None: another machine's does, or none."""
    if not isinstance(folder, Path):
        return Lease(folder / "driver.lease").driver
    try:
        there = json.loads((folder / DRIVER).read_bytes())
    except (OSError, ValueError):
        return None
    # One that was killed left the file; then the study is not driven, or by another one, which has written it again.
    return int(there["pid"]) if there["machine"] == this_machine() and is_driven(folder) else None


@contextmanager
def driving(folder: AnyPath, journal: Journal | StoredJournal) -> Iterator[None]:
    """Hold a study with the journal that is written to: one driver at a time.

    Raises:
        UserError: another process drives it.
    """
    if isinstance(journal, StoredJournal) and not isinstance(folder, Path):
        lease = Lease(folder / "driver.lease")
        with lease.held(), journal.owned(lease.confirm):
            yield
        return
    lock = FileLock(str(folder / "driver.lock"))
    try:
        lock.acquire(timeout=1)  # `is_driven` may be looking
    except Timeout:
        raise UserError(f"the study '{folder.name}' is being driven by another process on this machine") from None
    mine = {"machine": this_machine(), "pid": os.getpid()}
    try:
        with suppress(OSError):  # a full disk: it can then not be stopped from outside
            write_atomically(folder / DRIVER, json.dumps(mine))
        yield
    finally:
        (folder / DRIVER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def made_whole(folder: AnyPath) -> Iterator[AnyPath]:
    """Where to write the files of a new study, `study.yaml` last: then all are there, or it is none.

    Raises:
        UserError: the study exists, or another process makes it right now.
    """
    if isinstance(folder, Path):
        refuse_taken(folder)
        unfinished = folder.parent / f".{folder.name}.{os.getpid()}"
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            os.rename(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return
    refuse_taken(folder)
    with Lease(folder / "driver.lease").held():
        _refuse(folder, (folder / "study.yaml").exists())  # another process may just have made it
        if (folder / "trials").exists():
            raise UserError(f"{folder}: has trials, but no study.yaml: delete it, or give another --name")
        (folder / "journal").rmtree()  # of one that was killed in here
        yield folder


def refuse_taken(folder: AnyPath) -> None:
    """Say that a study of that name is there, before anything is done for a new one.

    Raises:
        UserError: it is there.
    """
    _refuse(folder, folder.exists() if isinstance(folder, Path) else (folder / "study.yaml").exists())


def _refuse(folder: AnyPath, there: bool) -> None:
    if there:
        name = folder.name
        raise UserError(f"the study '{name}' exists: go on with `raymeta resume {name}`, or give another --name")
