"""One fault each, caused for real: what the command says, and that the study ends as if nothing had happened."""

import os
import random
import signal
import subprocess
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
    raymeta,
    rounds_noted,
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
    (running,) = [trial for trial in load(NAME).trials() if trial.state == "running"]
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
    # NumPy is refused 2**40 tasks of points at once, at any size of machine.
    words = [*TINY, "study.trials=3", "--name", "hungry", "--slots", "2"]
    done = raymeta("search", *words, f"outer.tasks_per_step={2**40}", "--json")
    assert done.returncode == 1, done.stderr
    assert parse(done.stdout)["trials"]["failed"] == 3
    trials = load("hungry").trials()
    assert {trial.state for trial in trials} == {"failed"}
    assert all(trial.reason.startswith("memory: ") for trial in trials)
    assert all((load("hungry").trial_folder(number) / "error.txt").exists() for number in range(3))

    done = raymeta("resume", "hungry")
    assert done.returncode == 1
    told = raymeta("search", *words[:-4], "--name", "again", "--slots", "2", f"outer.tasks_per_step={2**40}").stderr
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
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("a disk of its own needs root")
    monkeypatch.setenv("RAYMETA_STUDIES", str(place / "studies"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
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
    assert line.endswith(f"is safe: make it possible to write, then `raymeta resume {NAME}`")
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
