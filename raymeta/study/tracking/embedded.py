"""MLflow's database where no server is named: one SQLite file beside the studies, with the artifacts in a folder.

    <studies>/mlflow.db, <studies>/mlartifacts/<study>/<run>/artifacts/…

The studies' home may be moved, copied, read-only, and of any name. MLflow notes absolute places of artifacts, which are
set right when the database is opened; what is only looked up is read from the file, so that nothing is made or locked.
"""

import hashlib
import os
import re
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from raymeta.storage.files import mlflow_folder

FILE = "sqlite:///"
ARTIFACTS = "mlartifacts"
PLAIN = re.compile(r"[^?%#\n\r]*")  # what SQLAlchemy and MLflow read as a path, each in the same way


def used() -> bool:
    """No server is named by `$MLFLOW_TRACKING_URI`, or the file that is to be used."""
    named = os.environ.get("MLFLOW_TRACKING_URI") or FILE
    return named.startswith(FILE) and "?" not in named


def database() -> Path:
    """The file."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    return Path(unquote(named.removeprefix(FILE))) if named.startswith(FILE) else mlflow_folder() / "mlflow.db"


def uri() -> str:
    """The file as MLflow takes it; of a path that would not be read as one by a link."""
    path = database()
    return f"{FILE}{path if PLAIN.fullmatch(str(path)) else _linked(path.parent.absolute()) / path.name}"


def artifacts(study: str) -> str:
    """Where a study's artifacts go, as a URI."""
    return (mlflow_folder() / ARTIFACTS / study).as_uri()


def make_ready() -> None:
    """Make the database if there is none, whole or not at all (a killed migration would leave it unusable); set the
    places of artifacts right if it was moved.

    Raises:
        Exception: of any kind, as the file system, SQLite or MLflow says.
    """
    path = database()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):  # two searches may be started at once
            if not path.exists():
                _make(path)
    moved = _moved(path) if path == mlflow_folder() / "mlflow.db" else []  # one that a user names serves other homes
    if moved and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        with _locked(path):
            _set_right(path, moved)


def find_run(study: str, trial: int) -> str | None:
    """The id of a trial's run; None: there is none.

    Args:
        study: its id, not its name.
        trial: its number.
    """
    path = database()
    if not path.exists():
        return None
    having = "SELECT run_uuid FROM tags WHERE key = ? AND value = ?"
    query = f"{having} INTERSECT {having} INTERSECT SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"
    values = ("raymeta.study_id", study, "raymeta.trial", str(trial))
    with closing(_opened(path)) as file:
        found = file.execute(query, values).fetchone()
    return str(found[0]) if found else None


def _make(path: Path) -> None:
    from mlflow import MlflowClient

    making = Path(uri().removeprefix(FILE)).with_name(f".{path.name}.{os.getpid()}")
    try:
        client = MlflowClient(f"{FILE}{making}")
        for made in client.search_experiments():  # "Default", in which nothing would ever be
            client.delete_experiment(made.experiment_id)
        os.replace(making, path)
    finally:
        making.unlink(missing_ok=True)


def _moved(path: Path) -> list[tuple[str, str, str]]:
    """Experiments whose artifacts lie beside this database and are noted elsewhere: id, noted place, right place."""
    folder, moved = mlflow_folder() / ARTIFACTS, []
    with closing(_opened(path)) as file:
        noted = file.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
    for number, location in noted:
        above, _, name = str(location or "").rpartition("/")
        if above.startswith("file:") and above.endswith(f"/{ARTIFACTS}") and (folder / unquote(name)).is_dir():
            right = (folder / unquote(name)).as_uri()
            if Path(unquote(urlsplit(location).path)) != folder / unquote(name):
                moved.append((str(number), str(location), right))
    return moved


def _set_right(path: Path, moved: list[tuple[str, str, str]]) -> None:
    with closing(_opened(path)) as file, file:
        for number, old, new in moved:
            file.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
            for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
                file.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, number, len(old) + 1, f"{old}/"),
                )


def _opened(path: Path) -> sqlite3.Connection:
    """The file, which is not made if it is not there.

    For writing, where that is allowed: to read what a process was killed in the middle of writing, SQLite must undo it.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=10.0)


def _locked(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _linked(folder: Path) -> Path:
    """A link to a folder whose own path is plain."""
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    where = next(path for path in (tempfile.gettempdir(), "/tmp") if PLAIN.fullmatch(path))
    link = Path(where) / f"raymeta-mlflow-{os.getuid()}-{digest}"
    with suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    if link.lstat().st_uid != os.getuid() or link.readlink() != folder:  # somebody else's, in a folder that all share
        link = Path(tempfile.mkdtemp(prefix="raymeta-mlflow-", dir=where)) / "studies"
        link.symlink_to(folder, target_is_directory=True)
    return link
