"""MLflow as everything here reaches it: where it is, and how much is sent in a request.

Imports neither torch nor the study engine: the process that copies studies to MLflow (mlflow_copy.py) is small.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from raymeta.storage.files import mlflow_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    from raymeta.study.record.record import StudyRecord


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or the embedded SQLite (`mlflow_folder`)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{mlflow_folder() / 'mlflow.db'}"


def connect() -> "MlflowClient":
    """A client; makes the embedded database first, whole or not at all (a killed migration would leave it unusable)."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with a server, two lines at a run's end
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # the import sets them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    if path := _embedded():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # two searches may be started at once
            if not path.exists():
                making = path.with_name(f".{path.name}.{os.getpid()}")
                MlflowClient(f"sqlite:///{making}").search_experiments(max_results=1)
                os.replace(making, path)
    return MlflowClient(tracking_uri())


def _embedded() -> Path | None:
    """The database of this machine that is used; None: a server is."""
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def problem_of(error: Exception) -> str:
    """What went wrong with MLflow, short and without a password that an address may hold."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {re.sub('//[^/@ ]*@', '//', lines[0])[:200]}"


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, made if there is none; the embedded store keeps artifacts beside its database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    artifacts = (mlflow_folder() / "mlartifacts" / name).as_uri() if _embedded() else None
    return str(client.create_experiment(name, artifact_location=artifacts))


def find_run(record: "StudyRecord", trial: int) -> str | None:
    """The id of a trial's MLflow run; None if MLflow has none or is away."""
    from mlflow.exceptions import MlflowException

    if (database := _embedded()) and not database.exists():
        return None
    query = f"tags.`raymeta.study_id` = '{record.about['id']}' and tags.`raymeta.trial` = '{trial}'"
    try:
        client = connect()
        found = client.get_experiment_by_name(record.name)
        runs = client.search_runs([found.experiment_id], query, max_results=1) if found else []
    except MlflowException:
        return None
    return str(runs[0].info.run_id) if runs else None


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
