"""Trials as Ray Tune asks for them, by what the study's record says."""

from collections import deque
from typing import Any

from ray.tune.search import Searcher

from raymeta.study.machines.fleet.fleets import Fleets
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.run.halving import to_promote


class RecordSearcher(Searcher):  # type: ignore[misc]
    """Hands out first the trials that a dead driver left, then those that are promoted, then new ones, until the study
    has enough.

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
            promoted = to_promote(self.record)
            whole = len(trials) >= self.record.plan.study.trials
            if whole and promoted is None:
                return None if running else Searcher.FINISHED  # it may come back to `left`, or promote others
            if running >= self.count + self._ahead:
                return None
            trial = self.record.ask() if promoted is None else self.record.promote(promoted)
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
