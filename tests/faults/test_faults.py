"""One fault each, caused for real: what the command says, and that the study ends as if nothing had happened."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from study.driving import (
    NAME,
    ONE,
    TINY,
    assert_mlflow_equals_record,
    ends_noted,
    kill,
    load,
    numbers,
    parse,
    processes,
    raymeta,
    rounds_noted,
    runs_of,
    start,
    undisturbed,
    until,
    workers,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def said(err: str, words: str) -> str:
    """The one line of the output that has these words."""
    (line,) = [line for line in err.splitlines() if words in line]
    print(f"\n  {line}")
    assert "Traceback" not in err
    return line


def test_a_damaged_checkpoint(studies: Path, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    driver = start("search", *ONE)
    until(lambda: ends_noted(NAME) >= 1 and workers(studies), driver)
    until(lambda: any(len(trial.rounds) > 1 for trial in load(NAME).trials() if trial.state == "running"), driver)
    kill(driver)
    (running,) = [trial for trial in load(NAME).trials() if trial.state == "running" and trial.rounds]
    checkpoint = load(NAME).trial_folder(running.number) / "checkpoint.pt"
    os.truncate(checkpoint, random.Random(seed).randrange(checkpoint.stat().st_size))
    done = raymeta("resume", NAME, "--slots", "1")
    assert done.returncode == 0, done.stderr
    line = said(done.stderr, "not a checkpoint, or a damaged one")
    assert f"trial {running.number}: {checkpoint}: " in line
    assert "; it goes on from outer step " in line
    assert numbers(NAME) == expected
    assert_mlflow_equals_record(NAME)


def test_a_hung_worker(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    driver = start("search", *ONE, "study.hung_after_s=15")
    until(lambda: rounds_noted(NAME) >= 4 and workers(studies), driver)
    for worker in workers(studies):
        os.kill(worker, signal.SIGSTOP)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    line = said(err, "no round for ")
    assert "it goes on from its checkpoint (try 2 of 4)" in line
    assert numbers(NAME) == expected
    assert_mlflow_equals_record(NAME)


def test_a_trial_that_needs_more_memory_than_there_is(studies: Path) -> None:
    """It is tried again with nothing beside it, then told FAIL; the others are not bothered."""
    # NumPy is refused 2**36 tasks of points at once, at any size of machine.
    words = [*TINY, "study.trials=3", "--name", "hungry", "--slots", "2"]
    done = raymeta("search", *words, f"outer.tasks_per_step={2**36}", "--json")
    assert done.returncode == 1, done.stderr
    assert parse(done.stdout)["trials"]["failed"] == 3
    trials = load("hungry").trials()
    assert {trial.state for trial in trials} == {"failed"}
    assert all(trial.reason.startswith("memory: ") for trial in trials)
    assert all((load("hungry").trial_folder(number) / "error.txt").exists() for number in range(3))

    done = raymeta("resume", "hungry")
    assert done.returncode == 1
    told = raymeta("search", *words[:-4], "--name", "again", "--slots", "2", f"outer.tasks_per_step={2**36}").stderr
    lines = [line for line in told.splitlines() if "with nothing beside it" in line]
    print(f"\n  {lines[0]}")
    assert len(lines) == 3
    assert all("it goes on from its checkpoint, with nothing beside it (try 2 of 2)" in line for line in lines)
    assert "Traceback" not in told


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 4 MB for the studies."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    monkeypatch.setenv("RAYMETA_STUDIES", str(place / "studies"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(request: pytest.FixtureRequest) -> None:
    if os.geteuid() == 0:
        _fill(request.getfixturevalue("small_disk"), request.getfixturevalue("tmp_path_factory"))
        return
    # Only root may mount a disk, so whoever is not becomes root of a namespace of his own.
    as_root = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-n", "0", "-m", "slow", "-s"]
    again = [*as_root, f"{__file__}::{test_a_full_disk.__name__}"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_of_ray_dies_and_leaves_nothing_to_compute_on(
    number: int, studies: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    driver = start("search", *ONE)
    until(lambda: rounds_noted(NAME) >= 3, driver)
    (daemon,) = processes(studies, b"raylet/raylet\0")
    os.kill(daemon, number)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1, err
    line = said(err, "raymeta: ")
    assert "Ray has no machine left: its daemon has died" in line
    assert line.endswith(f"`raymeta resume {NAME}` goes on once that is mended")
    done = raymeta("resume", NAME, "--slots", "1")
    assert done.returncode == 0, done.stderr
    assert numbers(NAME) == expected
    assert_mlflow_equals_record(NAME)


def _fill(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    driver = start("search", *ONE)
    until(lambda: rounds_noted(NAME) >= 3, driver)
    with open(small_disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 1, err
    line = said(err, "raymeta: ")
    assert "the disk is full" in line
    assert line.endswith(f"is safe: `raymeta resume {NAME}` goes on once that is mended")
    (small_disk / "filler").unlink()
    done = raymeta("resume", NAME, "--slots", "1")
    assert done.returncode == 0, done.stderr
    assert numbers(NAME) == expected


def test_two_drivers_of_one_study(studies: Path) -> None:
    driver = start("search", *ONE)
    until(lambda: rounds_noted(NAME) >= 1, driver)
    second = raymeta("resume", NAME)
    assert second.returncode == 2
    said(second.stderr, f"raymeta: the study '{NAME}' is being driven by another process on this machine")
    shown = raymeta("status", NAME)
    assert "a process drives it" in shown.stderr
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert load(NAME).over


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real MLflow server on loopback, which can go away and come back."""

    def __init__(self, database: Path) -> None:
        self.database, self.port = database, free_port()
        self.up()

    def up(self) -> None:
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            f"{self.database}.files",
        ]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *place],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self.answers, seconds=180)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def away(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_mlflow_is_away_for_a_while(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it misses comes later, in order and once."""
    server = Server(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    try:
        words = ["search", *TINY, "budget.outer_steps=54", "--slots", "1", "--name", "away"]
        driver = start(*words)
        until(lambda: rounds_noted("away") >= 3 and children("away"), driver)
        server.away()
        there = rounds_noted("away")
        until(lambda: rounds_noted("away") >= there + 10, driver)
        server.up()
        _, err = driver.communicate(timeout=400)
        assert driver.returncode == 0, err
        assert "MLflow was not reached" not in err
        assert_mlflow_equals_record("away")
    finally:
        server.away()


def children(name: str) -> int:
    return len(runs_of(name)[1])


def test_a_node_dies(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trial goes on from its checkpoint on the node that is left."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        driver = start("search", *TINY, "budget.outer_steps=270", "study.first_rung=270", RAY_ADDRESS=cluster.address)
        until(lambda: rounds_noted(NAME) >= 12, driver)
        cluster.remove_node(nodes[0], allow_graceful=False)
        _, err = driver.communicate(timeout=400)
        assert driver.returncode == 0, err
        assert "its worker died; it goes on from its checkpoint" in err
        assert "Traceback" not in err
        trials = load(NAME).trials()
        assert {trial.state for trial in trials} == {"completed"}
        assert [len(trial.rounds) for trial in trials] == [135] * 8
        assert_mlflow_equals_record(NAME)
    finally:
        cluster.shutdown()
