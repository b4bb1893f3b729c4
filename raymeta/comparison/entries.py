"""What is compared: a config's score of every task, from a final run or from a finalist of a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymeta import registry
from raymeta.comparison.statistics import Array
from raymeta.config import TaskConfig, TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.finals.folders import config_in, data_of
from raymeta.finals.results import RESULT, FinalTable, SeedResult, read_result
from raymeta.metric import Metric, half_width
from raymeta.schema import flatten
from raymeta.storage.places import AnyPath
from raymeta.study.record.finalists import Finalist, Standings, standings
from raymeta.study.record.record import StudyRecord

TEST, FRESH = "test", "fresh validation"


@dataclass(frozen=True)
class Entry:
    """A config with its scores.

    Attributes:
        name: what tables call it.
        method: with its regularizers.
        task: the config's task section.
        kind: of which tasks the scores are: `test` or `fresh validation`.
        bank_seed: of those tasks.
        fingerprint: of the data they are drawn from; "": not known.
        outer_steps: of training.
        scores: [seeds, tasks].
    """

    name: str
    method: str
    metric: Metric
    task: TaskConfig
    kind: str
    bank_seed: int
    fingerprint: str
    outer_steps: int
    scores: Array

    @property
    def seeds(self) -> int:
        """Trainings."""
        return len(self.scores)

    @property
    def tasks(self) -> int:
        """Tasks."""
        return int(self.scores.shape[1])

    @property
    def mean(self) -> float:
        """Mean over seeds and tasks."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of its 95 % interval over tasks, as `raymeta final` has it."""
        return half_width(self.scores.mean(0).tolist())

    @property
    def sd_seeds(self) -> float | None:
        """Standard deviation of the seeds' means; None for a single seed."""
        return float(self.scores.mean(1).std(ddof=1)) if self.seeds > 1 else None


def other_tasks(a: Entry, b: Entry) -> str:
    """Why the scores of two are not of the same tasks; "": they are."""
    if a.metric != b.metric:
        return f"{a.name} is scored by {a.metric.name}, {b.name} by {b.metric.name}"
    if a.kind != b.kind:
        return f"{a.name} has scores of {a.kind} tasks, {b.name} of {b.kind} tasks"
    mine, theirs = (flatten({"task": one.task.of_evaluation(one.kind == TEST)}) for one in (a, b))
    for key in dict.fromkeys([*mine, *theirs]):
        if mine.get(key) != theirs.get(key):
            return f"{key} is {_plain(mine.get(key))} for {a.name} and {_plain(theirs.get(key))} for {b.name}"
    if a.bank_seed != b.bank_seed:
        return f"the tasks of {a.name} have the bank seed {a.bank_seed}, those of {b.name} {b.bank_seed}"
    if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
        return f"the data of {a.name} have the fingerprint {a.fingerprint[:12]}, those of {b.name} {b.fingerprint[:12]}"
    return ""


def other_budget(a: Entry, b: Entry) -> str:
    """Why two had not as much training; "": they had."""
    if a.outer_steps == b.outer_steps:
        return ""
    return f"{a.name} was trained {a.outer_steps} outer steps and {b.name} {b.outer_steps}"


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)


def of_final_run(name: str, folder: AnyPath) -> Entry:
    """All seeds of a final run that have been tested.

    Raises:
        UserError: none has, or a result is damaged.
    """
    results = sorted((path.parent for path in folder.glob(f"seed*/{RESULT}")), key=str)
    found = config_in(folder)
    if not results or found is None:
        raise UserError(f"{folder}: no seed of this final run has been tested")
    return _tested(name, parse_trial(found, str(folder)), data_of(folder), [read_result(one) for one in results])


def of_table(table: FinalTable) -> Entry:
    """The same of what `raymeta.final` gives."""
    return _tested(table.name, table.config, data_of(table.folder), table.seeds)


def _tested(name: str, config: TrialConfig, fingerprint: str, seeds: Sequence[SeedResult]) -> Entry:
    if len({len(one.values) for one in seeds}) > 1 or not seeds[0].values:
        raise UserError(f"{name}: its seeds were not tested on the same tasks")
    metric = registry.find("problem", config.task.problem).metric
    return Entry(
        name=name,
        method=config.spec,
        metric=metric,
        task=config.task,
        kind=TEST,
        bank_seed=config.task.bank_seed,
        fingerprint=fingerprint,
        outer_steps=config.budget.outer_steps,
        scores=np.array([one.values for one in seeds]),
    )


def of_trial(name: str, record: StudyRecord, number: int | None) -> Entry:
    """A finalist of a study; None: the best.

    Raises:
        UserError: it has no score of every task: the search keeps means only, and only finalists have more.
    """
    standing = _standings(record)
    one = standing.best if number is None else standing.of(record.trial(number).number)
    scored = ", ".join(str(other.trial.number) for other in standing.finalists if other.values)
    if one is None or not one.values:
        who = "its best" if number is None else f"trial {number}"
        why = f" ({one.reason})" if one is not None and one.reason else ""
        raise UserError(
            f"{record.name}: {who} has no scores on fresh tasks{why}, and of the search's own only means are kept; "
            f"trials that have: {scored or 'none'}"
        )
    return _scored(name, record, standing, one)


def of_finalists(record: StudyRecord) -> list[Entry]:
    """The finalists of a study that had as much training as its best, the best first.

    Raises:
        UserError: they are not all scored yet.
    """
    standing = _standings(record)
    return [
        _scored(f"{record.name}:{one.trial.number}", record, standing, one)
        for one in standing.finalists
        if one.equal and one.values
    ]


def _standings(record: StudyRecord) -> Standings:
    standing = standings(record)
    if standing is None:
        left = f"`raymeta resume {record.name}` scores them" if record.plan.study.finalists else "study.finalists is 0"
        raise UserError(f"{record.name}: its finalists have no scores on fresh tasks yet: {left}")
    return standing


def _scored(name: str, record: StudyRecord, standing: Standings, one: Finalist) -> Entry:
    base, config = record.plan.base, record.config(one.trial)
    return Entry(
        name=name,
        method=config.spec,
        metric=record.metric,
        task=base.task,
        kind=FRESH,
        bank_seed=standing.bank_seed,
        fingerprint=str(record.about["data"]["fingerprint"]),
        outer_steps=base.budget.outer_steps if one.retrained else one.trial.outer_steps,
        scores=np.array(one.retrained or [one.own]),
    )
