"""MLflow's embedded database: made whole, once, whoever comes first; problems in a line that tells no password."""

import subprocess
import sys
from pathlib import Path

from raymeta.study.tracking import problem_of, tracking_uri

CONNECT = """
import sys, time
from raymeta.study.tracking import connect, experiment
import mlflow
while time.time() < float(sys.argv[2]):
    pass
print(experiment(connect(), sys.argv[1]))
"""


def test_two_searches_started_at_once_share_one_database(studies: Path) -> None:
    import time

    at = str(time.time() + 8)
    both = [
        subprocess.Popen([sys.executable, "-c", CONNECT, name, at], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert err == b""
    from raymeta.study.tracking import connect

    assert {"one", "two"} <= {found.name for found in connect().search_experiments()}


def test_where_runs_go(studies: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert tracking_uri() == f"sqlite:///{studies}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


def test_a_problem_tells_no_password() -> None:
    assert problem_of(OSError("no http://me:secret@host:1/api\nmore")) == "OSError: no http://host:1/api"
    assert problem_of(ValueError()) == "ValueError: "
