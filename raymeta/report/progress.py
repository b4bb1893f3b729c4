"""What is shown while slots work: a live table; where there is no terminal, a line whenever something ends."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from raymeta.report.style import STATES
from raymeta.report.tables import PLAIN, rest, settings, validated, value, varying
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord, TrialRecord

if TYPE_CHECKING:
    from raymeta.study.machines.pool import Entry, Pool

PRIOR_TRIALS = 6  # how many ended trials the planned mean length counts for in the estimate
ROWS = 12  # the best of the finished trials; running ones are always shown


class Display(ABC):
    """Shows what the slots of a session do, as a context manager inside which the session speaks through it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.console = Console(stderr=True, quiet=session.quiet)
        self.message = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._said_by, self.session.say = self.session.say, self.say
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        self.session.say = self._said_by

    def say(self, message: str) -> None:
        """Tell the user something; it stays in view."""
        self.message = message
        if not self._live:
            self.console.print(f"{self.clock} {message}", highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Something ended: a line where no table shows it."""
        if not (self._live or self.console.quiet):
            self.console.print(f"{self.clock} {text} | {self.summary()}", highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """The table as it stands."""
        return Group(self.table(), Text(f"{self.clock} {self.summary()}", "bold"), Text(self.message, "yellow"))

    @property
    def clock(self) -> str:
        """The time since the command began."""
        return f"[{span(self.session.wall_s)}]"

    @abstractmethod
    def table(self) -> Table:
        """A row for each thing that is at work or was."""

    @abstractmethod
    def summary(self) -> str:
        """How far it all is."""


class Progress(Display):
    """Shows a study while its trials run."""

    def __init__(self, record: StudyRecord, session: Session) -> None:
        super().__init__(session)
        self.record = record
        self._steps_before = sum(trial.outer_steps for trial in record.trials())

    def ended(self, trial: TrialRecord) -> None:
        """A trial ended."""
        reason = f" ({trial.reason})" if trial.reason else ""
        self.line(
            f"trial {trial.number:>3} {trial.state} at {trial.outer_steps} steps: "
            f"{validated(trial, self.record.metric)}{reason}"
        )

    def table(self) -> Table:
        """The trials that run, and the best of those that have ended."""
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        running = [trial for trial in trials if trial.state == "running"]
        ended = sorted((t for t in trials if t.state != "running"), key=lambda t: t.outer_steps, reverse=True)[:ROWS]
        budget, shown = self.record.plan.base.budget.outer_steps, [*running, *ended]
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

    def summary(self) -> str:
        """Trials ended, the best, the time that is left."""
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        ended = sum(trial.state != "running" for trial in trials)
        text = f"{ended}/{self.record.plan.study.trials} trials ended"
        if best:
            text += f", best {validated(best, self.record.metric)} (trial {best.number})"
        left = self.left_s(trials)
        return text + (", no estimate yet" if left is None else f", about {span(left)} left")

    def left_s(self, trials: Sequence[TrialRecord]) -> float | None:
        """Seconds that are left by the pace of this session; None: nothing is known yet.

        A trial that runs is expected to pass each rung before it as one in `reduction` does. One that is to come is as
        long as planned, corrected by those that ended.
        """
        plan = self.record.plan
        done = sum(trial.outer_steps for trial in trials) - self._steps_before
        if done <= 0:
            return None
        ended = [trial.outer_steps for trial in trials if trial.state != "running"]
        planned = plan.usual_steps() / plan.study.trials
        mean = (sum(ended) + PRIOR_TRIALS * planned) / (len(ended) + PRIOR_TRIALS)
        running = [plan.expected_steps(trial.outer_steps) for trial in trials if trial.state == "running"]
        slots = self.session.slots.count if self.session.slots else 1
        left = sum(running) + mean * max(plan.study.trials - len(trials), 0)
        return max([left / slots, *running]) * slots * self.session.wall_s / done


class Jobs(Display):
    """Shows the jobs of a pool: finalists, or final runs.

    Args:
        what: has become of those that are done: `5 of 6 final runs tested`.
    """

    def __init__(self, pool: "Pool", session: Session, what: str) -> None:
        super().__init__(session)
        self.pool, self.what = pool, what

    def ended(self, entry: "Entry") -> None:
        """A job ended."""
        report = entry.report
        steps = f" at {report.steps} steps" if report.steps else ""
        self.line(f"{entry.job} {entry.state}{steps}: {_best(entry)}")

    def table(self) -> Table:
        """All jobs, in their order."""
        metrics = {entry.job.metric.name for entry in self.pool.entries}
        table = _table("run", "steps", *(["validation " + metrics.pop()] if len(metrics) == 1 else ["validation"]))
        entries = self.pool.entries
        if len(entries) > 2 * ROWS:  # those that run, then what is next
            entries = sorted(entries, key=lambda entry: (entry.state != "running", entry.state != "waiting"))[
                : 2 * ROWS
            ]
        for entry in entries:
            table.add_row(
                Text(str(entry.job)),
                Text(entry.state, STATES[entry.state]),
                f"{entry.report.steps}/{entry.job.steps}" if entry.job.steps else "-",
                _best(entry),
            )
        return table

    def summary(self) -> str:
        """Jobs done, the time that is left."""
        entries = self.pool.entries
        ended = sum(entry.state not in ("waiting", "running") for entry in entries)
        text, left = f"{ended}/{len(entries)} {self.what}", self.left_s()
        if ended == len(entries):
            return text
        return text + (", no estimate yet" if left is None else f", about {span(left)} left")

    def left_s(self) -> float | None:
        """Seconds that are left, by what an outer step has taken in this session, and a job that only scores.

        None: of one of the two nothing is known yet.
        """
        left = []
        for kind in (True, False):
            entries = [entry for entry in self.pool.entries if bool(entry.job.steps) is kind]
            done = sum((entry.done - (entry.found or 0.0)) * (entry.job.steps or 1) for entry in entries)
            ahead = [(1 - entry.done) * (entry.job.steps or 1) for entry in entries]
            if any(ahead) and not done:
                return None
            left += [units * sum(entry.worked_s for entry in entries) / done for units in ahead if units]
        slots = self.session.slots.count if self.session.slots else 1
        return max([sum(left) / slots, *left])


def _best(entry: "Entry") -> str:
    report = entry.report
    return "-" if report.score is None else value(report.score, entry.job.metric, report.ci95)


def _table(what: str, *figures: str, last: Column | None = None) -> Table:
    """A table without lines: what it is, its state, then columns of figures."""
    columns = [Column(name, justify="right", no_wrap=True) for name in figures]
    ends = [last] if last is not None else []
    first = Column(what, justify="right", no_wrap=True)
    return Table(first, Column("state", no_wrap=True), *columns, *ends, **PLAIN | {"expand": last is not None})


def span(seconds: float) -> str:
    """`03:20`, or `1:03:20` from an hour on."""
    text = time.strftime("%H:%M:%S", time.gmtime(seconds))
    return text.removeprefix("00:")
