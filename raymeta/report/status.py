"""How far a study is, as `raymeta ls` and `raymeta status` tell it."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from raymeta.report.tables import (
    PLAIN,
    finalists_table,
    fresh,
    nothing_scored,
    rest,
    settings,
    validated,
    varying,
)
from raymeta.study.record.finalists import all_weights, missing, standings
from raymeta.study.record.record import StudyRecord

STATES = ("completed", "pruned", "diverged", "failed", "running", "waiting")


@dataclass(frozen=True)
class Status:
    """A study in short.

    Attributes:
        trials: how many there are of each state.
        driven: a process drives it right now.
        last_round: when its last round was noted, as local time; None: it has none.
        settled: all is over, the finalists' scores too.
        finalists: how many weights of the finalists are scored, and how many are to be.
        best: number of the best trial so far.
        score: of the best, by what decides: the finalists' scores, once there are some.
    """

    study: str
    method: str
    task: str
    planned: int
    trials: dict[str, int]
    driven: bool
    over: bool
    settled: bool
    finalists: tuple[int, int]
    last_round: str | None
    best: int | None
    score: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def state(self) -> str:
        """In a word."""
        return "running" if self.driven else "over" if self.settled else "left"

    @property
    def unscored(self) -> str:
        """What is missing before the best can be told from the lucky; "": nothing, or no trial is at its end."""
        scored, of = self.finalists
        return f"{scored} of {of} finalists' scores are there" if self.over and not self.settled else ""

    def __str__(self) -> str:
        if self.driven:
            return "a process drives it"
        if not self.settled:
            left = f"{self.unscored}; " if self.unscored else ""
            return f"{left}go on with: raymeta resume {self.study}"
        if self.best is None:
            return nothing_scored(self.study, self.trials)
        return f"it is over: raymeta export {self.study}"


def status_of(record: StudyRecord) -> Status:
    """How far a study is; nothing is locked or written."""
    trials, best, standing = record.trials(), record.best(), standings(record)
    scored = standing.of(best.number) if standing and best else None
    everything = all_weights(record) if record.over else []
    last = max((entry["at"] for trial in trials for entry in trial.rounds), default=None)
    return Status(
        study=record.name,
        method=record.plan.spec,
        task=record.plan.base.task.name,
        planned=record.plan.study.trials,
        trials={state: count for state in STATES if (count := sum(trial.state == state for trial in trials))},
        driven=record.driven,
        over=record.over,
        settled=record.over and (standing is not None or not everything),
        finalists=(len(everything) - len(missing(record)) if everything else 0, len(everything)),
        last_round=datetime.fromtimestamp(last).astimezone().isoformat(timespec="seconds") if last else None,
        best=best.number if best else None,
        score=fresh(scored, record.metric)
        if scored and scored.values
        else validated(best, record.metric)
        if best
        else "-",
    )


def status_table(record: StudyRecord) -> Group:
    """A row for each trial of a study, in the order of their numbers, and why trials failed; the finalists' scores."""
    best, standing, trials = record.best(), standings(record), record.trials()
    names = ["trial", "state", f"steps of {record.plan.base.budget.outer_steps}", f"validation {record.metric.name}"]
    table = Table(*(Column(name, no_wrap=True) for name in names), rest("settings"), **PLAIN)
    differing = varying(trials)
    for trial in trials:
        star = " *" if best and trial.number == best.number else ""
        table.add_row(
            f"{trial.number}{star}",
            trial.state,
            str(trial.outer_steps),
            validated(trial, record.metric),
            Text(settings(trial, differing)),
        )
    reasons = [Text(f"trial {trial.number} {trial.state}: {trial.reason}") for trial in trials if trial.reason]
    finalists = Group("", finalists_table(standing), standing.verdict) if standing else ""
    return Group(table, *reasons, finalists)
