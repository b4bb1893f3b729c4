"""The process that keeps MLflow equal to what the driver of a study tells it: a parent run, a child run for each trial.

MLflow is a copy of the study's record, and costs more than the rest of a driver: a process of its own takes none of the
driver's time and memory. What MLflow lacks is sent in batches; a server that is away delays that and nothing else, and
a later `raymeta resume` tells everything again. Runs are found again by the study's and the trial's tags, so that a
restart doubles none. The process ends with its driver, however that ends.

It reads pickles of messages (messages.py) from standard input (`Study` first, `None` at the end), and writes a line of
JSON to standard output whenever its state changes: {"sent": how many messages so far, "problem": why no more, or "",
"lacking": what it gives up to copy, and why, or ""}.
"""

import json
import os
import pickle
import queue
import shlex
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from raymeta.schema import flatten
from raymeta.storage.files import dump_yaml
from raymeta.storage.places import any_path, local_copy
from raymeta.study.tracking import model as models
from raymeta.study.tracking.connection import Untracked, connect, deleted, experiment, log, log_params, problem_of
from raymeta.study.tracking.messages import HERE, RANK, Message, Place, Study, Summary, Trial
from raymeta.study.tracking.model import FewShotModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
RETRY_S = 3.0
NICENESS = 10  # trials, and what starts them, go first
DESCRIBED = "raymeta.described"  # tag of a run whose parameters and files are all there
NOT_METRICS = ("outer_steps", "diverged", "at", "last", "waits", "hostname")


@dataclass
class _Child:
    """A trial's run: its place, the outer steps sent, whether its parameters and files are all there, and all else too;
    or whether a user has deleted it.
    """

    run_id: str
    place: Place
    sent: int = -1
    described: bool = False
    ended: bool = False
    deleted: bool = False


class Copy:
    """MLflow's copy of one study.

    Attributes:
        lacking: what was told and is not there, and why; "": nothing.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.pending: dict[int, Trial] = {}
        self.summary: Summary | None = None
        self.places: dict[int, Place] = {}
        self.model: FewShotModel | None = None
        self.lacking = ""
        self._scores: dict[int, tuple[dict[str, float], float]] = {}
        self._runs: dict[int, _Child] = {}
        self._client: MlflowClient | None = None
        self._experiment = self._parent = self._has_model = ""

    @property
    def whole(self) -> bool:
        """MLflow has everything that was told."""
        waiting = self.pending or self.summary or self.places or self.model
        return self._client is not None and not waiting

    def take(self, news: Trial | Summary) -> None:
        """Remember what is to be sent: the last word on each trial."""
        if isinstance(news, Summary):
            self.summary, self.places, self.model = news, dict(news.places), news.model
            self._scores = news.scores
            return
        before = self.pending.get(news.number)
        if before is not None and news.config is None:
            news = replace(news, config=before.config)
        self.pending[news.number] = news

    def send_one(self) -> None:
        """Send what the parent run says, then a trial; if none is left the summary, then a place, then the model.

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
        elif self.places:
            number = min(self.places)
            self._send_place(client, number, self.places[number])
            del self.places[number]
        elif self.model is not None:
            self._send_model(client, self.model)
            self.model = None

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
            client.set_tag(self._parent, "raymeta.state", "running")
            self._has_model = parents[0].data.tags.get(models.OF, "")
        else:
            self._parent = client.create_run(self._experiment, tags=study.tags).info.run_id
        self._set_views(client, study.views)
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
            self._runs[trial.number] = _Child(self._make_run(client, trial), Place(role=trial.role))
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
        if trial.best:
            scores, step, at = trial.best
            metrics += [Metric(key, value, int(1000 * at), step) for key, value in scores.items()]
            tags.append(RunTag("raymeta.score", trial.score))
            child.place = replace(child.place, score=trial.score)
        if trial.state in STATUS:
            tags += [RunTag("raymeta.state", trial.state), RunTag("raymeta.reason", trial.reason)]
        log(client, child.run_id, params, metrics, tags)
        child.described = True
        if trial.rounds:
            child.sent = trial.rounds[-1]["outer_steps"]
        if trial.state in STATUS:
            end = int(trial.rounds[-1]["at"] * 1000) if trial.rounds else None
            client.set_terminated(child.run_id, STATUS[trial.state], end_time=end)
            child.ended = True

    def _make_run(self, client: "MlflowClient", trial: Trial) -> str:
        tags = {
            "mlflow.parentRunId": self._parent,
            "mlflow.runName": f"trial {trial.number}",
            "mlflow.note.content": _note(self.study.name, trial.number),
            "raymeta.kind": "trial",
            "raymeta.study": self.study.name,
            "raymeta.study_id": self.study.id,
            "raymeta.trial": str(trial.number),
            "raymeta.state": "running",
            "raymeta.start_point": trial.label,
            "raymeta.role": trial.role,
        }
        first = trial.rounds[0] if trial.rounds else None
        start = int((first["at"] - first["seconds"]) * 1000) if first else None
        return str(client.create_run(self._experiment, start_time=start, tags=tags).info.run_id)

    def _set_views(self, client: "MlflowClient", views: dict[str, str]) -> None:
        for key, word in views.items():
            client.set_experiment_tag(self._experiment, key, word)

    def _finish(self, client: "MlflowClient", summary: Summary) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, 0) for key, value in summary.metrics.items()]
        tags = {key: word.replace(HERE, self._experiment) for key, word in summary.tags.items()}
        log(client, self._parent, {}, metrics, [RunTag(key, word) for key, word in tags.items()])
        for name, text in summary.texts.items():
            client.log_text(self._parent, text, name)
        for path in summary.files:
            _log_file(client, self._parent, path)
        self._set_views(client, summary.views)
        client.set_terminated(self._parent, summary.status)

    def _send_place(self, client: "MlflowClient", number: int, place: Place) -> None:
        """A trial's place and a finalist's scores, if the run has others."""
        from mlflow.entities import Metric, RunTag

        child = self._runs.get(number)
        if child is None or child.deleted or child.place == place:
            return
        scores, at = self._scores.get(number, ({}, 0.0))
        metrics = [Metric(key, score, int(1000 * at), 0) for key, score in scores.items()]
        if place.rank:
            metrics.append(Metric(RANK, place.rank, int(1000 * time.time()), 0))
        tags = {"raymeta.role": place.role, "raymeta.score": place.score, "raymeta.fresh_score": place.fresh}
        log(client, child.run_id, {}, metrics, [RunTag(key, word) for key, word in tags.items()])
        child.place = place

    def _send_model(self, client: "MlflowClient", model: FewShotModel) -> None:
        """The best weights, if they are not there. It is the last and may be large; without it the copy is good."""
        if model.of == self._has_model:
            return
        try:
            models.keep(client, self._experiment, self._parent, model)
        except Exception as error:  # of the server, of a disk, of what MLflow thinks of models
            self.lacking = f"it has no model of the best weights ({problem_of(error)})"
        else:
            self._has_model = model.of


def _found(run: "Run") -> _Child:
    """A trial's run that is there; one that was deleted in MLflow is not made again."""
    sent = int(run.data.metrics.get("outer_steps_done", -1))
    ended = _deleted(run) or run.info.status in STATUS.values()
    tags, rank = run.data.tags, int(run.data.metrics.get(RANK, 0))
    place = Place(rank, *(tags.get(f"raymeta.{key}", "") for key in ("role", "score", "fresh_score")))
    return _Child(run.info.run_id, place, sent, DESCRIBED in tags, ended, _deleted(run))


def _note(study: str, number: int) -> str:
    """What can be done with a trial, on its page."""
    study = shlex.quote(study)
    return (
        f"- its config: `raymeta export {study} --trial {number} -o trial{number}.yaml`, "
        f"then `raymeta final trial{number}.yaml`\n"
        f"- its weights: `raymeta.open_study({study!r}).load({number})`\n"
    )


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
        state = json.dumps({"sent": sent, "problem": problem, "lacking": copy.lacking})
        if state != told:
            told = state
            print(state, file=states, flush=True)
    os._exit(0)  # an ordinary end would stumble over the thread that still reads
