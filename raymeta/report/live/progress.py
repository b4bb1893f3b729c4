"""What a driver shows of its own session: its trials, then its pool; and what it says of itself to those elsewhere."""

from abc import abstractmethod
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console

from raymeta.report.live.display import Display
from raymeta.report.live.views import JobsView, TrialsView, View
from raymeta.report.tables import value
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import baseline
from raymeta.study.record.pulse import Beat, Line
from raymeta.study.record.record import StudyRecord

if TYPE_CHECKING:
    from raymeta.study.machines.pool import Entry, Pool

PRIOR_TRIALS = 6  # how many ended trials the planned mean length counts for in the estimate


class SessionDisplay(Display):
    """Shows what the slots of a session do; inside it the session speaks through it, and its pulse tells of it."""

    def __init__(self, session: Session) -> None:
        super().__init__(Console(stderr=True, quiet=session.quiet))
        self.session, self.message = session, ""

    def __enter__(self) -> Self:
        self._said_by, self.session.say = self.session.say, self.say
        if self.session.pulse:
            self.session.pulse.shown = self.beat
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        self.session.say = self._said_by
        if self.session.pulse:
            self.session.pulse.beat()  # the last word on it
            self.session.pulse.shown = lambda: self.session.beat

    def say(self, message: str) -> None:
        """Tell the user something; it stays in view."""
        self.message = message
        self.line(message, self.session.beat)

    def beat(self) -> Beat:
        return replace(self.session.beat, message=self.message, left_s=self.left_s())

    @abstractmethod
    def left_s(self) -> float | None:
        """Seconds that are left; None: nothing is known yet."""


class Progress(SessionDisplay):
    """Shows a study while its trials run."""

    def __init__(self, record: StudyRecord, session: Session) -> None:
        super().__init__(session)
        self.record, self._view = record, TrialsView(record)
        self._steps_before = sum(trial.outer_steps for trial in record.trials())

    def view(self, beat: Beat) -> View:
        return self._view

    def left_s(self) -> float | None:
        """By the pace of this session.

        A trial that runs is expected to pass each rung before it as one in `reduction` does, and of those that wait as
        many as are missing to that; one that is to come is as long as planned. Where trials are cut for good, that is
        corrected by those that were; where they wait, the un-regularized start goes to the end.
        """
        plan, trials = self.record.plan, self.record.trials()
        done = sum(trial.outer_steps for trial in trials) - self._steps_before
        if done <= 0:
            return None
        promoting = plan.study.halving == "promoting"
        start = baseline(self.record) if promoting else None
        others = [trial for trial in trials if trial.state == "running" and trial != start]
        running = [plan.expected_steps(trial.outer_steps) for trial in others]
        if start is not None and not start.ended:
            running.append(float(plan.rungs[-1] - start.outer_steps))
        ended = [] if promoting else [trial.outer_steps for trial in trials if trial.ended]
        planned = plan.expected_steps(0)
        mean = (sum(ended) + PRIOR_TRIALS * planned) / (len(ended) + PRIOR_TRIALS)
        left = sum(running) + mean * max(plan.study.trials - len(trials), 0)
        for rung in plan.rungs[:-1] if promoting else ():
            there = [trial for trial in trials if trial.outer_steps >= rung]
            passed = sum(trial.outer_steps > rung or trial.state == "running" for trial in there)
            left += max(len(there) // plan.study.reduction - passed, 0) * plan.expected_steps(rung)
        slots = self.session.slots.count if self.session.slots else 1
        return max([left / slots, *running]) * slots * self.session.wall_s / done


class Jobs(SessionDisplay):
    """Shows the jobs of a pool: finalists, or final runs.

    Args:
        what: has become of those that are done: `5 of 6 final runs tested`.
    """

    def __init__(self, pool: "Pool", session: Session, what: str) -> None:
        super().__init__(session)
        self.pool, self.what = pool, what

    def view(self, beat: Beat) -> View:
        return JobsView(beat)

    def beat(self) -> Beat:
        metrics = {entry.job.metric.name for entry in self.pool.entries}
        figure = " ".join(["validation", *(metrics if len(metrics) == 1 else ())])
        return replace(
            super().beat(), what=self.what, figure=figure, jobs=[_line(entry) for entry in self.pool.entries]
        )

    def ended(self, entry: "Entry") -> None:
        """A job has ended, as pools tell it."""
        self.update()

    def left_s(self) -> float | None:
        """By what an outer step has taken in this session, and a job that only scores.

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


def _line(entry: "Entry") -> Line:
    job, report = entry.job, entry.report
    score = "-" if report.score is None else value(report.score, job.metric, report.ci95)
    return Line(str(job), entry.state, report.steps, job.steps, score)
