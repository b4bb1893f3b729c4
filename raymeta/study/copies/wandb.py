"""Weights & Biases: a run for each trial, in a group named like the study.

    <studies>/wandb/run-…, offline-run-…       what wandb itself keeps (`$WANDB_DIR` says where else)
    <studies>/wandb/raymeta/<run id>.json      a trial's copy is whole: {"fresh": it has the finalist's scores}

A run's id follows from the study's and the trial's number, and a step is an outer step. The server takes no step twice;
what was begun without it (`WANDB_MODE=offline`) is written again, as `wandb sync` has not sent it yet.
"""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymeta.registry import tracker
from raymeta.storage.files import mlflow_folder, write_atomically
from raymeta.study.copies.copy import Copy, Trial
from raymeta.study.record.record import StudyRecord

if TYPE_CHECKING:
    from wandb import Run

PATIENCE_S = 30.0  # for a server to take a run


@tracker("wandb")
class WeightsAndBiases(Copy):
    """Runs of a server, or files for one."""

    module = "wandb"

    def __init__(self, record: StudyRecord) -> None:
        super().__init__(record)
        self.folder = _folder()
        self._runs: dict[int, tuple[Run, int]] = {}  # trials that run, with the outer steps sent

    def take(self, trial: Trial) -> None:
        mark = self.folder / "wandb" / "raymeta" / f"{self.run_id(trial)}.json"
        if _whole(mark, trial):
            return
        run, sent = self._runs.pop(trial.number) if trial.number in self._runs else self._begin(trial)
        for point in trial.points:
            if point.steps > sent:
                run.log(dict(point.scores), step=point.steps)
                sent = point.steps
        self._runs[trial.number] = (run, sent)
        if trial.ended:
            scores = dict(trial.fresh.scores) if trial.fresh else {}
            run.summary.update({"state": trial.state, "reason": trial.reason, **scores})
            run.finish(exit_code=0 if trial.well else 1)
            del self._runs[trial.number]
            write_atomically(mark, json.dumps({"fresh": trial.fresh is not None}))

    def close(self) -> None:
        for run, _ in self._runs.values():  # of trials that are gone on with later
            run.finish()

    @staticmethod
    def where(record: StudyRecord) -> str:
        if os.environ.get("WANDB_MODE") == "offline":
            return f"wandb sync {shlex.quote(str(_folder() / 'wandb'))}/offline-run-*-{_study(record)}-*"
        return f"project {_project(record)} of Weights & Biases, group {record.name}"

    def run_id(self, trial: Trial) -> str:
        """Of the trial's run."""
        return f"{_study(self.record)}-{trial.number:04d}"

    def _begin(self, trial: Trial) -> "tuple[Run, int]":
        """A trial's run, and the outer steps that it has."""
        import wandb

        name = self.run_id(trial)
        for left in (self.folder / "wandb").glob(f"offline-run-*-{name}"):
            if not any(left.glob("*.synced")):
                shutil.rmtree(left)
        self.folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "silent": True, "console": "off", "init_timeout": PATIENCE_S, "disable_git": True, "disable_code": True,
            "x_disable_stats": True, "x_disable_meta": True,
        }  # fmt: skip
        run = wandb.init(
            project=_project(self.record),
            group=self.record.name,
            name=f"trial {trial.number}",
            id=name,
            dir=self.folder,
            job_type="trial",
            tags=[trial.label] if trial.label else None,
            config={**trial.config, "searched": dict(trial.searched)},
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**settings),
        )
        return run, run.starting_step - 1


def _folder() -> Path:
    return Path(os.environ.get("WANDB_DIR") or mlflow_folder())


def _study(record: StudyRecord) -> str:
    return str(record.about["id"])[:16]


def _project(record: StudyRecord) -> str:
    return os.environ.get("WANDB_PROJECT") or record.name


def _whole(mark: Path, trial: Trial) -> bool:
    """Nothing is missing in the copy of a trial."""
    try:
        known = json.loads(mark.read_bytes())
        return trial.ended and (trial.fresh is None or bool(known["fresh"]))
    except (OSError, ValueError, TypeError, KeyError):
        return False
