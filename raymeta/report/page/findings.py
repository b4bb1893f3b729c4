"""What a report says of a study, read once: nothing is locked or written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from raymeta.report.page.effects import Interaction, interactions
from raymeta.report.page.importance import FEWEST, Share, importance
from raymeta.report.page.scored import Scored
from raymeta.study.plan.space import BASELINE
from raymeta.study.record.finalists import standings
from raymeta.study.record.record import StudyRecord, TrialRecord

MOST_COLOURED = 5
ENOUGH, PER_KEY = 24, 4  # trials that a budget is to have for importance, at all and for every searched key


@dataclass(frozen=True)
class Budget:
    """A rung at which trials are compared.

    Attributes:
        steps: outer steps.
        trials: those that reached it and have a score by then.
    """

    steps: int
    trials: Sequence[TrialRecord]
    table: Scored


class Findings:
    """A study as it is now.

    Attributes:
        trials: all that were asked for.
        standing: the finalists' scores; None while they are not all there.
        best: the best trial; None: none has a score.
        start: the un-regularized start; None: there was none.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record, self.metric, self.plan = record, record.metric, record.plan
        self.key = f"val_{record.metric.name}"
        self.trials = record.trials()
        self.standing = standings(record)
        scored = self.standing.best.trial if self.standing and self.standing.best else None
        self.best = scored or next(iter(record.ranking()), None)
        self.start = next((trial for trial in self.trials if trial.label == BASELINE), None)

    @property
    def label(self) -> str:
        """What scores are, for a column or an axis: the name, and the unit."""
        return f"{self.metric.name}, {self.metric.unit}" if self.metric.unit else self.metric.name

    @cached_property
    def budgets(self) -> list[Budget]:
        """The rungs that trials have scores at, the lowest first."""
        found = []
        for steps in self.plan.rungs:
            there = [
                (trial, entry[self.key])
                for trial in self.trials
                if trial.outer_steps >= steps and (entry := trial.best(self.metric, until=steps))
            ]
            if there:
                trials, scores = zip(*there, strict=True)
                points = [trial.point for trial in trials]
                found.append(Budget(steps, trials, Scored(self.plan.space.params, points, scores, self.metric.mode)))
        return found

    @cached_property
    def common(self) -> Budget | None:
        """The highest rung that enough trials reached; if none did, the one that most did. None: too few did."""
        enough = max(ENOUGH, PER_KEY * len(self.plan.space.params))
        whole = [budget for budget in self.budgets if len(budget.trials) >= enough]
        if whole:
            return whole[-1]
        most = max(self.budgets, key=lambda budget: len(budget.trials), default=None)
        return most if most is not None and len(most.trials) >= FEWEST else None

    @cached_property
    def shares(self) -> list[Share]:
        """What the keys are worth at the common rung; empty: too few trials to tell."""
        return importance(self.common.table.fenced) if self.common else []

    @cached_property
    def pairs(self) -> list[Interaction]:
        """Keys that interact there."""
        return interactions(self.common.table.fenced) if self.common else []

    @cached_property
    def coloured(self) -> list[TrialRecord]:
        """The trials that are told apart in pictures: the best finalists, or the first of the search's ranking."""
        if self.standing:
            return [one.trial for one in self.standing.finalists][:MOST_COLOURED]
        return self.record.ranking()[:MOST_COLOURED]

    def ended(self, *states: str) -> list[TrialRecord]:
        """Trials in some states."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def unended(self) -> list[TrialRecord]:
        """Trials that run or wait."""
        return [trial for trial in self.trials if not trial.ended]

    def times(self) -> list[float]:
        """When rounds were noted, in seconds since the epoch, in order."""
        return sorted(entry["at"] for trial in self.trials for entry in trial.rounds if "at" in entry)


def seconds_of(trial: TrialRecord) -> float:
    """Seconds that a trial computed."""
    return float(sum(entry.get("seconds", 0.0) for entry in trial.rounds))


def moment(at: float) -> str:
    """A time as local time, to the minute."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
