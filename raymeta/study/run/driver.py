"""What the driver does while Ray Tune runs the trials: note results in the record, listen to Ctrl-C, leave in time."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from raymeta.report.progress import Progress
from raymeta.storage.files import write_atomically
from raymeta.study.machines.failures import failure_of, unwritable
from raymeta.study.machines.interrupts import on_ctrl_c
from raymeta.study.machines.resources import on_cluster
from raymeta.study.machines.session import Session
from raymeta.study.record.record import State, StudyRecord
from raymeta.study.run.reevaluate import warm_up
from raymeta.study.run.searcher import RecordSearcher
from raymeta.study.tracking.tracker import Tracker

MAX_FAILURES = 3  # of a trial's worker; each time it goes on from its checkpoint
ROUND_KEYS = ("outer_steps", "train_loss", "val_ci95", "val_loss", "diverged", "seconds", "hostname")
LONGEST_ROUNDS, LEAST_PATIENCE_S = 20, 600.0  # before a worker is taken for hung


def _leaves_when_full(method: Callable[..., None]) -> Callable[..., None]:
    """A callback that can't write the record ends the session: what is on disk is good, and nothing more is written."""

    @wraps(method)
    def guarded(self: "Driver", *arguments: Any, **named: Any) -> None:
        if self.session.broken:
            return
        try:
            method(self, *arguments, **named)
        except OSError as error:
            self._break_off(unwritable(error))

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
        self._again: Counter[int] = Counter()
        self._heard: dict[Trial, float] = {}  # of those that run: when last, on the monotonic clock
        self._hung: dict[int, float] = {}
        self._longest = 0.0
        self._warmed = False  # workers for the finalists are on their way

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore of its own, which is not used

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._heard[trial] = time.monotonic()

    @_leaves_when_full
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number, session = _number(trial), self.session
        self._heard[trial] = time.monotonic()
        score = f"val_{self.record.metric.name}"
        metrics = {key: result[key] for key in (*ROUND_KEYS[:2], score, *ROUND_KEYS[2:]) if key in result}
        if metrics["diverged"]:
            metrics.pop(score)  # Tune insists on one, but nothing was validated
        if result["done"]:
            metrics["last"] = True  # in the same line as the round, so that nobody who goes on decides anew
        if self.record.add_round(number, metrics | {"at": time.time()}):
            session.busy_s += metrics["seconds"]
            session.first_result_s = session.first_result_s or session.wall_s
            self._longest = max(self._longest, metrics["seconds"])
        if note := result.get("note"):
            self.progress.say(f"trial {number}: {note}")
        self.tracker.update(number)

    @_leaves_when_full
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._heard.pop(trial, None)
        last = trial.last_result or {}
        if last.get("done") or not self.session.leaving:
            self._end(_number(trial))

    @_leaves_when_full
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._heard.pop(trial, None)
        number = _number(trial)
        if self.session.leaving:
            return
        failure = failure_of(trial)
        reason = failure.reason
        if number in self._hung:
            reason = f"no round for {self._hung.pop(number):.0f} s"
        if failure.kind == "disk":
            self._break_off(reason)
            return
        write_atomically(self.record.trial_folder(number) / "error.txt", failure.text)
        allowed = 1 if failure.kind == "memory" else MAX_FAILURES
        if self._again[number] >= allowed:
            self._end(number, "failed", reason)
            return
        self._again[number] += 1
        alone = failure.kind == "memory"
        (self.searcher.alone if alone else self.searcher.left).append(self.record.trial(number))
        self.progress.say(
            f"trial {number}: {reason}; it goes on from its checkpoint{', with nothing beside it' if alone else ''}"
            f" (try {self._again[number] + 1} of {allowed + 1})"
        )

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Kill the workers that have been silent for too long; their trials are then handed out again."""
        limit = self.record.plan.study.hung_after_s or max(LONGEST_ROUNDS * self._longest, LEAST_PATIENCE_S)
        now = time.monotonic()
        for trial, heard in list(self._heard.items()):
            if now - heard > limit and (actor := trial.temporary_state.ray_actor) is not None:
                self._hung[_number(trial)] = now - heard
                self._heard[trial] = now
                ray.kill(actor)

    def _break_off(self, reason: str) -> None:
        """Leave, and write nothing more."""
        self.session.broken = reason
        self.session.leaving = self.searcher.stopped = True

    def _end(self, number: int, state: State | None = None, reason: str = "") -> None:
        self.record.finish(number, state, reason)
        self.progress.ended(self.record.trial(number))
        self.tracker.update(number)
        finalists = self.record.plan.study.finalists and not on_cluster()
        if finalists and not self._warmed and self.searcher.spare:
            self._warmed = True
            warm_up(self.searcher.slots.count)


class Leave(tune.Stopper):  # type: ignore[misc]
    """Ends all trials once the user leaves."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.session.leaving


def interrupts(searcher: RecordSearcher, session: Session, progress: Progress) -> AbstractContextManager[None]:
    """Ctrl-C once: no new trials, the running ones finish. Twice: leave now; every finished round is saved."""

    def heard() -> None:
        if not searcher.stopped:
            searcher.stopped = True
            progress.say("no new trials; the running ones finish (Ctrl-C again: leave now and go on later)")
        else:
            session.leaving = True
            progress.say("leaving; every finished round is saved")

    return on_ctrl_c(heard)


def _number(trial: Trial) -> int:
    return int(trial.config["study"]["trial"])
