"""The process that keeps MLflow equal to what the driver of a study tells it: a parent run, a child run for each trial.

MLflow is a copy of the study's record, and costs more than the rest of a driver: a process of its own takes none of the
driver's time and memory. What MLflow lacks is sent in batches; a server that is away delays that and nothing else, and
a later `raymeta resume` tells everything again. Runs are found again by the study's and the trial's tags, so that a
restart doubles none. The process ends with its driver, however that ends.

It reads pickles of the classes below from standard input (`Study` first, `None` at the end), and writes a line of JSON
to standard output whenever its state changes: {"sent": how many messages so far, "problem": why no more, or ""}.
"""

import json
import os
import pickle
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from raymeta.schema import flatten
from raymeta.storage.files import dump_yaml
from raymeta.storage.places import any_path, local_copy
from raymeta.study.tracking.connection import Untracked, connect, deleted, experiment, log, log_params, problem_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
RETRY_S = 3.0
NICENESS = 10  # trials, and what starts them, go first
DESCRIBED = "raymeta.described"  # tag of a run whose parameters and files are all there
NOT_METRICS = ("outer_steps", "diverged", "at", "last", "hostname")


@dataclass(frozen=True)
class Study:
    """What the parent run says from the start."""

    name: str
    id: str
    tags: dict[str, str]
    params: dict[str, Any]
    texts: dict[str, str]


@dataclass(frozen=True)
class Trial:
    """A trial as it is by now.

    Attributes:
        config: the whole of it; None: told before.
        best: its best validation: a metric of the run, and when it was.
    """

    number: int
    label: str
    state: str
    reason: str
    hosts: list[str]
    rounds: list[dict[str, Any]]
    best: tuple[dict[str, float], float] | None
    config: dict[str, Any] | None


@dataclass(frozen=True)
class Summary:
    """The end of a session.

    Attributes:
        files: of the parent run; those that are not there are left out.
        scores: of finalists: trial, metrics, when.
        best: the best trial, and the file of its weights.
    """

    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    scores: list[tuple[int, dict[str, float], float]] = field(default_factory=list)
    best: tuple[int, str] | None = None


Message = Study | Trial | Summary | None


@dataclass
class _Child:
    """A trial's run: the outer steps sent, whether its parameters and files are all there, and all else too; or whether
    a user has deleted it.
    """

    run_id: str
    sent: int = -1
    described: bool = False
    ended: bool = False
    deleted: bool = False


class Copy:
    """MLflow's copy of one study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.pending: dict[int, Trial] = {}
        self.summary: Summary | None = None
        self._runs: dict[int, _Child] = {}
        self._client: MlflowClient | None = None
        self._experiment = self._parent = ""

    @property
    def whole(self) -> bool:
        """MLflow has everything that was told."""
        return self._client is not None and not self.pending and self.summary is None

    def take(self, news: Trial | Summary) -> None:
        """Remember what is to be sent: the last word on each trial."""
        if isinstance(news, Summary):
            self.summary = news
            return
        before = self.pending.get(news.number)
        if before is not None and news.config is None:
            news = replace(news, config=before.config)
        self.pending[news.number] = news

    def send_one(self) -> None:
        """Send what the parent run says, then a trial, or, if there is none left, the summary.

        Raises:
            Exception: whatever the server or its absence raises; nothing is forgotten.
        """
        client = self._client or self._open()
        if self.pending:
            number = min(self.pending)
            self._send_trial(client, self.pending[number])
            del self.pending[number]
        elif self.summary is not None:
            self._finish(client, self.summary)
            self.summary = None

    def _open(self) -> "MlflowClient":
        from mlflow.entities import ViewType

        client, study = connect(), self.study
        self._experiment = experiment(client, study.name)
        mine = client.search_runs(
            [self._experiment], f"tags.`raymeta.study_id` = '{study.id}'", ViewType.ALL, max_results=50_000
        )
        mine.sort(key=_deleted)
        parents = [run for run in mine if run.data.tags.get("raymeta.kind") == "study"]
        if parents:
            if _deleted(parents[0]):
                raise Untracked(deleted("its run", f"runs restore --run-id {parents[0].info.run_id}"))
            self._parent = parents[0].info.run_id
            client.update_run(self._parent, status="RUNNING")
        else:
            self._parent = client.create_run(self._experiment, tags=study.tags).info.run_id
        if not (parents and DESCRIBED in parents[0].data.tags):
            log_params(client, self._parent, study.params)
            for name, text in study.texts.items():
                client.log_text(self._parent, text, name)
            client.set_tag(self._parent, DESCRIBED, "yes")
        for run in reversed(mine):  # of a trial's runs one that is not deleted is the one
            if run.data.tags.get("raymeta.kind") == "trial":
                self._runs[int(run.data.tags["raymeta.trial"])] = _found(run)
        self._client = client
        return client

    def _send_trial(self, client: "MlflowClient", trial: Trial) -> None:
        """What MLflow lacks of a trial, in one batch where it can be."""
        from mlflow.entities import Metric, RunTag

        if trial.number not in self._runs:
            self._runs[trial.number] = _Child(self._make_run(client, trial))
        child = self._runs[trial.number]
        if child.ended:
            return
        params, tags = {}, []
        if not child.described and trial.config is not None:  # new, or its driver was killed right after making it
            client.log_text(child.run_id, dump_yaml(trial.config), "config.yaml")
            params, tags = flatten(trial.config), [RunTag(DESCRIBED, "yes")]
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
            scores, at = trial.best or ({}, 0.0)
            metrics += [Metric(key, value, int(1000 * at), 0) for key, value in scores.items()]
        log(client, child.run_id, params, metrics, tags)
        child.described = True
        if trial.rounds:
            child.sent = trial.rounds[-1]["outer_steps"]
        if trial.state != "running":
            end = int(trial.rounds[-1]["at"] * 1000) if trial.rounds else None
            client.set_terminated(child.run_id, STATUS[trial.state], end_time=end)
            child.ended = True

    def _make_run(self, client: "MlflowClient", trial: Trial) -> str:
        tags = {
            "mlflow.parentRunId": self._parent,
            "mlflow.runName": f"trial {trial.number}",
            "raymeta.kind": "trial",
            "raymeta.study": self.study.name,
            "raymeta.study_id": self.study.id,
            "raymeta.trial": str(trial.number),
            "raymeta.state": "running",
            "raymeta.start_point": trial.label,
        }
        first = trial.rounds[0] if trial.rounds else None
        start = int((first["at"] - first["seconds"]) * 1000) if first else None
        return str(client.create_run(self._experiment, start_time=start, tags=tags).info.run_id)

    def _finish(self, client: "MlflowClient", summary: Summary) -> None:
        from mlflow.entities import Metric

        for key, value in summary.metrics.items():
            client.log_metric(self._parent, key, value)
        for key, word in summary.tags.items():
            client.set_tag(self._parent, key, word)
        for name, text in summary.texts.items():
            client.log_text(self._parent, text, name)
        for path in summary.files:
            _log_file(client, self._parent, path)
        gone = {number for number, child in self._runs.items() if child.deleted}
        if summary.best and summary.best[0] not in gone:
            _log_file(client, self._runs[summary.best[0]].run_id, summary.best[1])
        for number, scores, at in summary.scores:
            told = [Metric(key, score, int(1000 * at), 0) for key, score in scores.items()]
            best = summary.best is not None and summary.best[0] == number
            for run in [*([] if number in gone else [self._runs[number].run_id]), *([self._parent] if best else [])]:
                client.log_batch(run, metrics=told)
        client.set_terminated(self._parent, summary.status)


def _found(run: "Run") -> _Child:
    """A trial's run that is there; one that was deleted in MLflow is not made again."""
    sent = int(run.data.metrics.get("outer_steps_done", -1))
    ended = _deleted(run) or run.info.status in STATUS.values()
    return _Child(run.info.run_id, sent, DESCRIBED in run.data.tags, ended, _deleted(run))


def _deleted(run: "Run") -> bool:
    return bool(run.info.lifecycle_stage == "deleted")


def _log_file(client: "MlflowClient", run_id: str, path: str) -> None:
    """Log a file, of this machine or of the studies' store, if it is there."""
    if any_path(path).exists():
        with local_copy(any_path(path)) as copy:
            client.log_artifact(run_id, str(copy))


def _read(stream: BinaryIO, inbox: "queue.Queue[Message]") -> None:
    """Take messages as they come, so that the driver never waits; without a driver there is nothing to do any more."""
    while True:
        try:
            inbox.put(pickle.load(stream))
        except (EOFError, pickle.UnpicklingError):
            os._exit(1)


def main() -> None:
    """Copy until the driver has said the end and MLflow has everything."""
    for name in ("SIGINT", "SIGUSR1"):  # what they mean is the driver's to decide
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.nice(NICENESS)
    states, sys.stdout = sys.stdout, sys.stderr  # whatever MLflow prints
    inbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, inbox), daemon=True).start()
    study = inbox.get()
    assert isinstance(study, Study)
    copy, ending, sent, problem, told, retry_at = Copy(study), False, 0, "", "", 0.0
    while not (ending and copy.whole):
        if copy.whole or time.monotonic() < retry_at or not inbox.empty():
            wait = None if copy.whole else max(0.0, retry_at - time.monotonic())
            try:
                news = inbox.get(timeout=wait)
            except queue.Empty:
                continue
            if isinstance(news, Trial | Summary):
                copy.take(news)
            ending = ending or news is None
        else:
            try:
                copy.send_one()
                sent, problem = sent + 1, ""
            except Exception as error:  # whatever the server or its absence raises: keep it and try again
                problem, retry_at = problem_of(error), time.monotonic() + RETRY_S
        state = json.dumps({"sent": sent, "problem": problem})
        if state != told:
            told = state
            print(state, file=states, flush=True)
    os._exit(0)  # an ordinary end would stumble over the thread that still reads
