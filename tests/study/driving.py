"""The smallest real study, and the command line in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from raymeta.problem import open_problem
from raymeta.storage.files import studies_folder, write_atomically
from raymeta.study.plan.plan import Plan, make_plan
from raymeta.study.record.finalists import FILE, Weights, weights
from raymeta.study.record.record import StudyRecord

COMMAND = Path(sys.executable).with_name("raymeta")
WORDS = [
    "model.hidden=[8]",
    "outer.tasks_per_step=2",
    "maml.inner_steps=1",
    "budget.outer_steps=18",
    "budget.validate_every=2",
    "budget.validation_tasks=10",
    "budget.test_tasks=10",
    "study.first_rung=2",
    "study.trials=8",
]
# Rungs at 2, 6 and 18 outer steps; with one slot and so few trials (all proposed at random) nothing depends on timing.
TINY = ["maml+dropgrad", "--task", "sinusoid-5s", *WORDS]
ONE = [*TINY, "budget.outer_steps=54", "--slots", "1"]  # and at 54: long enough to be killed in its middle
NAME = "maml+dropgrad-sinusoid-5s"
KINDS = re.compile(rb"Trainable|Fleet|_Worker")
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens


def tiny_plan(*words: str) -> Plan:
    return make_plan("maml+dropgrad", "sinusoid-5s", None, [*WORDS, *words])


def tiny_record(name: str = "tiny", *words: str) -> StudyRecord:
    plan = tiny_plan(*words)
    problem = open_problem(plan.base.task)
    return StudyRecord.create(studies_folder() / name, plan, problem.metric, problem.fingerprint)


def noted(record: StudyRecord, *scores: float, steps: int = 18) -> None:
    """A trial with these scores at its last outer steps, of which only the record is there."""
    number, key = record.ask().number, f"val_{record.metric.name}"
    for place, value in enumerate(scores):
        record.add_round(
            number, {"outer_steps": steps - len(scores) + place + 1, key: value, "val_ci95": 0.1, "at": 1.0}
        )
    record.finish(number, "completed" if steps == 18 else "pruned")


def give(one: Weights, values: list[float], reason: str = "") -> None:
    """A finalist's scores as a worker would have left them."""
    content = {"of": one.identity, "values": values, "reason": reason, "seconds": 0.1, "at": 2.0}
    write_atomically(one.folder / FILE, json.dumps(content))


def give_all(record: StudyRecord, **values: list[float]) -> None:
    """`t0=[...]`: the scores of trial 0's own weights."""
    for name, found in values.items():
        give(weights(record, record.trial(int(name[1:])))[0], found)


def raymeta(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(COMMAND), *words], capture_output=True, text=True, timeout=600, env=os.environ | environment, check=False
    )


def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
    """The command, going on in the background in a session of its own."""
    return subprocess.Popen(
        [str(COMMAND), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )


def load(name: str, studies: Path | None = None) -> StudyRecord:
    return StudyRecord.load((studies or studies_folder()) / name)


def until(condition: Callable[[], Any], process: "subprocess.Popen[str] | None" = None, seconds: float = 120) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the command ended early ({process.returncode}):\n{process.communicate()[1]}")
        time.sleep(0.02)


def rounds_noted(name: str) -> int:
    """Rounds in the journal of a study that another process may be writing."""
    journal = studies_folder() / name / "journal.log"
    return journal.read_bytes().count(b'"round 0') if journal.exists() else 0


def ends_noted(name: str) -> int:
    """Trials that the same journal says are over."""
    journal = studies_folder() / name / "journal.log"
    return journal.read_bytes().count(b'"user_attr":{"state":') if journal.exists() else 0


def numbers(name: str, studies: Path | None = None) -> list[tuple[Any, ...]]:
    """What must not depend on when and how often a study was interrupted."""
    return [
        (
            trial.number,
            trial.label,
            trial.point,
            trial.state,
            [{key: value for key, value in entry.items() if key not in ("seconds", "at")} for entry in trial.rounds],
        )
        for trial in load(name, studies).trials()
    ]


def runs_of(name: str) -> tuple[list[Any], list[Any]]:
    """A study's parent runs and child runs in the embedded MLflow."""
    from raymeta.study.tracking.connection import connect

    client = connect()
    found = client.get_experiment_by_name(name)
    if found is None:
        return [], []
    runs = client.search_runs([found.experiment_id])
    kinds = [[run for run in runs if run.data.tags.get("raymeta.kind") == kind] for kind in ("study", "trial")]
    assert len(runs) == len(kinds[0]) + len(kinds[1])
    return kinds[0], kinds[1]


def assert_mlflow_equals_record(name: str) -> None:
    """One finished parent, one finished child per trial with every round once, whatever happened meanwhile."""
    from raymeta.study.tracking.connection import connect

    client, record = connect(), load(name)
    (parent,), children = runs_of(name)
    assert parent.info.status == "FINISHED"
    by_trial = {int(run.data.tags["raymeta.trial"]): run for run in children}
    assert len(children) == len(by_trial) == len(record.trials())
    for trial in record.trials():
        run = by_trial[trial.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["raymeta.state"] == trial.state
        assert run.info.status == {"diverged": "FAILED", "failed": "FAILED"}.get(trial.state, "FINISHED")
        assert run.data.params == {key: str(value) for key, value in record.config(trial).flat().items()}
        history = client.get_metric_history(run.info.run_id, "val_mse")
        assert sorted((m.step, m.value) for m in history) == [
            (entry["outer_steps"], entry["val_mse"]) for entry in trial.rounds if "val_mse" in entry
        ]


def processes(studies: Path, title: bytes = b"") -> list[int]:
    """Processes of raymeta and of Ray that belong to these studies; each has inherited where they are."""
    found, mine = [], f"RAYMETA_STUDIES={studies}\0".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if title in command and mine in environment and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def workers(studies: Path) -> list[int]:
    """Processes that run trials of these studies right now, each its own or a fleet of them, or score finalists."""
    titles = {pid: _title(pid) for pid in processes(studies, b"ray::")}
    return [pid for pid, title in titles.items() if title.startswith(b"ray::") and KINDS.search(title)]


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def ctrl_c(process: "subprocess.Popen[str]") -> None:
    """As a terminal does it: every process of the group hears it, Ray's too."""
    os.killpg(process.pid, signal.SIGINT)


def kill(process: "subprocess.Popen[str]") -> None:
    """As `kill -9` of the driver alone; Ray's processes notice by themselves."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def parse(output: str) -> dict[str, Any]:
    """The one line of JSON on standard output."""
    (line,) = output.splitlines()
    return dict(json.loads(line))


def frozen_states(name: str) -> list[str]:
    """The states of a study's trials in Optuna's own words."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(studies_folder() / name / "journal.log")))
    return [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).get_trials()]


@dataclass
class Finished:
    """A study that ran to its end."""

    studies: Path
    done: "subprocess.CompletedProcess[str]"
    numbers: list[tuple[Any, ...]]


@cache
def undisturbed(base: Path) -> Finished:
    """`raymeta search` of the tiny study, whole; once a session. `base`: pytest's folder of this session."""
    studies = base / "undisturbed"
    done = raymeta("search", *ONE, "--json", RAYMETA_STUDIES=str(studies))
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(studies))
        return Finished(studies, done, numbers(NAME))
