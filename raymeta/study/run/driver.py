"""What the driver does while Ray Tune runs the trials: note results in the record, try again, leave in time."""

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial

from raymeta.report.live.progress import Progress
from raymeta.storage.files import write_atomically
from raymeta.study.machines.failures import Retries, Watch, failure_of, unwritable
from raymeta.study.machines.pool import warm_up
from raymeta.study.machines.resources import on_cluster
from raymeta.study.machines.session import Session
from raymeta.study.record.record import State, StudyRecord
from raymeta.study.run.searcher import RecordSearcher
from raymeta.study.run.tracker import Tracker
from raymeta.training.saving import ask_to_save

LOOK_S = 5.0  # between two looks at where fleets are
ROUND_KEYS = ("outer_steps", "train_loss", "val_ci95", "val_loss", "diverged", "seconds", "hostname")


def _leaves_when_full(method: Callable[..., None]) -> Callable[..., None]:
    """A callback that can't write the record ends the session: what is on disk is good, and nothing more is written."""

    @wraps(method)
    def guarded(self: "Driver", *arguments: Any, **named: Any) -> None:
        if self.session.broken:
            return
        try:
            method(self, *arguments, **named)
        except OSError as error:
            self.session.break_off(unwritable(error))

    return guarded


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
        self._retries, self._watch = Retries(), Watch(record.plan.study.hung_after_s)
        self._killed: dict[int, str] = {}  # trials whose worker was taken for hung, with the reason
        self._looked = time.monotonic()
        self._warmed = False  # workers for the finalists are on their way

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore of its own, which is not used

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watch.reported(trial)

    @_leaves_when_full
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number = _number(trial)
        self._watch.reported(trial, result.get("wall", result["seconds"]))
        score = f"val_{self.record.metric.name}"
        also = [key for key in result if key.startswith("val_") and key not in (score, *ROUND_KEYS)]
        metrics = {key: result[key] for key in (*ROUND_KEYS[:2], score, *ROUND_KEYS[2:], *also) if key in result}
        if metrics["diverged"]:
            metrics.pop(score)  # Tune insists on one, but nothing was validated
        if result["done"]:  # said in the same line as the round, so that nobody who goes on decides anew
            whole = metrics["outer_steps"] >= self.record.plan.base.budget.outer_steps
            waits = self.record.plan.study.halving == "promoting" and score in metrics and not whole
            metrics["waits" if waits else "last"] = True
        if self.record.add_round(number, metrics | {"at": time.time()}):
            self.session.worked(metrics["seconds"])
        if self.searcher.fleets:
            self.searcher.fleets.heard(number, metrics["outer_steps"])
        if note := result.get("note"):
            self.progress.say(f"trial {number}: {note}")
        self.tracker.update(number)

    @_leaves_when_full
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watch.forget(trial)
        last = trial.last_result or {}
        if last.get("done") or not self.session.closing:
            self._end(_number(trial))

    @_leaves_when_full
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watch.forget(trial)
        number = _number(trial)
        if self.session.closing:  # its worker may have heard the same signal; the trial goes on with `resume`
            return
        if self.searcher.fleets:
            self.searcher.fleets.failed(number)
        failure = failure_of(_error_of(trial))
        if reason := self._killed.pop(number, None):
            failure = failure._replace(reason=reason)
        if failure.kind == "disk":
            self.session.break_off(failure.reason)
            return
        write_atomically(self.record.trial_folder(number) / "error.txt", failure.text)
        if again := self._retries.again(number, failure):
            (self.searcher.alone if again.alone else self.searcher.left).append(self.record.trial(number))
            self.progress.say(f"trial {number}: {again.text}")
        else:
            self._end(number, "failed", failure.reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Kill the workers that have been silent for too long; their trials are then handed out again."""
        self.session.look()
        if self.searcher.fleets and time.monotonic() > self._looked + LOOK_S:
            self._looked = time.monotonic()
            self.searcher.fleets.look()
        if self.session.saving:
            self.session.saving = False
            for trial in trials:
                if trial.status == Trial.RUNNING:
                    ask_to_save(self.record.trial_folder(_number(trial)))
        for trial, reason in self._watch.hung(lambda trial: self.record.trial_folder(_number(trial))):
            if self.searcher.fleets:  # it is the fleet that is silent, and Ray asks it again
                self._watch.reported(trial)
                self.progress.say(f"trial {_number(trial)}: {reason}; its fleet is started again")
                self.searcher.fleets.kill(_number(trial))
            elif (actor := trial.temporary_state.ray_actor) is None:
                self._watch.reported(trial)
            else:
                self._killed[_number(trial)] = reason
                ray.kill(actor)

    def _end(self, number: int, state: State | None = None, reason: str = "") -> None:
        """A trial has come to its end, or waits at a rung."""
        if state is not None or self.record.trial(number).state != "waiting":
            self.record.finish(number, state, reason)
        if self.searcher.fleets:
            self.searcher.fleets.release(number)
        self.progress.update()
        self.tracker.update(number)
        finalists = self.record.plan.study.finalists and not on_cluster()
        if finalists and not self._warmed and self.searcher.spare:
            self._warmed = True
            warm_up(self.searcher.slots.count, "raymeta.study.run.reevaluate")


class Leave(tune.Stopper):  # type: ignore[misc]
    """Ends all trials once they are not waited for any longer. Never a single one: Tune would call it done."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.session.leaving


def _error_of(trial: Trial) -> Any:
    """What Tune has just written down; its own `get_pickled_error` looks where it arrives only later."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path is not None and Path(path).exists() else None


def _number(trial: Trial) -> int:
    return int(trial.config["study"]["trial"])
