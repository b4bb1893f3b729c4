"""Final runs in MLflow: a parent run a config, a child run a seed."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric as Logged

from raymeta.finals.analyses import FOLDER, SUFFIXES
from raymeta.finals.results import FinalTable
from raymeta.storage.places import AnyPath, local_copy
from raymeta.study.tracking import embedded
from raymeta.study.tracking.connection import connect, experiment, log_params

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "final runs"


def log_final(table: FinalTable, provenance: Mapping[str, Any]) -> str:
    """Log a table to MLflow: a parent run with the row, a child run with the curves of each seed. Returns the parent's
    id. One row a config: an older one, of other seeds perhaps, goes once the new one is whole.
    """
    client = connect()
    experiment_id = experiment(client, EXPERIMENT)
    label, metric = table.folder.name, f"test_{table.metric.name}"
    older = client.search_runs([experiment_id], f"tags.`raymeta.final` = '{label}'")
    tags = {"mlflow.runName": label, "raymeta.final": label, "raymeta.study": str(provenance.get("study", ""))}
    if table.origin:
        tags["raymeta.preset"] = table.origin.row.name
    if table.shortened:
        tags |= {"raymeta.shortened": table.shortened, "raymeta.scale": f"{table.config.budget.scale:g}"}
    parent = str(client.create_run(experiment_id, tags=tags).info.run_id)
    seeds = ",".join(str(result.seed) for result in table.seeds)
    log_params(client, parent, {**table.config.flat(), "seeds": seeds})
    client.log_metric(parent, metric, table.mean)
    client.log_metric(parent, f"{metric}_ci95", table.ci95)
    client.log_metric(parent, f"{metric}_ensemble", table.ensemble)
    if table.sd_seeds is not None:
        client.log_metric(parent, f"{metric}_sd_seeds", table.sd_seeds)
    client.log_dict(parent, {**table.as_dict(), "provenance": dict(provenance)}, "table.json")
    client.log_text(parent, table.config.to_yaml(), "config.yaml")
    _log_files(client, parent, table.folder)
    for result in table.seeds:
        child_tags = {**tags, "mlflow.parentRunId": parent, "mlflow.runName": f"seed {result.seed}"}
        child = str(client.create_run(experiment_id, tags=child_tags).info.run_id)
        log_params(client, child, {**table.config.flat(), "seed": result.seed})
        client.log_metric(child, metric, result.mean)
        client.log_metric(child, f"{metric}_ci95", result.ci95)
        client.log_metric(child, f"{metric}_ensemble", result.ensemble)
        clock, curves = time.time() - result.seconds, []
        for entry in result.rounds:
            clock += entry["seconds"]
            logged = [key for key in entry if key.startswith(("val_", "train_"))]
            curves += [Logged(key, entry[key], int(1000 * clock), entry["outer_steps"]) for key in logged]
        for first in range(0, len(curves), 1000):  # MLflow takes no more in one request
            client.log_batch(child, metrics=curves[first : first + 1000])
        client.set_terminated(child)
    client.set_terminated(parent)
    for old in older:
        client.delete_run(old.info.run_id)
    return parent


def log_analyses(folder: AnyPath) -> bool:
    """Log the analyses of a final run's folder beside its row; whether MLflow has such a row."""
    if embedded.used() and not embedded.database().exists():
        return False
    client = connect()
    known = client.search_runs([experiment(client, EXPERIMENT)], f"tags.`raymeta.final` = '{folder.name}'")
    for run in known:
        if "mlflow.parentRunId" not in run.data.tags:
            _log_files(client, run.info.run_id, folder)
            return True
    return False


def _log_files(client: "MlflowClient", run_id: str, folder: AnyPath) -> None:
    """Numbers and pictures of the analyses that are in a final run's folder."""
    paths: list[AnyPath] = list((folder / FOLDER).glob("*.*"))
    for path in sorted(paths, key=str):
        if path.suffix in SUFFIXES:
            with local_copy(path) as copy:
                client.log_artifact(run_id, str(copy), FOLDER)
