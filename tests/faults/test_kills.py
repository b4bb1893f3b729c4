"""kill -9 at seeded moments, over and over, until every study is at its end: nothing is lost, doubled or different."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from study.driving import TINY, assert_mlflow_equals_record, load, numbers, processes, raymeta, start, workers

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(7200)]

BUDGET = "budget.outer_steps=54"
# Both depend on no timing: one trial at a time, or none that is cut.
STUDIES = {"cut": [BUDGET, "--slots", "1"], "whole": [BUDGET, "study.first_rung=54", "--slots", "2"]}
VICTIMS = ["driver", "driver", "all", "worker", "worker writing a checkpoint"]


def test_many_kills(studies: Path, tmp_path: Path, seed: int, kills: int) -> None:
    expected = {}
    for kind, words in STUDIES.items():
        quiet = tmp_path / f"quiet-{kind}"
        done = raymeta("search", *TINY, *words, "--name", kind, "--json", RAYMETA_STUDIES=str(quiet))
        assert done.returncode == 0, done.stderr
        expected[kind] = numbers(kind, quiet)
    chance, killed, began = random.Random(seed), Counter[str](), time.monotonic()
    round_number = 0
    while killed.total() < kills:
        kind = list(STUDIES)[round_number % 2]
        name = f"{kind}-{round_number}"
        round_number += 1
        _to_the_end(name, [*TINY, *STUDIES[kind], "--name", name], chance, killed, studies)
        assert numbers(name) == expected[kind]
        assert_mlflow_equals_record(name)
    print(f"\nseed {seed}: {dict(killed)} in {round_number} studies, {time.monotonic() - began:.0f} s")


def _to_the_end(name: str, search: list[str], chance: random.Random, killed: Counter[str], studies: Path) -> None:
    """Start or go on with a study, kill somebody at some moment, and again, until it is at its end."""
    journal, noted = studies / name / "journal.log", b""
    while True:
        there = (studies / name / "study.yaml").exists()
        slots = search[search.index("--slots") + 1]
        driver = start(*(["resume", name, "--slots", slots] if there else ["search", *search]))
        victim = chance.choice(VICTIMS)
        end = time.monotonic() + chance.uniform(0, 12)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(0.02)
        if victim == "worker writing a checkpoint":
            end = time.monotonic() + 5
            while time.monotonic() < end and driver.poll() is None and not _writing(studies / name):
                time.sleep(0.001)
        if driver.poll() is None:
            killed[victim] += 1
            _kill(victim, driver.pid, studies)
        if victim.startswith("worker"):  # the driver goes on, for a while at least
            end = time.monotonic() + chance.uniform(5, 30)
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is None:
                killed["driver"] += 1
                _kill("driver", driver.pid, studies)
        _, err = driver.communicate(timeout=60)
        for pid in processes(studies):  # what Ray left behind; it would go by itself, but not at once
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if journal.exists():
            content = journal.read_bytes()
            assert content.startswith(noted)  # nothing that was noted is ever written anew
            noted = content[: content.rfind(b"\n") + 1]
        assert driver.returncode in (0, -signal.SIGKILL), err
        assert "Traceback" not in err
        if driver.returncode == 0:
            assert {trial.state for trial in load(name).trials()} <= {"completed", "pruned", "diverged"}
            return


def _writing(study: Path) -> bool:
    return any(study.glob("trials/*/.next-checkpoint.pt.*"))


def _kill(victim: str, driver: int, studies: Path) -> None:
    targets = {"driver": [driver], "all": [driver, *processes(studies)]}.get(victim) or workers(studies)
    for pid in targets:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
