"""MLflow: a parent run for the study, a child run for each trial, kept equal to the study's record.

MLflow is a copy of the record. A thread sends what it lacks, in batches; a server that is away delays that and nothing
else, and a later `raymeta resume` sends the rest. Runs are found again by the study's and the trial's tags, so that a
restart doubles none.
"""

import os
import queue
import re
import threading
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from raymeta.files import dump_yaml, mlflow_folder
from raymeta.schema import flatten
from raymeta.storage import local_copy
from raymeta.study.finalists import Standings, settled, standings
from raymeta.study.record import StudyRecord, TrialRecord
from raymeta.study.session import Session

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run, RunTag


STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
PATIENCE_S = 60.0  # how long the end of a study waits for a server that takes nothing
RETRY_S = 3.0
DESCRIBED = "raymeta.described"  # tag of a run whose parameters and files are all there
NOT_METRICS = ("outer_steps", "diverged", "at", "last", "hostname")


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or the embedded SQLite (`mlflow_folder`)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{mlflow_folder() / 'mlflow.db'}"


def connect() -> "MlflowClient":
    """A client; makes the embedded database first, whole or not at all (a killed migration would leave it unusable)."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with a server, two lines at a run's end
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # the import sets them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # two searches may be started at once
            if not path.exists():
                making = path.with_name(f".{path.name}.{os.getpid()}")
                MlflowClient(f"sqlite:///{making}").search_experiments(max_results=1)
                os.replace(making, path)
    return MlflowClient(uri)


def problem_of(error: Exception) -> str:
    """What went wrong with MLflow, short and without a password that an address may hold."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {re.sub('//[^/@ ]*@', '//', lines[0])[:200]}"


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, made if there is none; the embedded store keeps artifacts beside its database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    embedded = tracking_uri().startswith("sqlite:///")
    place = (mlflow_folder() / "mlartifacts" / name).as_uri() if embedded else None
    return str(client.create_experiment(name, artifact_location=place))


@dataclass
class _Child:
    """A trial's run: the outer steps sent, whether its parameters and files are all there, and all else too."""

    run_id: str
    sent: int = -1
    described: bool = False
    ended: bool = False


class Tracker:
    """Keeps MLflow equal to a study's record from a thread of its own. Use as a context manager.

    Attributes:
        problem: why MLflow lacks something; at the end "" says that it has everything.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record = record
        self._inbox: queue.Queue[int | None] = queue.Queue()
        self._pending: set[int] = set()
        self._runs: dict[int, _Child] = {}
        self._client: MlflowClient | None = None
        self._parent = ""
        self._summary: Session | None = None
        self._giving_up = threading.Event()
        self.problem = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inbox.put(None)
        never_there = self._client is None and self.problem
        before = inf
        while self._thread.is_alive() and (left := len(self._pending) + self._inbox.qsize()) < before:
            before = left  # a database that is only slower than the trials were is waited for
            self._thread.join(RETRY_S if never_there else PATIENCE_S)
        self._giving_up.set()
        self._thread.join(2 * RETRY_S)
        if self._thread.is_alive() and not self.problem:
            self.problem = "no answer"

    def update(self, number: int) -> None:
        """A trial has something new."""
        self._inbox.put(number)

    def update_all(self) -> None:
        """Send whatever MLflow lacks, of the time before this session too."""
        for trial in self.record.trials():
            self.update(trial.number)

    def summarise(self, session: Session) -> None:
        """The session is over: put its figures, the picture and the best trial on the parent run."""
        self._summary = session

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        ending = False
        while not (ending and not self._pending and self._closed()):
            try:
                ending = self._collect(ending)
                self._send()
                self.problem = ""
            except Exception as error:  # whatever the server or its absence raises: keep the rest and try again
                self.problem = problem_of(error)
                if self._giving_up.wait(RETRY_S):
                    return

    def _closed(self) -> bool:
        if self._summary is None:
            return True
        try:
            self._finish_parent(self._summary)
        except Exception as error:
            self.problem = problem_of(error)
            return self._giving_up.wait(RETRY_S)
        return True

    def _collect(self, ending: bool) -> bool:
        """Wait for news, then take all of it: many rounds of a trial become one batch."""
        numbers: list[int | None] = [] if ending or self._pending else [self._inbox.get()]
        while not self._inbox.empty():
            numbers.append(self._inbox.get())
        for number in numbers:
            if number is not None:
                self._pending.add(number)
        return ending or None in numbers

    def _send(self) -> None:
        if self._client is None:
            self._open()
        for number in sorted(self._pending):
            self._send_trial(self.record.trial(number))  # as it is by now
            self._pending.remove(number)

    def _open(self) -> None:
        client = connect()
        study = self.record
        experiment_id = experiment(client, study.name)
        mine = client.search_runs(
            [experiment_id], f"tags.`raymeta.study_id` = '{study.about['id']}'", max_results=50_000
        )
        parents = [run for run in mine if run.data.tags.get("raymeta.kind") == "study"]
        self._parent = parents[0].info.run_id if parents else self._make_parent(client, experiment_id)
        if not (parents and DESCRIBED in parents[0].data.tags):
            self._describe_parent(client)
        for run in mine:
            if run.data.tags.get("raymeta.kind") == "trial":
                tags, ended = run.data.tags, run.info.status in STATUS.values()
                self._runs[int(tags["raymeta.trial"])] = _Child(run.info.run_id, _sent(run), DESCRIBED in tags, ended)
        if parents:
            client.update_run(self._parent, status="RUNNING")
        self._experiment, self._client = experiment_id, client

    def _make_parent(self, client: "MlflowClient", experiment_id: str) -> str:
        study = self.record
        tags = {
            "mlflow.runName": study.name,
            "mlflow.note.content": f"`{study.about['command']}`\n\nGo on: `raymeta resume {study.name}`",
            "raymeta.kind": "study",
            "raymeta.study": study.name,
            "raymeta.study_id": study.about["id"],
            "raymeta.command": study.about["command"],
            "raymeta.data": study.about["data"]["fingerprint"],
            "raymeta.version": version("raymeta"),
        }
        return str(client.create_run(experiment_id, tags=tags).info.run_id)

    def _describe_parent(self, client: "MlflowClient") -> None:
        plan = self.record.plan
        params = {"method": plan.spec, "space_hash": plan.space.hash, **flatten({"study": plan.study.model_dump()})}
        log_params(client, self._parent, params)
        client.log_text(self._parent, dump_yaml(plan.space.as_dict()), "space.yaml")
        client.log_text(self._parent, plan.base.to_yaml(), "base.yaml")
        client.set_tag(self._parent, DESCRIBED, "yes")

    def _send_trial(self, trial: TrialRecord) -> None:
        """What MLflow lacks of a trial, in one batch where it can be: every call costs the driver some milliseconds."""
        from mlflow.entities import Metric, RunTag

        assert self._client is not None
        if not self.record.plan.space.complete(trial.point):
            return  # its driver was killed while it drew the values: they are told with the trial's next news
        if trial.number not in self._runs:
            self._runs[trial.number] = _Child(self._make_child(self._client, trial))
        child = self._runs[trial.number]
        if child.ended:
            return
        params, tags = {}, []
        if not child.described:  # new, or its driver was killed right after making it
            config = self.record.config(trial)
            self._client.log_text(child.run_id, config.to_yaml(), "config.yaml")
            params, tags = config.flat(), [RunTag(DESCRIBED, "yes")]
        metrics = [
            Metric(key, float(value), int(entry["at"] * 1000), entry["outer_steps"])
            for entry in trial.rounds
            if entry["outer_steps"] > child.sent
            for key, value in [*entry.items(), ("outer_steps_done", entry["outer_steps"])]
            if key not in NOT_METRICS
        ]
        if trial.hosts:
            tags.append(RunTag("raymeta.hosts", " ".join(trial.hosts)))
        if trial.state != "running":
            tags += [RunTag("raymeta.state", trial.state), RunTag("raymeta.reason", trial.reason)]
            metrics += self._best_of(trial)
        log(self._client, child.run_id, params, metrics, tags)
        child.described, child.sent = True, trial.outer_steps if trial.rounds else child.sent
        if trial.state != "running":
            end = int(trial.rounds[-1]["at"] * 1000) if trial.rounds else None
            self._client.set_terminated(child.run_id, STATUS[trial.state], end_time=end)
            child.ended = True

    def _make_child(self, client: "MlflowClient", trial: TrialRecord) -> str:
        tags = {
            "mlflow.parentRunId": self._parent,
            "mlflow.runName": f"trial {trial.number}",
            "raymeta.kind": "trial",
            "raymeta.study": self.record.name,
            "raymeta.study_id": self.record.about["id"],
            "raymeta.trial": str(trial.number),
            "raymeta.state": "running",
            "raymeta.start_point": trial.label,
        }
        first = trial.rounds[0] if trial.rounds else None
        start = int((first["at"] - first["seconds"]) * 1000) if first else None
        return str(client.create_run(self._experiment, start_time=start, tags=tags).info.run_id)

    def _best_of(self, trial: TrialRecord) -> list[Any]:
        from mlflow.entities import Metric

        best = trial.best(self.record.metric)
        if best is None:
            return []
        name = f"val_{self.record.metric.name}"
        return [Metric(f"best_{name}", best[name], int(best["at"] * 1000), 0)]

    def _finish_parent(self, session: Session) -> None:
        assert self._client is not None
        study, client = self.record, self._client
        trials = study.trials()
        for state in ("completed", "pruned", "diverged", "failed"):
            client.log_metric(self._parent, f"trials_{state}", sum(trial.state == state for trial in trials))
        if session.efficiency is not None:
            client.log_metric(self._parent, "slot_efficiency", session.efficiency)
            client.log_metric(self._parent, "wall_s", session.wall_s)
        with local_copy(study.folder / "search.png") as picture:
            client.log_artifact(self._parent, str(picture))
        if (best := study.best()) is not None:
            entry = best.best(study.metric) or {}
            name = f"val_{study.metric.name}"
            client.log_metric(self._parent, f"best_{name}", entry[name])
            client.log_metric(self._parent, "best_val_ci95", entry["val_ci95"])
            client.set_tag(self._parent, "raymeta.best_trial", str(best.number))
            client.log_text(self._parent, study.config(best).to_yaml(), "best_config.yaml")
            checkpoint = study.trial_folder(best.number) / "checkpoint.pt"
            if checkpoint.exists():
                with local_copy(checkpoint) as copy:
                    client.log_artifact(self._runs[best.number].run_id, str(copy))
        if (final := standings(study)) is not None:
            self._tell_finalists(client, final)
        client.set_terminated(self._parent, "FINISHED" if study.over and settled(study) else "KILLED")
        self._summary = None

    def _tell_finalists(self, client: "MlflowClient", final: Standings) -> None:
        from mlflow.entities import Metric

        for one in final.finalists:
            if one.values:
                scores = {f"reevaluated_val_{final.metric.name}": one.mean, "reevaluated_val_ci95": one.ci95}
                told = [Metric(key, score, int(1000 * one.at), 0) for key, score in scores.items()]
                runs = [self._runs[one.trial.number].run_id, *([self._parent] if one is final.best else [])]
                for run in runs:
                    client.log_batch(run, metrics=told)
        client.log_dict(self._parent, final.as_dict(), "finalists.json")


def find_run(record: StudyRecord, trial: int) -> str | None:
    """The id of a trial's MLflow run; None if MLflow has none or is away."""
    from mlflow.exceptions import MlflowException

    query = f"tags.`raymeta.study_id` = '{record.about['id']}' and tags.`raymeta.trial` = '{trial}'"
    try:
        client = connect()
        found = client.get_experiment_by_name(record.name)
        runs = client.search_runs([found.experiment_id], query, max_results=1) if found else []
    except MlflowException:
        return None
    return str(runs[0].info.run_id) if runs else None


def _sent(run: "Run") -> int:
    return int(run.data.metrics.get("outer_steps_done", -1))


def log_params(client: "MlflowClient", run_id: str, params: dict[str, Any]) -> None:
    """Log parameters, of which there may be many."""
    log(client, run_id, params, [], [])


def log(
    client: "MlflowClient", run_id: str, params: dict[str, Any], metrics: list["Metric"], tags: list["RunTag"]
) -> None:
    """Log all of it in as few batches as MLflow's limits allow (100 parameters, 1000 entries), the tags in the last."""
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    while len(entries) > 100:
        client.log_batch(run_id, params=entries[:100])
        entries = entries[100:]
    while len(metrics) > 800:
        client.log_batch(run_id, metrics=metrics[:800])
        metrics = metrics[800:]
    if entries or metrics or tags:
        client.log_batch(run_id, metrics, entries, tags)
