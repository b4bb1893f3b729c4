"""Final runs as tables, as a picture and in MLflow."""

import statistics
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric as Logged
from rich.table import Column, Table

from raymeta.final.results import FinalTable
from raymeta.report.tables import value
from raymeta.study.tracking.connection import connect, experiment, log_params

EXPERIMENT = "final runs"


def as_table(tables: list[FinalTable]) -> Table:
    """Mean and task-level 95 % interval on the test split: a row a config, or a row a seed if there is only one."""
    return _seeds(tables[0]) if len(tables) == 1 else _comparison(tables)


def _seeds(final: FinalTable) -> Table:
    metric = final.metric
    title = f"{final.config.spec}, {_task(final)}, norm: {_norm(final)}"
    table = Table("seed", *_columns(final), "selected at", "train time", title=title)
    for result in final.seeds:
        table.add_row(
            str(result.seed),
            value(result.mean, metric, result.ci95),
            value(result.ensemble, metric, result.ensemble_ci95),
            value(result.val, metric, result.val_ci95),
            f"{result.selected_at} steps",
            f"{result.seconds / 60:.1f} min",
        )
    table.add_section()
    table.add_row(
        "all",
        value(final.mean, metric, final.ci95),
        value(final.ensemble, metric),
        _spread(final),
        f"{final.config.budget.test_tasks} test tasks",
        "",
    )
    return table


def _comparison(tables: list[FinalTable]) -> Table:
    first, tasks = tables[0], {_task(final) for final in tables}
    title = tasks.pop() if len(tasks) == 1 else f"{len(tables)} configs, not all of one task"
    title += f", {len(first.seeds)} seed{'s'[: len(first.seeds) != 1]}, {first.config.budget.test_tasks} test tasks"
    config = Column("config", overflow="fold")  # never cut off: names differ at their ends
    table = Table(config, *_columns(first), "outer steps", "train time", "norm", title=title)
    for final in tables:
        metric = final.metric
        table.add_row(
            final.name,
            value(final.mean, metric, final.ci95),
            value(final.ensemble, metric),
            value(
                statistics.fmean(result.val for result in final.seeds),
                metric,
                # Of one seed: the others have the same validation tasks, so their intervals don't average out.
                statistics.fmean(result.val_ci95 for result in final.seeds),
            ),
            str(final.config.budget.outer_steps),
            f"{statistics.fmean(result.seconds for result in final.seeds) / 60:.1f} min",
            _norm(final),
        )
    return table


def _columns(final: FinalTable) -> tuple[str, str, str]:
    name = final.metric.name
    return f"test {name}", f"ensemble of {final.config.budget.ensemble}", f"validation {name}"


def _task(final: FinalTable) -> str:
    return final.config.task.title


def _norm(final: FinalTable) -> str:
    norm = str(getattr(final.config.model, "norm", "none"))
    return norm + (" (transductive)" if norm in ("batch", "per_step") else "")


def _spread(final: FinalTable) -> str:
    return f"sd over seeds {value(final.sd_seeds, final.metric)}" if final.sd_seeds is not None else "one seed"


def draw(tables: list[FinalTable], path: Path) -> None:
    """Draw validation score and validation loss over training, a line a config: the mean over its seeds, and each seed.

    The suffix of `path` says what kind of file it is.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metric = tables[0].metric
    keys = (f"val_{metric.name}", "val_loss") if metric.mode == "max" else (f"val_{metric.name}",)  # or it is the loss
    figure, axes = plt.subplots(1, len(keys), figsize=(6 * len(keys), 4.2), layout="constrained", squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        for number, final in enumerate(tables):
            curves = [[(e["outer_steps"], e[key]) for e in result.rounds] for result in final.seeds]
            steps = [step for step, _ in curves[0]]
            if len(curves) > 1:
                for curve in curves:
                    axis.plot(steps, [score for _, score in curve], color=f"C{number}", lw=0.6, alpha=0.5)
            mean = [statistics.fmean(score for _, score in scores) for scores in zip(*curves, strict=True)]
            label = f"{final.name}: test {value(final.mean, final.metric, final.ci95)}"
            axis.plot(steps, mean, color=f"C{number}", lw=1.8, label=label)
        axis.set(xlabel="outer steps", ylabel=key.replace("val_", "validation "))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(_task(tables[0]))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def log_final(table: FinalTable, provenance: dict[str, Any]) -> str:
    """Log a table to MLflow: a parent run with the row, a child run with the curves of each seed. Returns the parent's
    id. One row a config: an older one, of other seeds perhaps, goes once the new one is whole.
    """
    client = connect()
    experiment_id = experiment(client, EXPERIMENT)
    label, metric = table.folder.name, f"test_{table.metric.name}"
    older = client.search_runs([experiment_id], f"tags.`raymeta.final` = '{label}'")
    tags = {"mlflow.runName": label, "raymeta.final": label, "raymeta.study": str(provenance.get("study", ""))}
    parent = str(client.create_run(experiment_id, tags=tags).info.run_id)
    seeds = ",".join(str(result.seed) for result in table.seeds)
    log_params(client, parent, {**table.config.flat(), "seeds": seeds})
    client.log_metric(parent, metric, table.mean)
    client.log_metric(parent, f"{metric}_ci95", table.ci95)
    client.log_metric(parent, f"{metric}_ensemble", table.ensemble)
    if table.sd_seeds is not None:
        client.log_metric(parent, f"{metric}_sd_seeds", table.sd_seeds)
    client.log_dict(parent, {**table.as_dict(), "provenance": provenance}, "table.json")
    client.log_text(parent, table.config.to_yaml(), "config.yaml")
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
