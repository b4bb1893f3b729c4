"""Trainings of the table: whole learning curves, a validation score for every task."""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from raymeta.config import TrialConfig
from raymeta.engine.lanes import own
from raymeta.problem import Bank
from raymeta.study.plan.param import Point
from raymeta.training.lanes import Lanes, lane_structure, whole_width
from raymeta.training.trainer import Trainer
from simulated.problems import TableProblem

FRESH_BANK = 77_001


class Curve:
    """A training under way.

    Attributes:
        scores: of the validation tasks at each point so far, [tasks]; not finite once it has diverged.
        seconds: of processor time that outer steps had taken at each point.
        validating: seconds of each validation.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.scores: list[np.ndarray] = []
        self.seconds: list[float] = []
        self.validating: list[float] = []
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None

    def validate(self, seconds: float) -> None:
        """Score the present weights, after so many seconds of outer steps, and keep them if they are the best."""
        start, trainer = time.process_time(), self.trainer
        bank = trainer.problem.bank("validation", trainer.config.task.bank_seed)
        values = trainer.evaluate(bank, trainer.config.budget.validation_tasks).values.numpy()
        self.scores.append(values.astype(np.float32))
        self.seconds.append(seconds)
        self.validating.append(time.process_time() - start)
        mean = float(values.mean())
        if trainer.metric.better(mean, self._best[0] if self._best else None):
            self._best = mean, own(trainer.learner.state_dict())

    def on_fresh(self, problem: TableProblem) -> np.ndarray:
        """Scores of the best weights on fresh validation tasks."""
        return self._scored(self.trainer.problem.bank("validation", FRESH_BANK), problem.fresh_tasks)

    def on_test(self, problem: TableProblem) -> np.ndarray:
        """Their scores on test tasks."""
        bank_seed = self.trainer.config.task.bank_seed
        return self._scored(self.trainer.problem.bank("test", bank_seed, final=True), problem.test_tasks)

    def _scored(self, bank: Bank, tasks: int) -> np.ndarray:
        """Of the best weights; all NaN if there are none."""
        if self._best is None:
            return np.full(tasks, np.nan, np.float32)
        found: np.ndarray = self.trainer.evaluate(bank, tasks, [self._best[1]]).values.numpy().astype(np.float32)
        return found


def train(problem: TableProblem, points: Sequence[Point], seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Train configs of one structure with a seed, as lanes if there are several.

    Yields:
        For each config what a search may read: `point` and `config` (JSON), `steps` [P], `validation` [P, tasks],
        `seconds` and `validating` [P], `fresh` [tasks]; and apart from it what only its judge reads: `test` [tasks].
    """
    for chosen, curve in zip(points, curves_of(problem, points, seed), strict=True):
        yield (
            {
                "point": np.array(json.dumps(chosen)),
                "config": np.array(json.dumps(curve.trainer.config.as_dict())),
                "steps": np.array(problem.points),
                "validation": np.stack(curve.scores),
                "seconds": np.array(curve.seconds),
                "validating": np.array(curve.validating),
                "fresh": curve.on_fresh(problem),
            },
            {"test": curve.on_test(problem)},
        )


def curves_of(problem: TableProblem, points: Sequence[Point], seed: int) -> list[Curve]:
    """Configs of one structure trained with a seed, as lanes if there are several."""
    configs = [problem.plan.config(point).model_copy(update={"seed": seed}) for point in points]
    curves = [Curve(Trainer(config)) for config in configs]
    trainers = [curve.trainer for curve in curves]
    lanes = None
    if len(trainers) > 1:
        lanes = Lanes(trainers[0], whole_width(len(trainers), configs[0].outer.tasks_per_step))
        for trainer in trainers:
            lanes.join(trainer)
    seconds, done = 0.0, 0
    for point in problem.points:
        start = time.process_time()
        for _ in range(done, point):
            if lanes:
                lanes.step(range(len(trainers)))
            elif not trainers[0].outer_update().isfinite():
                break
        seconds, done = seconds + (time.process_time() - start) / len(trainers), point
        for curve in curves:
            curve.validate(seconds)
    return curves


def groups(problem: TableProblem, points: Sequence[Point], wanted: Sequence[int]) -> list[list[int]]:
    """Rows that are trained together: up to as many as the problem has lanes, of one structure.

    The structures take turns, so that a table that is not whole yet has rows of all.
    """
    if problem.lanes == 1:
        return [[row] for row in wanted]
    of_structure: dict[Any, list[int]] = {}
    for row in wanted:
        config: TrialConfig = problem.plan.config(points[row])
        of_structure.setdefault(lane_structure(config), []).append(row)
    size = problem.lanes
    chunks = [[rows[at : at + size] for at in range(0, len(rows), size)] for rows in of_structure.values()]
    return [few for turn in zip_longest(*chunks) for few in turn if few]
