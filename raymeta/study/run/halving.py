"""Asynchronous successive halving (Li et al. 2020) whose rungs follow from the study's record."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeVar

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raymeta.study.record.finalists import baseline
from raymeta.study.record.record import StudyRecord, TrialRecord

T = TypeVar("T")


def scheduler_of(record: StudyRecord) -> TrialScheduler:
    """What tells Ray Tune at each round whether a trial goes on."""
    return {"stopping": Stopping, "promoting": Promoting}[record.plan.study.halving](record)


class Stopping(ASHAScheduler):  # type: ignore[misc]
    """Decides at once whether a trial passes a rung, among those that were there before it; else it is cut.

    Stock Ray does the same, but forgets the rungs on a restore, and lets a trial whose score is not a number run to the
    end.
    """

    def __init__(self, record: StudyRecord) -> None:
        plan = record.plan
        super().__init__(
            time_attr="outer_steps",
            metric=f"val_{record.metric.name}",
            mode=record.metric.mode,
            max_t=plan.base.budget.outer_steps,
            grace_period=plan.study.first_rung,
            reduction_factor=plan.study.reduction,
        )
        self._rungs: dict[int, dict[Any, float]] = dict(self._brackets[0]._rungs)
        self._names: dict[int, str] = {}  # of trials by number: their keys in the rungs
        for trial in record.trials():
            self._remember(trial)

    @property
    def rungs(self) -> dict[int, dict[Any, float]]:
        """Outer steps to the scores recorded there, larger is better; keyed by trial."""
        return self._rungs

    def _remember(self, trial: TrialRecord) -> None:
        """Put the scores with which a trial passed or failed its rungs back."""
        name = self._names[trial.number] = f"trial {trial.number}"
        for entry in trial.rounds:
            if entry["outer_steps"] in self._rungs and self._metric in entry:
                self._rungs[entry["outer_steps"]][name] = self._metric_op * entry[self._metric]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial that goes on, after a driver's or its worker's death, has a new name; its scores go with it."""
        super().on_trial_add(tune_controller, trial)
        number = trial.config["study"]["trial"]
        before, self._names[number] = self._names.get(number), trial.trial_id
        for scores in self._rungs.values():
            if before in scores:
                scores[trial.trial_id] = scores.pop(before)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not isfinite(result.get(self._metric, float("nan"))):
            return TrialScheduler.STOP  # type: ignore[no-any-return]
        return super().on_trial_result(tune_controller, trial, result)  # type: ignore[no-any-return]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if isfinite(result.get(self._metric, float("nan"))):
            super().on_trial_complete(tune_controller, trial, result)


class Promoting(FIFOScheduler):  # type: ignore[misc]
    """Lets a trial wait at each rung until it is promoted, as the paper has it; see `to_promote`.

    To Tune a trial that waits has ended; `RecordSearcher` hands it out again. One that is promoted at once goes on.
    """

    def __init__(self, record: StudyRecord) -> None:
        super().__init__()
        self.record = record

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        score = result.get(f"val_{self.record.metric.name}", float("nan"))
        if not isfinite(score):
            return TrialScheduler.STOP  # type: ignore[no-any-return]
        number, steps = trial.config["study"]["trial"], result["outer_steps"]
        if steps not in self.record.plan.rungs[:-1] or to_promote(self.record, (number, steps, score)) == number:
            return TrialScheduler.CONTINUE  # type: ignore[no-any-return]
        return TrialScheduler.STOP  # type: ignore[no-any-return]


def to_promote(record: StudyRecord, arriving: tuple[int, int, float] | None = None) -> int | None:
    """The trial that waits at a rung and is to go on now; None: there is none.

    Once all trials have begun, the un-regularized start goes on when no other does, to the end, so that the best is
    compared with it at the same training. Once all have come as far as they can, one in `reduction` is rounded up, so
    that one at least is trained to the end.

    Args:
        record: of the study.
        arriving: a trial that has just reached a rung, with its outer steps and its score there.
    """
    if record.plan.study.halving != "promoting":
        return None
    key, sign = f"val_{record.metric.name}", 1 if record.metric.mode == "max" else -1
    scores: dict[int, dict[int, float]] = {rung: {} for rung in record.plan.rungs[:-1]}
    trials, waiting = record.trials(), {}
    for trial in trials:
        for entry in trial.rounds:
            if entry["outer_steps"] in scores and key in entry:
                scores[entry["outer_steps"]][trial.number] = sign * entry[key]
        if trial.state == "waiting":
            waiting[trial.number] = trial.outer_steps
    if arriving is not None:
        number, steps, score = arriving
        scores[steps][number], waiting[number] = sign * score, steps
    study, start = record.plan.study, baseline(record)
    found = promoted(scores, waiting, study.reduction)
    if found is not None or len(trials) < study.trials:
        return found
    if start is not None and start.number in waiting:
        return start.number
    last = all(trial.state != "running" or trial.number in waiting for trial in trials)
    return promoted(scores, waiting, study.reduction, last=last)


def promoted(
    scores: Mapping[int, Mapping[T, float]], waiting: Mapping[T, int], reduction: int, *, last: bool = False
) -> T | None:
    """The trial that goes on next (Algorithm 2): of the highest rung where one that waits is among the best.

    Args:
        scores: of each rung but the last by trial, larger is better.
        waiting: trials to the rung at which they wait.
        reduction: one in so many may pass a rung.
        last: no more trials come, so the rest that is fewer than that may send one, too.
    """
    for rung in sorted(scores, reverse=True):
        order = sorted(scores[rung], key=scores[rung].__getitem__, reverse=True)
        for trial in order[: (len(order) + (reduction - 1) * last) // reduction]:
            if waiting.get(trial) == rung:
                return trial
    return None


def end_waiting(record: StudyRecord) -> list[int]:
    """Cut the trials that wait, if nothing can promote them any more; returns them."""
    trials = record.trials()
    begun = len(trials) >= record.plan.study.trials
    if not begun or any(trial.state == "running" for trial in trials) or to_promote(record) is not None:
        return []
    left = [trial.number for trial in trials if trial.state == "waiting"]
    for number in left:
        record.finish(number)
    return left
