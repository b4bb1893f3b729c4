"""What the driver tells MLflow of a study, as plain data for the process that copies it (mlflow_copy.py)."""

import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from raymeta.installed import child_environment
from raymeta.schema import flatten
from raymeta.storage.files import dump_yaml
from raymeta.study.record.finalists import settled, standings
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.tracking.mlflow_copy import RETRY_S, Message, Study, Summary, Trial

if TYPE_CHECKING:
    from raymeta.study.machines.session import Session

LISTEN_S = 0.2
PATIENCE_S = 60.0  # how long the end of a study waits for a server that takes nothing


class Tracker:
    """Keeps MLflow equal to a study's record, from a process of its own. Use as a context manager.

    Args:
        record: of the study.
        say: is told once, early, that MLflow can't be used, and why.

    Attributes:
        problem: why MLflow lacks something; at the end "" says that it has everything.
        process: that writes to MLflow.
    """

    def __init__(self, record: StudyRecord, say: Callable[[str], None] = lambda text: None) -> None:
        self.record, self._say, self._said = record, say, False
        self.problem = ""
        self._sent = 0
        self._configs: set[int] = set()  # trials whose config was told

    def __enter__(self) -> Self:
        start = "from raymeta.study.tracking.mlflow_copy import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            process_group=0,  # Ctrl-C of a terminal is not for it
        )
        self._listener = threading.Thread(target=self._listen, name="mlflow", daemon=True)
        self._listener.start()
        self._tell(_study(self.record))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tell(None)
        sent, since = self._sent, time.monotonic()
        while self.process.poll() is None:
            if self._sent > sent:  # a database that is only slower than the trials were is waited for
                sent, since = self._sent, time.monotonic()
            # One that has taken nothing and has said why is tried once more.
            if time.monotonic() - since > (RETRY_S if self.problem and not sent else PATIENCE_S):
                break
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LISTEN_S)
        if self.process.poll() is None:
            self.process.kill()
            self.problem = self.problem or "no answer"
        elif self.process.returncode:
            self.problem = self.problem or f"the process that writes to it ended ({self.process.returncode})"
        self.process.wait()
        self._listener.join()

    def update(self, number: int) -> None:
        """A trial has something new."""
        self._update(self.record.trial(number))

    def update_all(self) -> None:
        """Tell of all trials: MLflow may lack something of the time before this session."""
        for trial in self.record.trials():
            self._update(trial)

    def summarise(self, session: "Session | None" = None) -> None:
        """The session is over: put its figures, if there was one, the picture and the best trial on the parent run."""
        self._tell(_summary(self.record, session))

    def _update(self, trial: TrialRecord) -> None:
        if not self.record.plan.space.complete(trial.point):
            return  # its driver was killed while it drew the values: they are told with the trial's next news
        config = None if trial.number in self._configs else self.record.config(trial).as_dict()
        self._configs.add(trial.number)
        entry, name = trial.best(self.record.metric), f"val_{self.record.metric.name}"
        best = ({f"best_{name}": entry[name]}, entry["at"]) if entry else None
        self._tell(Trial(trial.number, trial.label, trial.state, trial.reason, trial.hosts, trial.rounds, best, config))

    def _tell(self, news: Message) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended, which `__exit__` says
            pickle.dump(news, self.process.stdin)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            state = json.loads(line)
            self.problem, self._sent = state["problem"], state["sent"]
            if self.problem and not self._said:
                self._said = True
                self._say(
                    f"MLflow can't be used: {self.problem}; trials are kept in the study and copied when it is back "
                    f"(`raymeta sync {self.record.name}`)"
                )


def _study(record: StudyRecord) -> Study:
    about, plan = record.about, record.plan
    tags = {
        "mlflow.runName": record.name,
        "mlflow.note.content": f"`{about['command']}`\n\nGo on: `raymeta resume {record.name}`",
        "raymeta.kind": "study",
        "raymeta.study": record.name,
        "raymeta.study_id": about["id"],
        "raymeta.command": about["command"],
        "raymeta.data": about["data"]["fingerprint"],
        "raymeta.version": version("raymeta"),
    }
    params = {"method": plan.spec, "space_hash": plan.space.hash, **flatten({"study": plan.study.model_dump()})}
    texts = {"space.yaml": dump_yaml(plan.space.as_dict()), "base.yaml": plan.base.to_yaml()}
    return Study(record.name, about["id"], tags, params, texts)


def _summary(record: StudyRecord, session: "Session | None") -> Summary:
    trials, name = record.trials(), f"val_{record.metric.name}"
    metrics: dict[str, float] = {
        f"trials_{state}": sum(trial.state == state for trial in trials)
        for state in ("completed", "pruned", "diverged", "failed")
    }
    if session is not None and session.efficiency is not None:
        metrics |= {"slot_efficiency": session.efficiency, "wall_s": session.wall_s}
    found: dict[str, Any] = {"files": [str(record.folder / "search.png")], "tags": {}, "texts": {}}
    if (best := record.best()) is not None:
        entry = best.best(record.metric) or {}
        metrics |= {f"best_{name}": entry[name], "best_val_ci95": entry["val_ci95"]}
        found["tags"]["raymeta.best_trial"] = str(best.number)
        found["texts"]["best_config.yaml"] = record.config(best).to_yaml()
        found["best"] = (best.number, str(record.trial_folder(best.number) / "checkpoint.pt"))
    if (final := standings(record)) is not None:
        found["texts"]["finalists.json"] = json.dumps(final.as_dict(), indent=2)
        found["scores"] = [
            (one.trial.number, {f"reevaluated_{name}": one.mean, "reevaluated_val_ci95": one.ci95}, one.at)
            for one in final.finalists
            if one.values
        ]
    status = "FINISHED" if record.over and settled(record) else "KILLED"
    return Summary(status, metrics, **found)
