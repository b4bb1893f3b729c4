"""Searches by raymeta's own engine and by stock Ray Tune, until their trials have done so many outer steps.

The rounds are written down in order of time.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from quality.arms import Round
from raymeta.problem import open_problem
from raymeta.storage.files import write_atomically
from raymeta.study.plan.plan import Plan
from raymeta.study.record.record import StudyRecord


def by_raymeta(plan: Plan, limit: int, slots: int, path: Path) -> None:
    """Search by raymeta's engine; no finalists are scored, and the process may end with it."""
    from raymeta.study.run.driving import How, drive

    problem = open_problem(plan.base.task)
    os.environ["RAYMETA_STUDIES"] = str(path.parent)
    record = StudyRecord.create(path.parent / "study", plan, problem.metric, problem.fingerprint)

    def watch() -> None:
        while sum(trial.outer_steps for trial in record.trials()) < limit:
            time.sleep(0.2)
        write(path, rounds_of(record))
        for _ in range(2):  # as a user who presses Ctrl-C twice: leave now
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()
    drive(record, How(slots, 1, quiet=True), time.time())


def rounds_of(record: StudyRecord) -> list[Round]:
    """All rounds of a study so far."""
    metric = f"val_{record.metric.name}"
    return [
        {
            "at": entry["at"],
            "trial": trial.number,
            "steps": entry["outer_steps"],
            "value": entry.get(metric),
            "point": trial.point,
        }
        for trial in record.trials()
        for entry in trial.rounds
    ]


def by_ray(plan: Plan, limit: int, slots: int, path: Path) -> None:
    """Search by stock Ray Tune."""
    from ray import tune
    from stock_ray import fit

    metric = f"val_{open_problem(plan.base.task).metric.name}"

    class Rounds(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rounds: list[Round] = []

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            self.rounds.append(
                {
                    "at": time.time(),
                    "trial": trial.trial_id,
                    "steps": result["outer_steps"],
                    "value": None if result["diverged"] else result[metric],
                    "point": dict(trial.config),
                }
            )

    class Limit(tune.Stopper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.done: dict[str, int] = {}

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.done[trial_id] = result["outer_steps"]
            return False

        def stop_all(self) -> bool:
            return sum(self.done.values()) >= limit

    callback = Rounds()
    fit(plan, slots, path.parent, [callback], reuse=True, stop=Limit(), verbose=0)
    write(path, callback.rounds)


def write(path: Path, rounds: list[Round]) -> None:
    """Write rounds down in order of time."""
    write_atomically(path, json.dumps(sorted(rounds, key=lambda entry: entry["at"])))
