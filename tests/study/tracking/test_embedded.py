"""MLflow's database beside the studies: moved, copied, of any name, damaged, and what users delete in it."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study.driving import tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.study.record.home import open_study
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.for_mlflow import study_content
from raymeta.study.run.tracker import Tracker
from raymeta.study.tracking import embedded
from raymeta.study.tracking.connection import Untracked, connect, find_run, problem_of, to_be_served
from raymeta.study.tracking.mlflow_copy import Copy

ODD = "a?b=c&d#e%2f é;"


def noted_whole(record: StudyRecord, score: float) -> None:
    number = record.ask().number
    record.add_round(number, {"outer_steps": 2, "val_mse": score, "val_ci95": 0.1, "seconds": 0.1, "at": 1.0})
    record.finish(number, "completed")


def copied(record: StudyRecord) -> None:
    """Copy a study to MLflow in this process."""
    tracker, news = Tracker(record), list[Any]()
    tracker._tell = news.append  # type: ignore[method-assign]
    tracker.update_all()
    tracker.summarise()
    copy = Copy(study_content(record))
    for one in news:
        copy.take(one)
    while not copy.whole:
        copy.send_one()


def tracked(name: str = "tiny") -> str:
    """A study with one trial, and its run."""
    record = tiny_record(name, "study.trials=2")
    noted_whole(record, 3.0)
    copied(record)
    run, problem = find_run(record, 0)
    assert run is not None
    assert problem == ""
    return run


def test_a_home_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, copy = tmp_path / "old ?", tmp_path / ODD, tmp_path / "copy"
    monkeypatch.setenv("RAYMETA_STUDIES", str(old))
    run = tracked()
    files = {path.relative_to(old) for path in (old / "mlartifacts").rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {"config.yaml", "space.yaml"}
    old.rename(new)
    shutil.copytree(new, copy)
    monkeypatch.setenv("RAYMETA_STUDIES", str(new))
    record = open_study("tiny")
    assert find_run(record, 0) == (run, "")
    noted_whole(record, 1.0)
    raymeta.open_study("tiny").sync()  # in another process: this one's MLflow remembers where a run's artifacts were
    other, _ = find_run(record, 1)
    assert (new / "mlartifacts" / "tiny" / str(other) / "artifacts" / "config.yaml").is_file()
    monkeypatch.setenv("RAYMETA_STUDIES", str(copy))
    assert embedded._moved(copy / "mlflow.db") != []
    client = connect()
    assert embedded._moved(copy / "mlflow.db") == []
    assert client.get_run(run).info.artifact_uri == (copy / "mlartifacts" / "tiny" / run / "artifacts").as_uri()
    assert [file.path for file in client.list_artifacts(run)] == ["config.yaml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ODD, "copy"])


PATHS = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=PATHS.filter(lambda name: name not in (".", "..")))
def test_any_letters_are_letters(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "homes" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(folder))
        with closing(sqlite3.connect(Path(embedded.uri().removeprefix("sqlite:///")))) as file, file:
            file.execute("CREATE TABLE IF NOT EXISTS experiments (experiment_id, artifact_location)")
        assert (folder / "mlflow.db").is_file()
        assert embedded._moved(folder / "mlflow.db") == []
        patch.setenv("RAYMETA_STUDIES", str(tmp_path / "not" / name))
        assert embedded.find_run("x", 0) is None
    assert not (tmp_path / "not").exists()


def test_a_link_of_another_s_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    link = embedded._linked(tmp_path / "a?b")
    assert link.readlink() == tmp_path / "a?b"
    assert embedded._linked(tmp_path / "a?b") == link
    link.unlink()
    link.symlink_to(tmp_path / "trap")
    again = embedded._linked(tmp_path / "a?b")
    assert again != link
    assert again.readlink() == tmp_path / "a?b"


def test_a_damaged_database_is_a_line(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tiny_record("tiny", "study.trials=1")
    noted_whole(record, 3.0)
    (studies / "mlflow.db").write_text("no database\n" * 100)
    run, problem = find_run(record, 0)
    assert run is None
    assert problem == (f"{studies}/mlflow.db is damaged (file is not a database): move it away")
    assert raymeta.open_study("tiny").export(studies / "best.yaml").exists()
    with pytest.raises(UserError, match=r"MLflow can't be opened: .*mlflow.db is damaged .*; the studies are whole"):
        to_be_served()
    said: list[str] = []
    with Tracker(record, said.append) as tracker:
        tracker.update_all()
    assert tracker.problem == problem
    assert said == [
        f"MLflow can't be used: {problem}; trials are kept in the study and copied when it is back "
        "(`raymeta sync tiny`)"
    ]
    (studies / "mlflow.db").unlink()
    copied(record)
    assert find_run(record, 0)[0] is not None


KILLED = """
import os, signal, sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("PRAGMA cache_size = 1")  # so that it writes before it commits
file.execute("UPDATE runs SET name = name || hex(randomblob(100000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_was_killed_while_it_wrote(studies: Path) -> None:
    """What it has begun is undone by whoever looks next."""
    run, database = tracked(), studies / "mlflow.db"
    assert subprocess.run([sys.executable, "-c", KILLED, database], check=False).returncode == -signal.SIGKILL
    journal = database.with_name("mlflow.db-journal")
    assert journal.stat().st_size > 0
    assert find_run(StudyRecord.load(studies / "tiny"), 0) == (run, "")
    assert subprocess.run([sys.executable, "-c", KILLED, database], check=False).returncode == -signal.SIGKILL
    assert connect().get_run(run).info.run_name == "trial 0"
    assert not journal.exists()


def test_what_a_user_deletes_is_not_made_again(studies: Path) -> None:
    run = tracked()
    client, record = connect(), open_study("tiny")
    experiment = client.get_experiment_by_name("tiny")
    client.delete_run(run)
    copied(record)
    assert find_run(record, 0) == (None, "")
    (parent,) = client.search_runs([experiment.experiment_id])
    client.delete_run(parent.info.run_id)
    with pytest.raises(Untracked, match=r"its run was deleted there: .*mlflow runs restore --run-id"):
        copied(record)
    client.restore_run(parent.info.run_id)
    client.delete_experiment(experiment.experiment_id)
    words = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
    with pytest.raises(Untracked, match=rf"the experiment 'tiny' was deleted there: .*{words}"):
        copied(record)
    client.restore_experiment(experiment.experiment_id)
    copied(record)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            "postgresql needs a driver that is not installed: pip install 'psycopg",
        ),
        ("mysql://me:secret@127.0.0.1:1/x", "mysql needs a driver that is not installed: pip install 'mysqlclient'"),
        ("nonsense://x", "MLflow knows no address of the kind 'nonsense:'"),
        ("sqlite:////proc/nowhere/mlflow.db", ""),
    ],
)
def test_an_address_that_cannot_be_opened(
    studies: Path, monkeypatch: pytest.MonkeyPatch, uri: str, sentence: str
) -> None:
    record = tiny_record("tiny", "study.trials=1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as caught:
        to_be_served()
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)
    run, problem = find_run(record, 0)
    assert run is None
    assert sentence in problem


def test_a_server_of_its_own_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI=http://127.0.0.1:9: no server answers there"):
        to_be_served()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert to_be_served() is None


def test_a_server_that_is_not_mlflow_s_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI=http://127.*: MLflow can't be opened: .* 501 "):
            to_be_served()
        server.shutdown()


def test_what_a_database_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "(raised as a result of autoflush)\n(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]"
    assert problem_of(OSError(said)) == "OSError: database or disk is full"
