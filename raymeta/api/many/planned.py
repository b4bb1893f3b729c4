"""What a study of methods is before it starts: a search for every method and task, alike enough to be compared."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raymeta.api.finals import seed_numbers
from raymeta.api.studies import Study
from raymeta.config import TrialConfig, split_settings, split_spec
from raymeta.errors import UserError
from raymeta.report.shown import Shown
from raymeta.storage.files import studies_folder
from raymeta.study.plan.plan import Plan, make_plan
from raymeta.study.plan.space import AUTHORS, NONE
from raymeta.study.plan.words import Given, Overrides
from raymeta.study.record.folder import check_name
from raymeta.study.record.home import open_study
from raymeta.study.record.record import StudyRecord


@dataclass(frozen=True)
class Cell:
    """A method on a task: one search, and two configs to be trained.

    Attributes:
        method: as the user wrote it.
        study: name of its study.
        given: overrides that concern it.
    """

    method: str
    task: str
    study: str
    given: Given
    plan: Plan

    @property
    def authors(self) -> TrialConfig:
        """The config at the authors' setting, as far as the overrides let it."""
        return self.plan.config(self.plan.space.start_from[0])

    @property
    def record(self) -> StudyRecord | None:
        """Its study; None: it is not there yet.

        Raises:
            UserError: there is a study of that name that was planned otherwise.
        """
        if not (studies_folder() / self.study / "study.yaml").is_file():
            return None
        record = open_study(self.study)
        if difference := _otherwise(record.plan, self.plan):
            key, there, wanted = difference
            raise UserError(
                f"the study '{self.study}' was planned with {key} {there}, and {wanted} is asked for: "
                "choose another --name"
            )
        return record


@dataclass(frozen=True)
class MethodsPlan(Shown):
    """What a study of methods would do; `preview` of it says so and starts nothing."""

    name: str
    cells: Sequence[Cell]
    seeds: Sequence[int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [
            {
                "task": cell.plan.base.task.title, "method": cell.method, "study": cell.study, "state": _state(cell),
                "trials": cell.plan.study.trials, "keys": len(cell.plan.space.params),
                "outer_steps": cell.plan.usual_steps(),
            }
            for cell in self.cells
        ]  # fmt: skip
        final_steps = 2 * len(self.seeds) * sum(cell.plan.base.budget.outer_steps for cell in self.cells)
        return {"name": self.name, "searches": rows, "seeds": [*self.seeds], "final_outer_steps": final_steps}

    def __rich__(self) -> RenderableType:
        data = self.as_dict()
        rows = data["searches"]
        table = Table(*("outer steps, about" if key == "outer_steps" else key for key in rows[0]))
        for row in rows:
            table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else cell) for cell in row.values()))
        left = sum(row["outer_steps"] for row in rows if row["state"] != "searched")
        return Group(
            table,
            f"searches: about {left:,} outer steps are left",
            f"final runs: at most {data['final_outer_steps']:,} outer steps, tuned and at the authors' setting with "
            f"{len(self.seeds)} seeds each",
        )


def methods_plan(
    methods: str | Sequence[str],
    tasks: str | Sequence[str],
    *,
    regularizers: str | Sequence[str] | None = None,
    name: str = "methods",
    trials: int | None = None,
    seeds: int | Sequence[int] = 3,
    overrides: Overrides = None,
    preset: str | Path | None = None,
) -> MethodsPlan:
    """What `study_of_methods` with these arguments would do.

    Raises:
        UserError: see there.
    """
    check_name(name)
    specs, given = _specs(_listed(methods), regularizers), Given.of(overrides)
    words = [*given.words, *([f"study.trials={trials}"] if trials is not None else [])]
    cells = []
    for task in _each_once("tasks", _listed(tasks)):
        for spec in specs:
            own = _concerning(Given(words, given.values), spec, specs)
            plan = make_plan(spec, task, preset, own.words, overrides=own.values)
            if plan.space.labels[:1] != [AUTHORS]:
                raise UserError(f"{spec}: it has no authors' setting among its starting points to compare with")
            study = re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{name}-{spec}-{plan.base.task.name}")
            check_name(study)
            cells.append(Cell(spec, task, study, own, plan))
    _refuse_incomparable(cells)
    for cell in cells:
        _ = cell.record  # another study of that name is refused before anything starts
    return MethodsPlan(name, cells, seed_numbers(seeds))


def _specs(methods: Sequence[str], regularizers: str | Sequence[str] | None) -> list[str]:
    """Each method with each regularizer."""
    added = _listed(regularizers) if regularizers is not None else [NONE]
    specs = [method if one == NONE else f"{method}+{one}" for method in methods for one in added]
    for spec in _each_once("methods", specs):
        split_spec(split_settings(spec)[0])
    return specs


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else [*names]


def _each_once(what: str, names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise UserError(f"{what}: found none: expected one or more")
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise UserError(f"{what}: found {twice} twice")
    return names


def _concerning(given: Given, spec: str, specs: Sequence[str]) -> Given:
    """Overrides without what stands in the sections of other methods and regularizers of the study."""
    sections = [{method, *(f"regularizers.{name}" for name in names)} for method, names in map(_parts, [spec, *specs])]
    others = tuple(f"{name}." for name in set().union(*sections) - sections[0])
    return Given(
        [word for word in given.words if not word.startswith(others)],
        {key: value for key, value in given.values.items() if not key.startswith(others)},
    )


def _parts(spec: str) -> tuple[str, tuple[str, ...]]:
    return split_spec(split_settings(spec)[0])


def _refuse_incomparable(cells: Sequence[Cell]) -> None:
    """Methods that would be tested on other tasks than the first, or trained for another budget."""
    first: dict[str, Cell] = {}
    for cell in cells:
        one = first.setdefault(cell.task, cell)
        for what, of in _COMPARED.items():
            if of(one.plan) != of(cell.plan):
                raise UserError(
                    f"{cell.task}: {what} is {of(one.plan)} for {one.method} and {of(cell.plan)} for {cell.method}: "
                    "expected the same for all methods"
                )
    twice = [cell.study for cell in cells]
    if again := next((name for name in twice if twice.count(name) > 1), None):
        raise UserError(f"two methods or tasks would have the same study '{again}': leave one out")


_COMPARED: dict[str, Callable[[Plan], Any]] = {
    "budget.outer_steps": lambda plan: plan.base.budget.outer_steps,
    "budget.test_tasks": lambda plan: plan.base.budget.test_tasks,
    "study.trials": lambda plan: plan.study.trials,
    "the rungs": lambda plan: plan.rungs,
    "task": lambda plan: plan.base.task.of_evaluation(True),
}


def _otherwise(there: Plan, wanted: Plan) -> tuple[str, Any, Any] | None:
    """The first key by which two plans differ, but for where data and kernels are found; None: they don't."""
    mine, theirs = ({**plan.base.flat(), **_study(plan)} for plan in (wanted, there))
    free = ("engine.kernels", "task.source", "study.also")
    for key in dict.fromkeys([*theirs, *mine]):
        if key not in free and theirs.get(key) != mine.get(key):
            return key, theirs.get(key), mine.get(key)
    if there.space.hash != wanted.space.hash or there.space.start_from != wanted.space.start_from:
        return "the search space", there.space.hash, wanted.space.hash
    return None


def _study(plan: Plan) -> dict[str, Any]:
    return {f"study.{key}": value for key, value in plan.study.model_dump(mode="json").items()}


def _state(cell: Cell) -> str:
    record = cell.record
    return "new" if record is None else "searched" if Study(record).settled else "begun"
