"""What there is to see of a study or of final runs while they run, from the record and from what their driver says."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from rich.table import Column, Table
from rich.text import Text

from raymeta.report.style import STATES
from raymeta.report.tables import PLAIN, rest, settings, validated, varying
from raymeta.study.record.pulse import Beat
from raymeta.study.record.record import StudyRecord

ROWS = 12  # the best of the finished trials; running ones are always shown
AT_WORK = ("waiting", "running")


class View(ABC):
    """A table, a line below it, and what has ended, which is a line each where there is no terminal."""

    @abstractmethod
    def table(self) -> Table:
        """A row for each thing that is at work or was."""

    @abstractmethod
    def summary(self, left_s: float | None) -> str:
        """How far it all is.

        Args:
            left_s: seconds that the driver expects it to take; None: it can't say yet.
        """

    @abstractmethod
    def ended(self) -> Iterable[tuple[str, str]]:
        """What has ended: a name that tells it from the others, and a line on it."""


class TrialsView(View):
    """A study while its trials run."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    def table(self) -> Table:
        """The trials that run, and the best of the others."""
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        running = [trial for trial in trials if trial.state == "running"]
        others = sorted((t for t in trials if t.state != "running"), key=lambda t: t.outer_steps, reverse=True)[:ROWS]
        budget, shown = self.record.plan.base.budget.outer_steps, [*running, *others]
        figures = [f"steps of {budget}", f"validation {self.record.metric.name}"]
        table, differing = _table("trial", *figures, last=rest("settings")), varying(shown)
        for trial in shown:
            star = " *" if best and trial.number == best.number else ""
            table.add_row(
                f"{trial.number}{star}",
                Text(trial.state, STATES[trial.state]),
                str(trial.outer_steps),
                validated(trial, self.record.metric),
                Text(settings(trial, differing)),  # a label in brackets is no markup
            )
        return table

    def summary(self, left_s: float | None) -> str:
        """How many trials have ended, or have begun where some wait; the best, the time that is left."""
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        ended = sum(trial.ended for trial in trials)
        text = f"{ended}/{self.record.plan.study.trials} trials ended"
        if waiting := sum(trial.state == "waiting" for trial in trials):
            text = f"{len(trials)}/{self.record.plan.study.trials} trials begun, {waiting} wait at a rung"
        if best:
            text += f", best {validated(best, self.record.metric)} (trial {best.number})"
        return text if ended >= self.record.plan.study.trials else text + _left(left_s)

    def ended(self) -> Iterator[tuple[str, str]]:
        """Trials that have, or wait at a rung: one that waited there and never went on is not said twice."""
        for trial in self.record.trials():
            if trial.state != "running":
                reason = f" ({trial.reason})" if trial.reason else ""
                score, state = validated(trial, self.record.metric), trial.state.replace("waiting", "waits")
                yield (
                    f"trial {trial.number} at {trial.outer_steps}",
                    f"trial {trial.number:>3} {state} at {trial.outer_steps} steps: {score}{reason}",
                )


class JobsView(View):
    """The jobs of a pool: finalists, or final runs, as their driver tells of them."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat

    def table(self) -> Table:
        """All jobs, in their order."""
        table, jobs = _table("run", "steps", self.beat.figure), self.beat.jobs
        if len(jobs) > 2 * ROWS:  # those that run, then what is next
            jobs = sorted(jobs, key=lambda job: (job.state != "running", job.state != "waiting"))[: 2 * ROWS]
        for job in jobs:
            steps = f"{job.steps}/{job.of}" if job.of else "-"
            table.add_row(Text(job.name), Text(job.state, STATES.get(job.state, "")), steps, job.score)
        return table

    def summary(self, left_s: float | None) -> str:
        """Jobs done, the time that is left."""
        jobs, ended = self.beat.jobs, sum(1 for _ in self.ended())
        text = f"{ended}/{len(jobs)} {self.beat.what}"
        return text if ended == len(jobs) else text + _left(left_s)

    def ended(self) -> Iterator[tuple[str, str]]:
        """Jobs that have."""
        for job in self.beat.jobs:
            if job.state not in AT_WORK:
                steps = f" at {job.steps} steps" if job.steps else ""
                yield job.name, f"{job.name} {job.state}{steps}: {job.score}"


def clock(started: float) -> str:
    """The time since a command began, in brackets; "": it is not known."""
    return f"[{span(max(time.time() - started, 0.0))}] " if started else ""


def span(seconds: float) -> str:
    """`03:20`, or `1:03:20` from an hour on; days are hours."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest_s:02d}" if hours else f"{minutes:02d}:{rest_s:02d}"


def _left(seconds: float | None) -> str:
    return ", no estimate yet" if seconds is None else f", about {span(seconds)} left"


def _table(what: str, *figures: str, last: Column | None = None) -> Table:
    """A table without lines: what it is, its state, then columns of figures."""
    columns = [Column(name, justify="right", no_wrap=True) for name in figures]
    ends = [last] if last is not None else []
    first = Column(what, justify="right", no_wrap=True)
    return Table(first, Column("state", no_wrap=True), *columns, *ends, **PLAIN | {"expand": last is not None})
