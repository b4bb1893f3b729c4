"""kill -9, Ctrl-C, a server that is away and numbers that are none: the study goes on as if nothing had happened."""

import json
import os
import signal
from pathlib import Path

import pytest
from study.conftest import studies  # noqa: F401
from study.driving import (
    CLOSED,
    NAME,
    ONE,
    assert_mlflow_equals_record,
    ctrl_c,
    ends_noted,
    frozen_states,
    kill,
    load,
    numbers,
    parse,
    raymeta,
    rounds_noted,
    runs_of,
    start,
    undisturbed,
    until,
    workers,
)

pytestmark = pytest.mark.ray


def times(name: str) -> dict[int, list[float]]:
    """When the rounds of the finished trials were noted."""
    trials = load(name).trials()
    return {trial.number: [entry["at"] for entry in trial.rounds] for trial in trials if trial.state != "running"}


@pytest.mark.slow
def test_the_driver_is_killed_in_mid_search(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> None:  # noqa: F811
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    driver = start("search", *ONE)
    # Two, with one slot: the first one's end is then told to Optuna too, and not only noted.
    until(lambda: ends_noted(NAME) >= 2, driver)
    kill(driver)
    before, cut = times(NAME), [trial for trial in load(NAME).trials() if trial.state == "running"]
    assert before
    assert cut
    heard = {trial.number: [entry["at"] for entry in trial.rounds] for trial in cut}

    done = raymeta("resume", NAME, "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout)["trials"]["running"] == 0
    assert numbers(NAME) == expected  # the trials that were cut are among them
    after = times(NAME)
    assert {number: after[number] for number in before} == before  # no finished trial ran again
    for number, known in heard.items():
        assert after[number][: len(known)] == known
    assert_mlflow_equals_record(NAME)

    journal = (studies / NAME / "journal.log").read_bytes()
    runs = {run.info.run_id for kind in runs_of(NAME) for run in kind}
    again = raymeta("resume", NAME, "--slots", "1")
    assert again.returncode == 0, again.stderr
    assert (studies / NAME / "journal.log").read_bytes() == journal
    assert {run.info.run_id for kind in runs_of(NAME) for run in kind} == runs
    assert_mlflow_equals_record(NAME)


@pytest.mark.slow
def test_ctrl_c_and_a_killed_worker(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> None:  # noqa: F811
    finished = undisturbed(tmp_path_factory.getbasetemp())
    assert finished.studies != studies

    def agree() -> None:
        """Whatever was trained is what an undisturbed study trains."""
        for found, expected in zip(numbers(NAME), finished.numbers, strict=False):
            assert found[:3] == expected[:3]
            shorter = min(len(found[4]), len(expected[4]))
            assert found[4][:shorter] == expected[4][:shorter]

    # Once: no new trials, the running ones finish.
    driver = start("search", *ONE)
    until(lambda: rounds_noted(NAME) >= 2, driver)
    asked = len(load(NAME).trials())
    ctrl_c(driver)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "no new trials or finalists; the running ones finish" in err
    assert err.splitlines()[-1] == f"go on with: raymeta resume {NAME}"
    trials = load(NAME).trials()
    assert asked <= len(trials) <= asked + 1 < 8
    assert "running" not in {trial.state for trial in trials}
    assert numbers(NAME) == finished.numbers[: len(trials)]

    # Twice: it leaves at once.
    noted = rounds_noted(NAME)
    driver = start("resume", NAME, "--slots", "1")
    until(lambda: rounds_noted(NAME) >= noted + 1, driver)
    ctrl_c(driver)
    ctrl_c(driver)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "leaving; what runs is saved first" in err or "no new trials" in err
    assert err.splitlines()[-1] == f"go on with: raymeta resume {NAME}"
    assert len(load(NAME).trials()) < 8
    agree()

    # And a worker dies.
    noted = rounds_noted(NAME)
    driver = start("resume", NAME, "--slots", "1", "--json")
    until(lambda: rounds_noted(NAME) >= noted + 1 and workers(studies), driver)
    for worker in workers(studies):
        os.kill(worker, signal.SIGKILL)
    out, err = driver.communicate(timeout=180)
    assert driver.returncode == 0, err
    answer = parse(out)
    assert sum(answer["trials"].values()) == 8
    assert [trial.reason for trial in load(NAME).trials() if trial.state == "failed"] == []
    agree()
    assert_mlflow_equals_record(NAME)


@pytest.mark.slow
def test_every_trial_diverges_while_mlflow_is_away(studies: Path) -> None:  # noqa: F811
    words = ["maml.inner_lr=1e30", "study.trials=2", "--name", "lost"]
    done = raymeta("search", *ONE, *words, MLFLOW_TRACKING_URI=CLOSED)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "2 diverged of 2" in lines
    assert sum("MLflow was not reached: `raymeta resume lost` sends what it lacks" in line for line in lines) == 1
    assert "Traceback" not in done.stderr
    assert [trial.state for trial in load("lost").trials()] == ["diverged"] * 2
    assert frozen_states("lost") == ["PRUNED", "PRUNED"]
    assert not (studies / "mlflow.db").exists()
    (studies / "lost" / "journal.log").read_text()
    assert json.dumps(numbers("lost"))
    journal = (studies / "lost" / "journal.log").read_bytes()

    done = raymeta("resume", "lost")
    assert done.returncode == 1
    assert "MLflow was not reached" not in done.stderr
    assert (studies / "lost" / "journal.log").read_bytes() == journal
    assert_mlflow_equals_record("lost")
    assert [run.info.status for run in runs_of("lost")[1]] == ["FAILED"] * 2
