"""MLflow's embedded database is made once, whoever comes first; the process that writes to it; no password is told."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from study.driving import assert_mlflow_equals_record, runs_of, tiny_record

from raymeta.study.run import tracker
from raymeta.study.run.tracker import Tracker
from raymeta.study.tracking.connection import connect, problem_of, tracking_uri

CONNECT = """
import sys, time
from raymeta.study.tracking.connection import connect, experiment
import mlflow
while time.time() < float(sys.argv[2]):
    pass
print(experiment(connect(), sys.argv[1]))
"""


def test_two_searches_started_at_once_share_one_database(studies: Path) -> None:
    at = str(time.time() + 8)
    both = [
        subprocess.Popen([sys.executable, "-c", CONNECT, name, at], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert err == b""
    assert {"one", "two"} <= {found.name for found in connect().search_experiments()}


def test_where_runs_go(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri() == f"sqlite:///{studies}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


def test_a_problem_tells_no_password() -> None:
    assert problem_of(OSError("no http://me:secret@host:1/api\nmore")) == "OSError: no http://host:1/api"
    assert problem_of(ValueError()) == "ValueError: "


@pytest.mark.slow
def test_a_summary_that_cannot_be_made_ends_no_study(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data may be gone by the end, and a problem from outside may raise anything."""

    def fails(*ignored: object) -> None:
        raise OSError("the data are gone")

    record = tiny_record("tiny", "study.trials=1")
    monkeypatch.setattr(tracker, "summary_content", fails)
    with Tracker(record) as mlflow:
        mlflow.summarise()
    assert mlflow.problem == "it has no summary (OSError: the data are gone)"


def test_runs_that_a_killed_driver_had_only_begun_are_made_whole(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=1")
    record.ask()
    with Tracker(record) as tracker:
        tracker.update_all()
    (parent,), (child,) = runs_of("tiny")
    client = connect()
    for run in (parent, child):
        client.delete_run(run.info.run_id)  # and in their place the same runs as `create_run` leaves them
        tags = {k: v for k, v in run.data.tags.items() if k != "raymeta.described"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = runs_of("tiny")[0][0].info.run_id
        client.create_run(run.info.experiment_id, tags=tags)
    record.add_round(0, {"outer_steps": 2, "val_mse": 1.0, "val_ci95": 0.1, "seconds": 0.1, "at": 1.0})
    record.finish(0, "completed")
    for _ in range(2):
        with Tracker(record) as tracker:
            tracker.update_all()
            tracker.update_all()
        assert tracker.problem == ""
    (again,), (_,) = runs_of("tiny")
    assert again.data.params == parent.data.params != {}
    assert {found.path for found in client.list_artifacts(again.info.run_id)} == {"base.yaml", "space.yaml"}
    client.set_terminated(again.info.run_id)
    assert_mlflow_equals_record("tiny")


def test_the_process_that_writes_to_mlflow_ends_with_its_driver(studies: Path) -> None:
    tracker = Tracker(tiny_record()).__enter__()
    assert tracker.process.stdin is not None
    tracker.process.stdin.close()  # as the system does it when the driver is killed
    assert tracker.process.wait(timeout=60) == 1


def test_the_process_that_writes_to_mlflow_is_killed(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=1")
    with Tracker(record) as tracker:
        tracker.process.kill()
        tracker.process.wait(timeout=60)
        number = record.ask().number
        tracker.update(number)
    assert tracker.problem == "the process that writes to it ended (-9)"
    with Tracker(record) as tracker:  # as `resume` does
        tracker.update_all()
    assert tracker.problem == ""
    assert len(runs_of("tiny")[1]) == 1
