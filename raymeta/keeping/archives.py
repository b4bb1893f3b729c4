"""A study as one file, which another machine opens: a zip with checksums, and the journal in it as a file's.

    raymeta-study.json      {"format": 1, "name": …, "files": how many, "raymeta": version}
    study.yaml, journal.log, trials/0007/checkpoint.pt, …

It is written beside its place under a hidden name, read back, and renamed. From a store or to one, the journal changes
its form: there it is objects (`stored_journal.py`).
"""

import fcntl
import json
import os
import secrets
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from raymeta import __version__
from raymeta.errors import RunFailed, UserError, shown
from raymeta.keeping.moving import OWN, coming, files_in
from raymeta.storage.places import AnyPath, RemotePath
from raymeta.study.record.folder import check_name, held_still, journal_in, made_whole

ABOUT = "raymeta-study.json"
FORMAT = 1
CHUNK = 1 << 20
DAMAGED = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)  # as zipfile says it


def pack(folder: AnyPath, file: Path) -> int:
    """Write a study to a file, whole or not at all.

    Returns:
        Bytes of the file.

    Raises:
        UserError: a process drives it, or it has links in it.
        RunFailed: the file can't be written.
    """
    _clean(file)
    with held_still(folder):
        names = [name for name in files_in(folder) if not _of_the_journal(name)]
        if strange := next((name for name in names if not _harmless(name)), None):
            raise UserError(f"{folder}: has a file {shown(strange)}, which an archive can't have: rename it")
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                with ZipFile(stream, "w", strict_timestamps=False) as archive:
                    about = {"format": FORMAT, "name": folder.name, "files": len(names) + 1, "raymeta": __version__}
                    archive.writestr(ABOUT, json.dumps(about), ZIP_DEFLATED)
                    archive.writestr("journal.log", _journal(folder), ZIP_DEFLATED)
                    for name in names:
                        kind = ZIP_STORED if name.endswith(".pt") else ZIP_DEFLATED
                        if isinstance(folder, RemotePath):
                            archive.writestr(name, (folder / name).read_bytes(), kind)
                        else:
                            archive.write(folder / name, name, kind)
                stream.flush()
                os.fsync(stream.fileno())
                with ZipFile(part) as archive:
                    if damaged := archive.testzip():
                        raise RunFailed(f"{shown(file)}: {damaged} is not what was written: is the disk in order?")
                os.replace(part, file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RunFailed(f"{shown(file)}: cannot be written: {error.strerror or error}") from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return file.stat().st_size


def _journal(folder: AnyPath) -> bytes:
    """All whole lines; a killed driver may have left half of one."""
    if isinstance(folder, RemotePath):
        logs = journal_in(folder).read_logs(0)
        return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
    try:
        lines = (folder / "journal.log").read_bytes()
    except OSError as error:
        raise UserError(f"{folder / 'journal.log'}: cannot be read: {error.strerror}") from error
    return lines[: lines.rfind(b"\n") + 1]


def _clean(file: Path) -> None:
    """Delete what those have left who were killed while they wrote this file."""
    for part in file.parent.glob(f".{file.name}.*.part"):
        with suppress(OSError), open(part, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def name_in(file: Path) -> str:
    """The name of the study in an archive.

    Raises:
        UserError: the file is no archive of a study.
    """
    with _opened(file) as archive:
        return str(_about(file, archive)["name"])


def unpack(file: Path, folder: AnyPath) -> None:
    """Make a study of an archive, whole or not at all. Nothing is written beside the folder, and nothing executed.

    Raises:
        UserError: it is no archive of a study, or damaged; or there is something of the study's name.
    """
    check_name(folder.name)
    with _opened(file) as archive:
        infos = [info for info in archive.infolist() if info.filename != ABOUT]
        names = [info.filename for info in infos]
        if _about(file, archive)["files"] != len(names) or len(set(names)) < len(names):
            raise UserError(f"{shown(file)}: a damaged archive: it has not the files that it says")
        if strange := next((name for name in names if not _harmless(name)), None):
            raise UserError(f"{shown(file)}: not a study's archive: it has a file {shown(strange)}")
        if not {"study.yaml", "journal.log"} <= set(names):
            raise UserError(f"{shown(file)}: not a study's archive: it lacks study.yaml or journal.log")
        try:
            if isinstance(folder, RemotePath):
                _put(archive, names, folder)
                return
            around = next(path for path in folder.parents if path.exists())
            size, free = sum(info.file_size for info in infos), shutil.disk_usage(around).free
            if size > free:
                raise UserError(f"{shown(file)}: takes {size:,} bytes, and {around} has {free:,}")
            with coming(folder) as place:
                for name in names:
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, open(place / name, "xb") as target:
                        shutil.copyfileobj(source, target, CHUNK)
                        target.flush()
                        os.fsync(target.fileno())
        except (UserError, RunFailed):
            raise
        except DAMAGED as error:
            raise UserError(f"{shown(file)}: a damaged archive: {error}") from error


def _put(archive: ZipFile, names: list[str], folder: RemotePath) -> None:
    if damaged := archive.testzip():  # before anything is written
        raise BadZipFile(damaged)
    logs = [json.loads(line) for line in archive.read("journal.log").splitlines()]
    with made_whole(folder) as place:
        journal = journal_in(place)
        with journal.together():
            journal.append_logs(logs)
        for name in [*(name for name in names if name not in ("study.yaml", "journal.log")), "study.yaml"]:
            (place / name).write_bytes(archive.read(name))


def _opened(file: Path) -> ZipFile:
    try:
        return ZipFile(file)
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read: {error.strerror or error}") from error
    except DAMAGED:
        raise UserError(f"{shown(file)}: not a study's archive, or a damaged one") from None


def _about(file: Path, archive: ZipFile) -> dict[str, Any]:
    try:
        if archive.getinfo(ABOUT).file_size > CHUNK:
            raise ValueError
        about = json.loads(archive.read(ABOUT))
        known = about["format"] == FORMAT
        if not isinstance(about["name"], str) or not isinstance(about["files"], int):
            raise TypeError
    except (KeyError, TypeError, *DAMAGED):
        raise UserError(f"{shown(file)}: not a study's archive") from None
    if not known:
        raise UserError(f"{shown(file)}: an archive of raymeta {about.get('raymeta')}, which this one can't read")
    return dict(about)


def _harmless(name: str) -> bool:
    """A path that leads to below the study's folder, and to nothing of its process's."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)
    return plain and name not in OWN and not name.startswith("journal/")


def _of_the_journal(name: str) -> bool:
    """In a folder and on a store."""
    return name == "journal.log" or name.startswith("journal/")
