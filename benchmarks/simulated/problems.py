"""What is recorded: problems small enough that hundreds of configs can be trained at full budget on a laptop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.stats import qmc

from raymeta.study.plan.param import Param, Point, Value
from raymeta.study.plan.plan import Plan, make_plan


@dataclass(frozen=True)
class TableProblem:
    """A problem of the table.

    Attributes:
        spec: of the composition that is searched.
        choose: regularizers to choose from, which are a key of the space.
        points: outer steps at which a training is validated: the rungs of ladders with reductions 2, 3 and 4.
        rows: configs.
        lanes: trainings of one structure as one program; 1: each by itself.
        fresh_tasks: validation tasks that no search has seen, for finalists.
        test_tasks: what a training is judged on.
    """

    spec: str
    task: str
    words: tuple[str, ...]
    points: tuple[int, ...]
    rows: int
    choose: str | None = None
    lanes: int = 1
    fresh_tasks: int = 200
    test_tasks: int = 400

    @cached_property
    def plan(self) -> Plan:
        """The study that the table stands for."""
        return self.study()

    def study(self, *more: str) -> Plan:
        """The same with more words on it; the number of its trials is no limit."""
        words = (*self.words, f"budget.outer_steps={self.points[-1]}", "study.trials=1000", *more)
        return make_plan(self.spec, self.task, words=words, choose=self.choose)

    def shorter(self, times: int) -> "TableProblem":
        """The same with so small a part of the full budget."""
        full = self.points[-1] // times
        return replace(self, points=(*(point for point in self.points if point < full), full))

    def configs(self, rows: int) -> list[Point]:
        """The first rows of the table: the space's starting points, then a scrambled Sobol sequence over its keys."""
        starts = self.plan.space.start_from[:rows]
        params = self.plan.space.params
        sobol = qmc.Sobol(len(params), seed=0)
        drawn = sobol.random(2 ** max(1, int(np.ceil(np.log2(max(rows, 2))))))
        return [*starts, *(point_at(params, unit) for unit in drawn[: rows - len(starts)])]


def point_at(params: dict[str, Param], unit: Sequence[float]) -> Point:
    """The point of a space at coordinates in 0..1, one for each key; keys whose condition fails are absent."""
    point: Point = {}
    for (key, param), u in zip(params.items(), unit, strict=True):
        if all(other in point and condition.holds(point[other]) for other, condition in param.when.items()):
            point[key] = value_at(param, float(u))
    return point


def value_at(param: Param, u: float) -> Value:
    """The value of a key at u in 0..1: choices have equal shares."""
    if param.choice is not None:
        return param.choice[min(int(u * len(param.choice)), len(param.choice) - 1)]
    low, high = param.float_ or param.int_ or (0.0, 0.0)
    value = float(np.exp(np.log(low) + u * np.log(high / low))) if param.log else low + u * (high - low)
    return param.nearest(value)


SEARCH_SEED, JUDGE_SEED = 0, 1000
"""Seeds of the training that a search sees and of the one that what it found is judged by."""

PROBLEMS = {
    "sinusoid": TableProblem(
        "maml+dropgrad",
        "sinusoid-5s",
        (
            "outer.tasks_per_step=4",
            "maml.order=first",
            "budget.validate_every=20",
            "budget.validation_tasks=100",
            "study.first_rung=20",
        ),
        (20, 40, 60, 80, 120, 160, 180, 240, 320, 480, 540),
        384,
        lanes=16,
    ),
    "glyphs": TableProblem(
        "maml",
        "glyphs-5w1s",
        (
            "model.width=16",
            "maml.inner_steps=2",
            "outer.tasks_per_step=2",
            "budget.validate_every=6",
            "budget.validation_tasks=30",
            "study.first_rung=6",
        ),
        (6, 12, 18, 24, 36, 48, 54, 72, 96, 144, 162),
        320,
        choose="none,dropgrad,dropout,metamix,taskaug",
        fresh_tasks=60,
        test_tasks=120,
    ),
    "omniglot": TableProblem(
        "maml",
        "omniglot-5w1s",
        (
            "model.width=16",
            "outer.tasks_per_step=2",
            "budget.validate_every=6",
            "budget.validation_tasks=30",
            "study.first_rung=6",
        ),
        (6, 12, 18, 24, 36, 48, 54, 72, 96, 144, 162),
        320,
        choose="none,dropgrad,dropout,metamix,taskaug",
        fresh_tasks=60,
        test_tasks=120,
    ),
}
