"""Proposals and rungs as Ray Tune asks for them; both are read from the study's record."""

from collections import deque
from math import isfinite
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.study.machines.fleet.fleets import Fleets
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord, TrialRecord


class RecordSearcher(Searcher):  # type: ignore[misc]
    """Hands out first the trials that a dead driver left, then new ones, until the study has enough.

    One trial is proposed ahead of the free slots: ready when a slot is, and knowing all but the last results. Not so
    with a single slot: there a proposal knows all, and a trial whose worker died goes on before the next one begins.

    Attributes:
        left: trials to go on with.
        alone: trials to go on with while nothing else runs.
        fleets: that compute the trials; None: each has a process of its own.
        count: trials at a time.
    """

    def __init__(
        self, record: StudyRecord, left: list[TrialRecord], session: Session, fleets: Fleets | None = None
    ) -> None:
        assert session.slots is not None
        super().__init__(metric=f"val_{record.metric.name}", mode=record.metric.mode)
        self.record = record
        self.left = deque(left)
        self.alone: deque[TrialRecord] = deque()
        self.session, self.slots = session, session.slots
        self.fleets, self.count = fleets, fleets.count if fleets else self.slots.count
        self._ahead = int(self.count > 1)
        self._handed_out: set[str] = set()  # by Tune's names, until they end there
        self._solo = ""

    @property
    def spare(self) -> bool:
        """A slot has nothing more to do, unless a trial that runs comes back."""
        trials = self.record.trials()
        running = sum(trial.state == "running" for trial in trials)
        return len(trials) >= self.record.plan.study.trials and running < self.count

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.session.stopping:
            return Searcher.FINISHED  # type: ignore[no-any-return]
        if self._solo in self._handed_out:
            return None  # not now
        if self.left:
            trial = self.left.popleft()
        elif self.alone:
            if self._handed_out:
                return None
            trial, self._solo = self.alone.popleft(), trial_id
        else:
            trials = self.record.trials()
            running = sum(trial.state == "running" for trial in trials)
            if len(trials) >= self.record.plan.study.trials:
                return None if running else Searcher.FINISHED  # one that runs may come back to `left`
            if running >= self.count + self._ahead:
                return None
            trial = self.record.ask()
        self._handed_out.add(trial_id)
        place = {
            "trial": trial.number,
            "folder": str(self.record.trial_folder(trial.number)),
            "known": trial.outer_steps,
            "gpu_share": self.slots.gpu,
            "gpu_context": self.slots.gpu_context,
        }
        config = self.record.config(trial)
        if self.fleets:
            place = {key: place[key] for key in ("trial", "folder")}
            self.fleets.place(trial.number, config, trial.outer_steps)
        return {**config.as_dict(), "study": place}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The driver writes the record, where it sees why a trial ended."""
        self._handed_out.discard(trial_id)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the record is on disk at all times."""


class RecordASHA(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al. 2020) whose rungs outlive the driver.

    Stock Ray forgets them on a restore, and lets a trial whose score is not a number run to the end.
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
