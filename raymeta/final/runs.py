"""Final runs: configs at their full budget, all seeds in parallel, selected by validation, tested on the test split.

    <studies>/finals/<name>-<task>-<hash>/config.yaml             see folders.py
    <studies>/finals/<name>-<task>-<hash>/seed0/checkpoint.pt, result.json
    <studies>/finals/<name>-<task>-<hash>/seed0/by_step.json      if asked for
    <studies>/finals/<name>-<task>-<hash>/table.json

The same command goes on from what is there; a seed that has its result is not trained again.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import RunFailed, StorageError, UserError
from raymeta.final import by_step as inner_steps
from raymeta.final.folders import begin, folder_of
from raymeta.metric import Metric, half_width
from raymeta.problem import open_problem
from raymeta.problems.images.reading.remote import Root
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath, place
from raymeta.study.machines.failures import last_line
from raymeta.study.machines.nodes import prepare_nodes
from raymeta.study.machines.packing import Pack, take_slots
from raymeta.study.machines.resources import Slots, stop_ray
from raymeta.training.device import cap_memory
from raymeta.training.trainer import resumed


@dataclass(frozen=True)
class SeedResult:
    """A seed's test score.

    Attributes:
        values: the score of every test task; the same tasks for all seeds.
        ensemble: mean score of the ensemble of the best validated weights, over the same tasks.
        ensemble_ci95: its half-width over them.
        selected_at: outer steps of the weights that were tested, the best on validation.
        rounds: the metrics of every round of its training.
    """

    seed: int
    values: list[float]
    ensemble: float
    ensemble_ci95: float
    val: float
    val_ci95: float
    selected_at: int
    rounds: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Of training and validation."""
        return float(sum(entry["seconds"] for entry in self.rounds))

    @property
    def mean(self) -> float:
        """Mean over test tasks."""
        return statistics.fmean(self.values)

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % interval over test tasks."""
        return half_width(self.values)


@dataclass(frozen=True)
class FinalTable:
    """A table's row: every seed of a config, and all of them together."""

    name: str
    config: TrialConfig
    metric: Metric
    folder: AnyPath
    seeds: list[SeedResult]

    @property
    def mean(self) -> float:
        """Mean over seeds and tasks."""
        return statistics.fmean(result.mean for result in self.seeds)

    @property
    def ci95(self) -> float:
        """Half-width over tasks, each task's score averaged over the seeds."""
        return half_width([statistics.fmean(scores) for scores in zip(*(r.values for r in self.seeds), strict=True)])

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


@ray.remote(max_restarts=3, max_task_retries=3)
class _Seed:
    """Trains one seed. An actor that Ray restarts goes on from its checkpoint."""

    def __init__(self, config: dict[str, Any], folder: str, gpu_share: float, gpu_context: int) -> None:
        torch.set_num_threads(1)
        cap_memory(gpu_share, gpu_context)
        self.folder = place(folder)
        self.trainer, self._note = resumed(parse_trial(config, folder), self._checkpoint)

    @property
    def _checkpoint(self) -> AnyPath:
        return self.folder / "checkpoint.pt"

    def round(self) -> dict[str, Any]:
        """One more round, unless the budget is used up."""
        if not self.trainer.done:
            self.trainer.round()
            self.trainer.save(self._checkpoint)
        note, self._note = self._note, ""
        return {**self.trainer.rounds[-1], "note": note, "done": self.trainer.done}

    def test(self, by_step: bool) -> None:
        """The best validated weights on the test split, alone and as an ensemble; if asked for also by inner step."""
        if not (self.folder / "result.json").exists():
            self._test()
        if by_step:
            inner_steps.score(self.trainer, self.folder / inner_steps.FILE)

    def _test(self) -> None:
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
            "rounds": self.trainer.rounds,
        }
        write_atomically(self.folder / "result.json", json.dumps(result))


def final(
    configs: Mapping[str, TrialConfig],
    seeds: list[int],
    *,
    slots: int | None = None,
    pack: Pack = None,
    by_step: bool = False,
    data_root: Root | None = None,
    ship_data: bool = False,
) -> tuple[list[FinalTable], list[str]]:
    """Train and test configs with each seed, as many at a time as the machine has slots.

    Args:
        configs: by what the table calls them; their own seeds are replaced.
        seeds: seeds of the initial weights, training episodes and noise.
        slots: runs at a time; None: what the machine has.
        pack: runs per GPU; see `raymeta.study.machines.packing`.
        by_step: score every run by inner step too; see `raymeta.final.by_step`.
        data_root: where the machines of a cluster find the data; None: they are drawn or downloaded.
        ship_data: they get this machine's packed stores instead.

    Returns:
        A row for every config of which all seeds have been tested, and a sentence for every run that has not been: it
        diverged, or its worker kept dying.
    """
    for config in configs.values():  # refuse at once what cannot be tested
        open_problem(config.task).bank("test", config.task.bank_seed, final=True)
        if by_step and not registry.find("method", config.method).inner_loop:
            raise UserError(f"--by-step: {config.method} has no inner steps")
    folders = {name: folder_of(name, config) for name, config in configs.items()}
    runs = [
        _Run(name, seed, config.as_dict() | {"seed": seed}, folders[name] / f"seed{seed}", by_step)
        for name, config in configs.items()
        for seed in seeds
    ]
    problems: list[str] = []
    if left := [run for run in runs if not run.tested]:
        given = take_slots(slots, pack, lambda: list(configs.values()))
        try:
            for name, config in configs.items():
                begin(folders[name], config)
                prepare_nodes(config.task, data_root, ship=ship_data)
                if config.task.elsewhere is not None:
                    prepare_nodes(config.task.elsewhere, ship=ship_data)
            with redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
                problems = _train(left, given)
        finally:
            stop_ray()
    tables = []
    for name, config in configs.items():
        own = [run for run in runs if run.name == name]
        if all(run.tested for run in own):
            metric = open_problem(config.task).metric
            table = FinalTable(name, config, metric, folders[name], [run.result() for run in own])
            write_atomically(table.folder / "table.json", json.dumps(table.as_dict(), indent=1))
            tables.append(table)
    return tables, problems


@dataclass(frozen=True)
class _Run:
    """One seed of a config and the folder that it works in."""

    name: str
    seed: int
    config: dict[str, Any]
    folder: AnyPath
    by_step: bool

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def tested(self) -> bool:
        return all(
            (self.folder / file).exists() for file in ["result.json", *([inner_steps.FILE] if self.by_step else [])]
        )

    def result(self) -> SeedResult:
        path = self.folder / "result.json"
        try:
            return SeedResult(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: not the result of a final run; without it the same command tests anew") from error


def _train(runs: list[_Run], slots: Slots) -> list[str]:
    """Train and test the runs; returns a sentence for each that came to nothing."""
    waiting, problems = list(runs), []
    options = {"num_cpus": slots.cpu, "num_gpus": slots.gpu}
    pending: dict[Any, tuple[_Run, Any, bool]] = {}  # what a worker computes to its run, the worker, if it is the test
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} outer steps"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        shown = {}
        while waiting or pending:
            while waiting and len(pending) < slots.count:
                run = waiting.pop(0)
                worker = _Seed.options(**options).remote(  # type: ignore[attr-defined]
                    run.config, str(run.folder), slots.gpu, slots.gpu_context
                )
                pending[worker.round.remote()] = (run, worker, False)
                shown[run.folder] = bars.add_task(str(run), total=run.config["budget"]["outer_steps"])
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            run, worker, tested = pending.pop(ready)
            try:
                answer = ray.get(ready)
            except StorageError as error:
                raise RunFailed(f"{last_line(error)}; what is trained is safe: the same command goes on") from error
            except ray.exceptions.RayActorError:
                problems.append(f"{run}: its worker died again and again; the same command goes on")
                continue
            if not tested and answer["note"]:
                console.print(f"{run}: {answer['note']}", highlight=False, soft_wrap=True)
            if not tested and not answer["diverged"]:
                bars.update(shown[run.folder], completed=answer["outer_steps"])
                step = worker.test.remote(run.by_step) if answer["done"] else worker.round.remote()
                pending[step] = (run, worker, answer["done"])
                continue
            ray.kill(worker)
            if not tested:
                problems.append(f"{run} diverged at {answer['outer_steps']} outer steps")
            elif not console.is_terminal:
                console.print(f"{run}: tested", highlight=False)
    return problems
