"""The results of final runs: a seed's, and a config's over all its seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, TypeVar

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.metric import Metric, half_width
from raymeta.problem import open_problem
from raymeta.storage.places import AnyPath
from raymeta.study.plan.tables import Figure, Row

T = TypeVar("T")
RESULT, BY_STEP, TABLE = "result.json", "steps.json", "table.json"


@dataclass(frozen=True)
class SeedResult:
    """A seed's test score.

    Attributes:
        values: the score of every test task; the same tasks for all seeds.
        ensemble: mean score of the ensemble of the best validated weights, over the same tasks.
        ensemble_ci95: its half-width over them.
        selected_at: outer steps of the weights that were tested, the best on validation.
        rounds: the metrics of every round of its training.
        also: other scores of the test by name, means over its tasks.
        kernels: what its network ran on in the test, torch's operations or raymeta's own; "": it was not noted yet.
    """

    seed: int
    values: list[float]
    ensemble: float
    ensemble_ci95: float
    val: float
    val_ci95: float
    selected_at: int
    rounds: list[dict[str, Any]]
    also: dict[str, float] = field(default_factory=dict)
    kernels: str = ""

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


def best_on_validation(scores: Mapping[T, float], metric: Metric) -> T:
    """Of a final run's seeds, with their validation scores, the best one; the test score chooses nothing."""
    best = next(iter(scores))
    for one, score in scores.items():
        best = one if metric.better(score, scores[best]) else best
    return best


@dataclass(frozen=True)
class Origin:
    """Which row of a paper's table a config is, and by which keys it is none.

    Attributes:
        changed: the keys that have other values than the row's, but for those that `--scale` sets.
    """

    row: Row
    changed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the figure: whether it may be shown depends on the run."""
        return {
            "name": self.row.name,
            "source": self.row.source,
            "differs": list(self.row.differs),
            "changed": list(self.changed),
        }


@dataclass(frozen=True)
class FinalTable:
    """A table's row: every seed of a config, and all of them together.

    Attributes:
        origin: the row of a paper's table that it is; None: it is none.
    """

    name: str
    config: TrialConfig
    metric: Metric
    folder: AnyPath
    seeds: list[SeedResult]
    origin: Origin | None = None

    @property
    def shortened(self) -> str:
        """`shortened to 5 % of its preset's outer steps`; "": it is not."""
        scale = self.config.budget.scale
        return "" if scale == 1 else f"shortened to {100 * scale:g} % of its preset's outer steps"

    @property
    def published(self) -> Figure | None:
        """The figure that a table may show beside this: of a row that was run as it is, unchanged and whole."""
        if self.origin is None or self.origin.changed or self.shortened:
            return None
        return self.origin.row.figure

    @property
    def mean(self) -> float:
        """Mean over seeds and tasks."""
        return _pooled([result.values for result in self.seeds])[0]

    @property
    def ci95(self) -> float:
        """Half-width over tasks, each task's score averaged over the seeds."""
        return _pooled([result.values for result in self.seeds])[1]

    def parts(self) -> dict[str, tuple[float, float]]:
        """Mean and half-width as `mean` and `ci95`, of each part of a benchmark that has several; {}: it has none."""
        names = open_problem(self.config.task).parts(len(self.seeds[0].values)) or []
        return {
            part: _pooled(
                [[v for v, name in zip(seed.values, names, strict=True) if name == part] for seed in self.seeds]
            )
            for part in dict.fromkeys(names)
        }

    @property
    def also(self) -> dict[str, float]:
        """Other scores of the test by name, means over seeds."""
        names = self.seeds[0].also
        return {name: statistics.fmean(result.also[name] for result in self.seeds) for name in names}

    @property
    def ensemble(self) -> float:
        """Mean over seeds of each seed's ensemble."""
        return statistics.fmean(result.ensemble for result in self.seeds)

    @property
    def chosen(self) -> SeedResult:
        """The seed that is best on validation: the test score chooses nothing."""
        scores = {place: result.val for place, result in enumerate(self.seeds)}
        return self.seeds[best_on_validation(scores, self.metric)]

    @property
    def sd_seeds(self) -> float | None:
        """Standard deviation of the seeds' means; None for a single seed."""
        return statistics.stdev(result.mean for result in self.seeds) if len(self.seeds) > 1 else None

    def by_step(self) -> dict[str, list[tuple[float, float]]]:
        """Scores on `training` and on `test` tasks before and after every inner step, of runs that have them.

        Each is a mean and the half-width of its 95 % interval, as `mean` and `ci95` are of the test.
        """
        seeds = [json.loads((self.folder / f"seed{one.seed}" / BY_STEP).read_text()) for one in self.seeds]
        return {
            tasks: [_pooled(step) for step in zip(*(found[tasks] for found in seeds), strict=True)]
            for tasks in seeds[0]
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what `table.json` holds and `--json` prints."""
        parts = {name: {"mean": mean, "ci95": ci95} for name, (mean, ci95) in self.parts().items()}
        return {
            "method": self.config.spec,
            "task": self.config.task.model_dump(),
            "metric": f"test_{self.metric.name}",
            "norm": getattr(self.config.model, "norm", "none"),
            "mean": self.mean,
            "ci95": self.ci95,
            "sd_seeds": self.sd_seeds,
            **{f"test_{name}": value for name, value in self.also.items()},
            "ensemble": self.ensemble,
            "ensemble_of": self.config.budget.ensemble,
            **({"parts": parts} if parts else {}),
            "test_tasks": self.config.budget.test_tasks,
            "outer_steps": self.config.budget.outer_steps,
            "scale": self.config.budget.scale,
            "shortened": self.shortened,
            "preset": self.origin.as_dict() if self.origin else None,
            "published": self.published.as_dict() if self.published else None,
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
                    "kernels": result.kernels,
                    **{f"test_{name}": value for name, value in result.also.items()},
                }
                for result in self.seeds
            ],
            "folder": str(self.folder),
        }


def _pooled(seeds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The mean over seeds and tasks, and its interval over tasks; the seeds have the same tasks."""
    scores = [statistics.fmean(of_task) for of_task in zip(*seeds, strict=True)]
    return statistics.fmean(scores), half_width(scores) if len(scores) > 1 else nan


def read_result(folder: AnyPath) -> SeedResult:
    """What a seed's folder holds.

    Raises:
        UserError: it is not a result.
    """
    path = folder / RESULT
    try:
        return SeedResult(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the result of a final run; without it the same command tests anew") from error
