"""Final runs in MLflow: a parent run a config, a child run a seed."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric as Logged

from raymeta.finals.analyses import FOLDER, SUFFIXES
from raymeta.finals.results import BY_STEP, FinalTable
from raymeta.problem import open_problem
from raymeta.report.finals import draw_by_step, draw_curves
from raymeta.report.tables import value
from raymeta.storage.places import AnyPath, local_copy
from raymeta.study.tracking import embedded, model, views
from raymeta.study.tracking.connection import connect, experiment, log_params

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_final(table: FinalTable, provenance: Mapping[str, Any]) -> str:
    """Log a table to MLflow: a parent run with the row, a child run with the curves of each seed. Returns the parent's
    id. One row a config: an older one, of other seeds perhaps, goes once the new one is whole.
    """
    client = connect()
    experiment_id = experiment(client, views.FINALS)
    for key, word in views.of_finals().items():
        client.set_experiment_tag(experiment_id, key, word)
    label, metric = table.folder.name, f"test_{table.metric.name}"
    older = client.search_runs([experiment_id], f"tags.`raymeta.final` = '{label}'")
    tags = {
        "mlflow.runName": label,
        "raymeta.final": label,
        "raymeta.study": str(provenance.get("study", "")),
        "raymeta.task": table.config.task.name,
    }
    if table.origin:
        tags["raymeta.preset"] = table.origin.row.name
    if table.shortened:
        tags |= {"raymeta.shortened": table.shortened, "raymeta.scale": f"{table.config.budget.scale:g}"}
    own = {
        "raymeta.kind": views.FINAL,
        "raymeta.score": value(table.mean, table.metric, table.ci95),
        "mlflow.note.content": _note(table),
    }
    parent = str(client.create_run(experiment_id, tags=tags | own).info.run_id)
    seeds = ",".join(str(result.seed) for result in table.seeds)
    log_params(client, parent, {**table.config.flat(), "seeds": seeds})
    client.log_metric(parent, metric, table.mean)
    client.log_metric(parent, f"{metric}_ci95", table.ci95)
    client.log_metric(parent, f"{metric}_ensemble", table.ensemble)
    for part, (mean, ci95) in table.parts().items():
        client.log_metric(parent, f"{metric}_{part}", mean)
        client.log_metric(parent, f"{metric}_{part}_ci95", ci95)
    if table.sd_seeds is not None:
        client.log_metric(parent, f"{metric}_sd_seeds", table.sd_seeds)
    _log_files(client, parent, table, provenance)
    _log_analyses(client, parent, table.folder)
    for result in table.seeds:
        own = {
            "raymeta.kind": views.SEED,
            "raymeta.score": value(result.mean, table.metric, result.ci95),
            "mlflow.parentRunId": parent,
            "mlflow.runName": f"seed {result.seed}",
            "raymeta.kernels": result.kernels,
        }
        child = str(client.create_run(experiment_id, tags=tags | own).info.run_id)
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
        model.forget(client, experiment_id, old.info.run_id)
    _keep_model(client, experiment_id, parent, table)
    return parent


def _log_files(client: "MlflowClient", run: str, table: FinalTable, provenance: Mapping[str, Any]) -> None:
    """The row as data, its config, and its pictures."""
    client.log_dict(run, {**table.as_dict(), "provenance": dict(provenance)}, "table.json")
    client.log_text(run, table.config.to_yaml(), "config.yaml")
    with TemporaryDirectory(prefix="raymeta-final-") as folder:
        draw_curves([table], Path(folder) / "curves.png")
        if all((table.folder / f"seed{result.seed}" / BY_STEP).exists() for result in table.seeds):
            draw_by_step([table], Path(folder) / "by_step.png")
        client.log_artifacts(run, folder)


def _keep_model(client: "MlflowClient", experiment_id: str, run: str, table: FinalTable) -> None:
    """The weights of the seed that is best on validation."""
    seed = table.chosen.seed
    file, of = table.folder / f"seed{seed}" / "checkpoint.pt", f"seed {seed} of {table.folder.name}"
    if file.exists():
        problem = open_problem(table.config.task)
        if (made := model.described(problem, str(file), of, {"seed": seed})) is not None:
            model.keep(client, experiment_id, run, made)


def _note(table: FinalTable) -> str:
    """What can be done with it, on its page."""
    metric = table.metric
    return "\n".join(
        [
            f"{table.config.spec} on {table.config.task.title}: test {metric.name} "
            f"{value(table.mean, metric, table.ci95)} over {table.config.budget.test_tasks} tasks\n",
            f"- the weights: `raymeta.load({table.folder.name!r}).adapt(x, y).predict(new)`, or this run's model: "
            "`mlflow.pyfunc.load_model(uri).predict({'support_x': x, 'support_y': y, 'query_x': new})`",
        ]
    )


def log_analyses(folder: AnyPath) -> bool:
    """Log the analyses of a final run's folder beside its row; whether MLflow has such a row."""
    if embedded.used() and not embedded.database().exists():
        return False
    client = connect()
    known = client.search_runs([experiment(client, views.FINALS)], f"tags.`raymeta.final` = '{folder.name}'")
    for run in known:
        if "mlflow.parentRunId" not in run.data.tags:
            _log_analyses(client, run.info.run_id, folder)
            return True
    return False


def _log_analyses(client: "MlflowClient", run_id: str, folder: AnyPath) -> None:
    """Numbers and pictures of the analyses that are in a final run's folder."""
    paths: list[AnyPath] = list((folder / FOLDER).glob("*.*"))
    for path in sorted(paths, key=str):
        if path.suffix in SUFFIXES:
            with local_copy(path) as copy:
                client.log_artifact(run_id, str(copy), FOLDER)
