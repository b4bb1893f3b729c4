"""How far a study is, as `raymeta ls` and `raymeta status` tell it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from raymeta.report.tables import settings, validated
from raymeta.study.record.record import StudyRecord

STATES = ("completed", "pruned", "diverged", "failed", "running")


@dataclass(frozen=True)
class Status:
    """A study in short.

    Attributes:
        trials: how many there are of each state.
        driven: a process drives it right now.
        last_round: when its last round was noted, as local time; None: it has none.
        best: number of the best trial so far.
    """

    study: str
    method: str
    task: str
    planned: int
    trials: dict[str, int]
    driven: bool
    over: bool
    last_round: str | None
    best: int | None
    score: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def state(self) -> str:
        """In a word."""
        return "running" if self.driven else "over" if self.over else "left"

    def __str__(self) -> str:
        if self.driven:
            return "a process drives it"
        return f"it is over: raymeta export {self.study}" if self.over else f"go on with: raymeta resume {self.study}"


def status_of(record: StudyRecord) -> Status:
    """How far a study is; nothing is locked or written."""
    trials, best = record.trials(), record.best()
    last = max((entry["at"] for trial in trials for entry in trial.rounds), default=None)
    return Status(
        study=record.name,
        method=record.plan.spec,
        task=record.plan.base.task.name,
        planned=record.plan.study.trials,
        trials={state: count for state in STATES if (count := sum(trial.state == state for trial in trials))},
        driven=record.driven,
        over=record.over,
        last_round=datetime.fromtimestamp(last).astimezone().isoformat(timespec="seconds") if last else None,
        best=best.number if best else None,
        score=validated(best, record.metric) if best else "-",
    )


def ls_table(rows: Sequence[Status]) -> Table:
    """A row for each study."""
    table = Table("study", "method", "task", "state", "trials", "best", "last round", box=None, pad_edge=False)
    for row in rows:
        ended = sum(count for state, count in row.trials.items() if state != "running")
        best = f"{row.score} (trial {row.best})" if row.best is not None else "-"
        table.add_row(row.study, row.method, row.task, row.state, f"{ended}/{row.planned}", best, row.last_round or "-")
    return table


def status_table(record: StudyRecord) -> Table:
    """A row for each trial of a study, in the order of their numbers."""
    best = record.best()
    table = Table("trial", "state", "steps", f"validation {record.metric.name}", "settings", box=None, pad_edge=False)
    for trial in record.trials():
        star = " *" if best and trial.number == best.number else ""
        reason = f": {trial.reason}" if trial.reason else ""
        steps = f"{trial.outer_steps}/{record.plan.base.budget.outer_steps}"
        table.add_row(
            f"{trial.number}{star}",
            Text(trial.state + reason),
            steps,
            validated(trial, record.metric),
            Text(settings(trial)),
        )
    return table
