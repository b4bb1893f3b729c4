"""The live table of a search; where there is no terminal, a line whenever a trial ends."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raymeta.report.style import STATES
from raymeta.report.tables import settings, validated
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord, TrialRecord

PRIOR_TRIALS = 6  # how many ended trials the planned mean length counts for in the estimate
ROWS = 12  # the best of the finished trials; running ones are always shown


class Progress:
    """Shows a study while it runs. Use as a context manager.

    Args:
        quiet: show nothing.
    """

    def __init__(self, record: StudyRecord, session: Session, *, quiet: bool = False) -> None:
        self.record, self.session, self.quiet = record, session, quiet
        self.console = Console(stderr=True, quiet=quiet)
        self.message = ""
        self._live: Live | None = None
        self._steps_before = sum(trial.outer_steps for trial in record.trials())

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def ended(self, trial: TrialRecord) -> None:
        """A trial ended."""
        if not (self._live or self.console.quiet):
            reason = f" ({trial.reason})" if trial.reason else ""
            self.console.print(
                f"{self._clock()} trial {trial.number:>3} {trial.state} at {trial.outer_steps} steps: "
                f"{validated(trial, self.record.metric)}{reason} | {self._summary()}",
                highlight=False,
                soft_wrap=True,
            )

    def say(self, message: str) -> None:
        """Tell the user something; it stays in view."""
        self.message = message
        if not self._live:
            self.console.print(f"{self._clock()} {message}", highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """The table as it stands."""
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        running = [trial for trial in trials if trial.state == "running"]
        ended = sorted((t for t in trials if t.state != "running"), key=lambda t: t.outer_steps, reverse=True)[:ROWS]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, side in (("trial", "right"), ("state", "left"), ("steps", "right"), ("rung", "right")):
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        table.add_column(f"validation {self.record.metric.name}", justify="right")
        table.add_column("settings", no_wrap=True, overflow="ellipsis")
        budget = self.record.plan.base.budget.outer_steps
        for trial in [*running, *ended]:
            star = " *" if best and trial.number == best.number else ""
            table.add_row(
                f"{trial.number}{star}",
                Text(trial.state, STATES[trial.state]),
                f"{trial.outer_steps}/{budget}",
                str(sum(rung <= trial.outer_steps for rung in self.record.plan.rungs)),
                validated(trial, self.record.metric),
                Text(settings(trial)),  # a label in brackets is no markup
            )
        return Group(table, Text(f"{self._clock()} {self._summary()}", "bold"), Text(self.message, "yellow"))

    def _summary(self) -> str:
        trials, best = self.record.trials(), next(iter(self.record.ranking()), None)
        ended = sum(trial.state != "running" for trial in trials)
        text = f"{ended}/{self.record.plan.study.trials} trials ended"
        if best:
            text += f", best {validated(best, self.record.metric)} (trial {best.number})"
        return text + f", {self._eta(trials)}"

    def _eta(self, trials: list[TrialRecord]) -> str:
        """From the pace of this session and the length of trials: as planned, corrected by those that ended."""
        plan = self.record.plan
        ended = [trial.outer_steps for trial in trials if trial.state != "running"]
        done = sum(trial.outer_steps for trial in trials) - self._steps_before
        if done <= 0:
            return "no estimate yet"
        planned = plan.usual_steps() / plan.study.trials
        mean = (sum(ended) + PRIOR_TRIALS * planned) / (len(ended) + PRIOR_TRIALS)
        left = mean * max(plan.study.trials - len(trials), 0)
        left += sum(max(mean - trial.outer_steps, mean / 2) for trial in trials if trial.state == "running")
        return f"about {_span(left / done * self.session.wall_s)} left"

    def _clock(self) -> str:
        return f"[{_span(self.session.wall_s)}]"


def _span(seconds: float) -> str:
    text = time.strftime("%H:%M:%S", time.gmtime(seconds))
    return text.removeprefix("00:")
