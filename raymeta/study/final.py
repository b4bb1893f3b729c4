"""Final runs: a config at its full budget, its seeds in parallel, selected by validation, tested on the test split.

    <studies>/finals/<name>-<hash>/seed0/checkpoint.pt, result.json
    <studies>/finals/<name>-<hash>/table.json

The same command goes on from what is there; a seed that has its result is not trained again.
"""

import hashlib
import json
import statistics
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from raymeta.config import TrialConfig, parse_trial
from raymeta.data.store import open_dataset
from raymeta.errors import RunFailed
from raymeta.evaluation import Metric, metric_of
from raymeta.files import studies_folder, write_atomically
from raymeta.study.resources import Slots, start_ray
from raymeta.study.tables import value
from raymeta.study.tracking import connect, experiment, log_params
from raymeta.trainer import Trainer

EXPERIMENT = "final runs"


@dataclass(frozen=True)
class SeedResult:
    """A seed's test score.

    Attributes:
        values: the score of every test task; the same tasks for all seeds.
        ensemble: mean score of the ensemble of the best validated weights, over the same tasks.
        ensemble_ci95: its half-width over them.
        selected_at: outer steps of the weights that were tested, the best on validation.
    """

    seed: int
    values: list[float]
    ensemble: float
    ensemble_ci95: float
    val: float
    val_ci95: float
    selected_at: int
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over test tasks."""
        return statistics.fmean(self.values)

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % interval over test tasks."""
        return _ci95(self.values)


@dataclass(frozen=True)
class FinalTable:
    """A table's row: every seed, and all of them together."""

    config: TrialConfig
    metric: Metric
    folder: Path
    seeds: list[SeedResult]

    @property
    def mean(self) -> float:
        """Mean over seeds and tasks."""
        return statistics.fmean(result.mean for result in self.seeds)

    @property
    def ci95(self) -> float:
        """Half-width over tasks, each task's score averaged over the seeds."""
        return _ci95([statistics.fmean(scores) for scores in zip(*(r.values for r in self.seeds), strict=True)])

    @property
    def ensemble(self) -> float:
        """Mean over seeds of each seed's ensemble."""
        return statistics.fmean(result.ensemble for result in self.seeds)

    @property
    def sd_seeds(self) -> float | None:
        """Standard deviation of the seeds' means; None for a single seed."""
        return statistics.stdev(result.mean for result in self.seeds) if len(self.seeds) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what `table.json` holds and `--json` prints."""
        return {
            "method": self.config.spec,
            "task": self.config.task.model_dump(),
            "metric": f"test_{self.metric.name}",
            "norm": getattr(self.config.model, "norm", "none"),
            "mean": self.mean,
            "ci95": self.ci95,
            "sd_seeds": self.sd_seeds,
            "ensemble": self.ensemble,
            "ensemble_of": self.config.budget.ensemble,
            "test_tasks": self.config.budget.test_tasks,
            "outer_steps": self.config.budget.outer_steps,
            "seeds": [
                {
                    "seed": result.seed,
                    f"test_{self.metric.name}": result.mean,
                    "ci95": result.ci95,
                    "ensemble": result.ensemble,
                    "ensemble_ci95": result.ensemble_ci95,
                    f"val_{self.metric.name}": result.val,
                    "val_ci95": result.val_ci95,
                    "selected_at": result.selected_at,
                    "seconds": result.seconds,
                }
                for result in self.seeds
            ],
            "folder": str(self.folder),
        }


def _ci95(values: list[float]) -> float:
    return 1.96 * statistics.stdev(values) / sqrt(len(values))


@ray.remote(max_restarts=3, max_task_retries=3)
class _Seed:
    """Trains one seed. An actor that Ray restarts goes on from its checkpoint."""

    def __init__(self, config: dict[str, Any], folder: str) -> None:
        torch.set_num_threads(1)
        self.folder = Path(folder)
        self.trainer = Trainer(parse_trial(config, folder))
        if self._checkpoint.exists():
            self.trainer.load(self._checkpoint)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def round(self) -> dict[str, Any]:
        """One more round, unless the budget is used up."""
        if not self.trainer.done:
            self.trainer.round()
            self.trainer.save(self._checkpoint)
        return {**self.trainer.rounds[-1], "done": self.trainer.done}

    def test(self) -> dict[str, Any]:
        """The best validated weights on the test split, alone and as an ensemble."""
        (score, ensemble), best = self.trainer.test(), self.trainer.best
        assert best is not None
        result = {
            "seed": self.trainer.config.seed,
            "values": score.values.tolist(),
            "ensemble": ensemble.mean,
            "ensemble_ci95": ensemble.ci95,
            "val": best["score"],
            "val_ci95": best["ci95"],
            "selected_at": best["outer_step"],
            "seconds": sum(entry["seconds"] for entry in self.trainer.rounds),
        }
        write_atomically(self.folder / "result.json", json.dumps(result))
        return result


def final(config: TrialConfig, seeds: list[int], name: str, *, slots: int | None = None, pack: int = 4) -> FinalTable:
    """Train and test a config with each seed, as many at a time as the machine has slots.

    Args:
        config: its own seed is replaced.
        seeds: seeds of the initial weights, training episodes and noise.
        name: what the folder is called, with a hash of the config behind it.
        slots: seeds at a time; None: what the machine has.
        pack: seeds per GPU.

    Raises:
        RunFailed: a seed diverged or its worker kept dying; the others' results are kept.
    """
    plain = {**config.as_dict(), "seed": 0}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    folder = studies_folder() / "finals" / f"{name}-{digest}"
    open_dataset(config.task).bank("test", config.task.bank_seed, final=True)  # refuse what cannot be tested at once
    places = {seed: folder / f"seed{seed}" for seed in seeds}
    results = {seed: _result(place) for seed, place in places.items() if (place / "result.json").exists()}
    left = [seed for seed in seeds if seed not in results]
    if left:
        given = start_ray(slots, pack)
        try:
            with redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
                results |= _train({seed: (plain | {"seed": seed}, places[seed]) for seed in left}, given)
        finally:
            ray.shutdown()
    table = FinalTable(config, metric_of(open_dataset(config.task)), folder, [results[seed] for seed in seeds])
    write_atomically(folder / "table.json", json.dumps(table.as_dict(), indent=1))
    return table


def _train(jobs: dict[int, tuple[dict[str, Any], Path]], slots: Slots) -> dict[int, SeedResult]:
    waiting, results = list(jobs), {}
    options = {"num_cpus": slots.cpu, "num_gpus": slots.gpu}
    pending: dict[
        Any, tuple[int, Any, bool]
    ] = {}  # what a worker computes to its seed, the worker, and if it is the test
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} outer steps"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        tasks = {
            s: bars.add_task(f"seed {s}", total=config["budget"]["outer_steps"]) for s, (config, _) in jobs.items()
        }
        while waiting or pending:
            while waiting and len(pending) < slots.count:
                seed = waiting.pop(0)
                config, folder = jobs[seed]
                worker = _Seed.options(**options).remote(config, str(folder))  # type: ignore[attr-defined]
                pending[worker.round.remote()] = (seed, worker, False)
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            seed, worker, tested = pending.pop(ready)
            try:
                answer = ray.get(ready)
            except ray.exceptions.RayActorError as error:
                raise RunFailed(f"seed {seed}: its worker died again and again; the same command goes on") from error
            if tested:
                results[seed] = SeedResult(**answer)
                ray.kill(worker)
                continue
            if answer["diverged"]:
                raise RunFailed(f"seed {seed} diverged at {answer['outer_steps']} outer steps")
            bars.update(tasks[seed], completed=answer["outer_steps"])
            step = worker.test if answer["done"] else worker.round
            pending[step.remote()] = (seed, worker, answer["done"])
    return results


def _result(place: Path) -> SeedResult:
    return SeedResult(**json.loads((place / "result.json").read_text()))


def log_final(table: FinalTable, provenance: dict[str, Any]) -> str:
    """Log a table to MLflow, once: a parent run with the row, a child run for each seed. Returns the parent's id."""
    client = connect()
    experiment_id = experiment(client, EXPERIMENT)
    label, metric = table.folder.name, f"test_{table.metric.name}"
    for old in client.search_runs([experiment_id], f"tags.`raymeta.final` = '{label}'"):
        client.delete_run(old.info.run_id)  # the same config again, with other seeds perhaps: one row a config
    tags = {"mlflow.runName": label, "raymeta.final": label, "raymeta.study": str(provenance.get("study", ""))}
    parent = str(client.create_run(experiment_id, tags=tags).info.run_id)
    log_params(client, parent, {**table.config.flat(), "seeds": ",".join(str(r.seed) for r in table.seeds)})
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
        client.log_metric(child, f"val_{table.metric.name}", result.val)
        client.set_terminated(child)
    client.set_terminated(parent)
    return parent


def as_table(final: FinalTable) -> Table:
    """A row a seed, and the overall one: mean and task-level 95 % interval on the test split."""
    task, metric = final.config.task, final.metric
    norm = getattr(final.config.model, "norm", "none")
    title = f"{final.config.spec}, {task.dataset} {task.ways}-way {task.shots}-shot, norm: {norm}"
    if norm == "batch":
        title += " (transductive)"
    ensemble = f"ensemble of {final.config.budget.ensemble}"
    columns = (f"test {metric.name}", ensemble, f"validation {metric.name}", "selected at", "train time")
    table = Table("seed", *columns, title=title)
    for result in final.seeds:
        table.add_row(
            str(result.seed),
            value(result.mean, metric, result.ci95),
            value(result.ensemble, metric, result.ensemble_ci95),
            value(result.val, metric, result.val_ci95),
            f"{result.selected_at} steps",
            f"{result.seconds / 60:.1f} min",
        )
    spread = f"sd over seeds {value(final.sd_seeds, metric)}" if final.sd_seeds is not None else "one seed"
    table.add_section()
    table.add_row(
        "all",
        value(final.mean, metric, final.ci95),
        value(final.ensemble, metric),
        spread,
        f"{final.config.budget.test_tasks} test tasks",
        "",
    )
    return table
