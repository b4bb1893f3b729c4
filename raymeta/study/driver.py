"""What the driver does while Ray Tune runs the trials: note results in the record, listen to Ctrl-C, leave in time."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from raymeta.study.progress import Progress
from raymeta.study.record import State, StudyRecord
from raymeta.study.searcher import RecordSearcher
from raymeta.study.session import Session
from raymeta.study.tracking import Tracker

MAX_FAILURES = 3  # of a trial's worker; each time it goes on from its checkpoint
ROUND_KEYS = ("outer_steps", "train_loss", "val_accuracy", "val_mse", "val_ci95", "val_loss", "diverged", "seconds")


class Driver(tune.Callback):  # type: ignore[misc]
    """Ray Tune's callback: writes what happens to the record, then shows and tracks it."""

    def __init__(
        self,
        record: StudyRecord,
        session: Session,
        progress: Progress,
        tracker: Tracker,
        searcher: RecordSearcher,
    ) -> None:
        self.record, self.session, self.progress, self.tracker = record, session, progress, tracker
        self.searcher = searcher
        self._again: Counter[int] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore of its own, which is not used

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number, session = _number(trial), self.session
        metrics = {key: result[key] for key in ROUND_KEYS if key in result}
        if metrics["diverged"]:
            metrics.pop(f"val_{self.record.metric.name}")  # Tune insists on one, but nothing was validated
        if self.record.add_round(number, metrics | {"at": time.time()}):
            session.busy_s += metrics["seconds"]
            session.first_result_s = session.first_result_s or session.wall_s
        self.tracker.update(number)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result or {}
        if last.get("done") or not self.session.leaving:
            self._end(_number(trial), self._state(last))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = _number(trial)
        if self.session.leaving:
            return
        if trial.num_failures <= MAX_FAILURES and self._again[number] < MAX_FAILURES:
            # Tune tries a trial again unless its worker died while it was being set up. So do we, then.
            self._again[number] += 1
            self.searcher.left.append(self.record.trial(number))
            return
        self._end(number, "failed", _reason(trial))

    def _end(self, number: int, state: State, reason: str = "") -> None:
        self.record.finish(number, state, reason)
        self.progress.ended(self.record.trial(number))
        self.tracker.update(number)

    def _state(self, last: dict[str, Any]) -> State:
        if last.get("diverged"):
            return "diverged"
        return "completed" if last.get("outer_steps", 0) >= self.record.plan.base.budget.outer_steps else "pruned"


class Leave(tune.Stopper):  # type: ignore[misc]
    """Ends all trials once the user leaves."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.session.leaving


@contextmanager
def interrupts(searcher: RecordSearcher, session: Session, progress: Progress) -> Iterator[None]:
    """Ctrl-C once: no new trials, the running ones finish. Twice: leave now; every finished round is saved."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not searcher.stopped:
            searcher.stopped = True
            progress.say("no new trials; the running ones finish (Ctrl-C again: leave now and go on later)")
        else:
            session.leaving = True
            progress.say("leaving; every finished round is saved")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _number(trial: Trial) -> int:
    return int(trial.config["study"]["trial"])


def _reason(trial: Trial) -> str:
    """The last line of what a failed trial said."""
    error = trial.get_pickled_error()
    lines = [line.strip() for line in str(getattr(error, "cause", None) or error or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its worker died"
