"""MLflow as everything here reaches it: where it is, what is wrong with it, and how much is sent in a request.

Imports neither torch nor the study engine: the process that copies studies to MLflow (mlflow_copy.py) is small.
"""

import os
import re
import shlex
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raymeta.errors import UserError
from raymeta.study.tracking import embedded

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    from raymeta.study.record.record import StudyRecord

ASKED_S = 20.0  # how long an export waits for a server that does not answer
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "pyodbc": "pyodbc"}


class Untracked(Exception):
    """MLflow can't take a study; `str` says why and what helps."""


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or the SQLite file beside the studies (embedded.py)."""
    return embedded.uri() if embedded.used() else os.environ["MLFLOW_TRACKING_URI"]


def connect() -> "MlflowClient":
    """A client; the embedded database is made first if there is none, and knows where it lies."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with a server, two lines at a run's end
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # the import sets them to INFO
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is a line of ours
    if embedded.used():
        embedded.make_ready()
    return MlflowClient(tracking_uri())


def problem_of(error: BaseException) -> str:
    """What went wrong with MLflow and what helps, short and without a password that an address may hold."""
    if isinstance(error, Untracked):
        return str(error)
    # SQLAlchemy has what the database said anywhere in what it says.
    match = re.search(r"\((?:sqlite3|psycopg2?|MySQLdb|pymysql|pyodbc)\.[^)]*\) (.*)", str(error))
    lines = [match[1]] if match else str(error).strip().splitlines() or [""]
    said = without_password(lines[0])[:200]
    if isinstance(error, ModuleNotFoundError) and error.name in DRIVERS:
        scheme = urlsplit(tracking_uri()).scheme
        return f"{scheme} needs a driver that is not installed: pip install '{DRIVERS[error.name]}'"
    if re.search(r"Max retries exceeded|Connection refused|timed out", str(error)):
        return f"no server answers at {without_password(tracking_uri())}"
    if type(error).__name__.startswith("Unsupported"):
        return (
            f"MLflow knows no address of the kind '{urlsplit(tracking_uri()).scheme}:', but https, postgresql, sqlite"
        )
    if re.search(r"file is not a database|malformed|no such table|Can't locate revision|not a directory", str(error)):
        if not embedded.used():
            return f"it is damaged ({said})"
        return f"{embedded.database()} is damaged ({said}): move it away"
    return f"{type(error).__name__}: {said}"


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, made if there is none; the embedded store keeps artifacts beside its database.

    Raises:
        Untracked: it was deleted in MLflow.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = embedded.artifacts(name) if embedded.used() else None
        return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage != "active":
        raise Untracked(
            deleted(f"the experiment '{name}'", f"experiments restore --experiment-id {found.experiment_id}")
        )
    return str(found.experiment_id)


def deleted(what: str, restore: str) -> str:
    """What there is to do about something of a study's that a user has deleted in MLflow."""
    where = shlex.quote(without_password(tracking_uri()))
    return f"{what} was deleted there: `MLFLOW_TRACKING_URI={where} mlflow {restore}`, or for good by `mlflow gc`"


def find_run(record: "StudyRecord", trial: int) -> tuple[str | None, str]:
    """The id of a trial's MLflow run, and what is wrong with MLflow: None and "" if it has none."""
    study = record.about["id"]
    if embedded.used():
        try:
            return embedded.find_run(study, trial), ""
        except Exception as error:  # MLflow is a copy: whatever is wrong with it, an export is not
            return None, problem_of(error)
    found: list[tuple[str | None, str]] = []
    # In a thread: a server that takes a connection and never answers would hold it up for good.
    asking = threading.Thread(target=lambda: found.append(_asked(record.name, study, trial)), daemon=True)
    asking.start()
    asking.join(ASKED_S)
    return found[0] if found else (None, f"no answer within {ASKED_S:.0f} s")


def _asked(name: str, study: str, trial: int) -> tuple[str | None, str]:
    query = f"tags.`raymeta.study_id` = '{study}' and tags.`raymeta.trial` = '{trial}'"
    try:
        client = connect()
        found = client.get_experiment_by_name(name)
        runs = client.search_runs([found.experiment_id], query, max_results=1) if found else []
    except Exception as error:  # the same
        return None, problem_of(error)
    return (str(runs[0].info.run_id) if runs else None), ""


def to_be_served() -> str | None:
    """The database that `mlflow ui` is to be started on, which can be opened; None: a server of its own is named.

    Raises:
        UserError: it can't be opened, or the server does not answer, or not as MLflow's.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri and (uri == "databricks" or urlsplit(uri).scheme in ("http", "https", "databricks", "databricks-uc", "uc")):
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https"):
            try:
                port = parts.port or {"http": 80, "https": 443}[parts.scheme]
                socket.create_connection((parts.hostname or "", port), timeout=5.0).close()
            except (OSError, ValueError) as error:
                raise UserError(
                    f"MLFLOW_TRACKING_URI={without_password(uri)}: no server answers there: {error}"
                ) from error
        else:
            return None
    try:
        connect().search_experiments(max_results=1)
    except Exception as error:  # of any database, driver or file system
        where = f"MLFLOW_TRACKING_URI={without_password(uri)}: " if uri else ""
        raise UserError(f"{where}MLflow can't be opened: {problem_of(error)}; the studies are whole") from error
    return None if uri.startswith("http") else tracking_uri()


def without_password(uri: str) -> str:
    return re.sub("//[^/@ ]*@", "//", uri)


def log_params(client: "MlflowClient", run_id: str, params: dict[str, Any]) -> None:
    """Log parameters, of which there may be many."""
    log(client, run_id, params, [], [])


def log(
    client: "MlflowClient", run_id: str, params: dict[str, Any], metrics: list["Metric"], tags: list["RunTag"]
) -> None:
    """Log all of it in as few batches as MLflow's limits allow (100 parameters, 1000 entries), the tags in the last."""
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    while len(entries) > 100:
        client.log_batch(run_id, params=entries[:100])
        entries = entries[100:]
    while len(metrics) > 800:
        client.log_batch(run_id, metrics=metrics[:800])
        metrics = metrics[800:]
    if entries or metrics or tags:
        client.log_batch(run_id, metrics, entries, tags)
