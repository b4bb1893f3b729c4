"""kill -9 and SIGTERM at seeded moments, over and over, until every study is at its end: nothing is lost, doubled or
different, in the search as in the finalists' phase.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from study.driving import TINY, assert_mlflow_equals_record, load, numbers, processes, raymeta, start, workers

from raymeta.study.record.finalists import FILE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(7200)]

BUDGET = "budget.outer_steps=54"
# None depends on timing: one trial at a time, or none that is cut. In the last, finalists take as long as the search.
STUDIES = {
    "promoting": [BUDGET, "--slots", "1"],
    "cut": [BUDGET, "study.halving=stopping", "--slots", "1"],
    "whole": [BUDGET, "study.first_rung=54", "--slots", "2"],
    "finalists": [
        BUDGET, "study.first_rung=54", "--slots", "2", "study.trials=3", "study.finalists=3", "study.finalist_seeds=2",
        "study.finalist_tasks=200",
    ],
    "lanes": ["budget.outer_steps=162", "study.first_rung=162", "engine.lanes=8", "--slots", "2"],
}  # fmt: skip
PROCESSES = [kind for kind in STUDIES if kind != "lanes"]
VICTIMS = ["driver", "driver", "all", "worker", "worker writing a checkpoint"]
TERMINATED = ["driver by SIGTERM", "group by SIGTERM", "all by SIGTERM"]


class Quiet(NamedTuple):
    """What an undisturbed study came to.

    Attributes:
        numbers, scores: of its trials and finalists.
        seconds: from start to end; killed ones are given as long, so that a busy machine kills no earlier.
        computing: seconds from its first round to its last.
    """

    numbers: list[tuple[Any, ...]]
    scores: dict[str, Any]
    seconds: float
    computing: float


def quiet(kind: str, studies: Path) -> Quiet:
    """A study of this kind, to its end in peace."""
    began = time.monotonic()
    done = raymeta("search", *TINY, *STUDIES[kind], "--name", kind, "--json", RAYMETA_STUDIES=str(studies))
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    times = [entry["at"] for trial in load(kind, studies).trials() for entry in trial.rounds]
    found = Quiet(numbers(kind, studies), scores(studies / kind), seconds, max(times) - min(times))
    assert len(found.scores) > 0
    print(
        f"\n{kind}: {len(found.numbers)} trials, {len(times)} rounds, {found.computing:.0f} of {seconds:.0f} s",
        flush=True,
    )
    return found


@pytest.mark.parametrize("kinds", [PROCESSES, ["lanes"]], ids=["processes", "lanes"])
def test_many_kills(kinds: list[str], studies: Path, tmp_path: Path, seed: int, kills: int) -> None:
    """As many kills by -9 as asked for, and half as many by SIGTERM. Of lanes a worker is a fleet."""
    expected = {kind: quiet(kind, tmp_path / f"quiet-{kind}") for kind in kinds}
    chance, killed, began = random.Random(seed), Counter[str](), time.monotonic()
    round_number = 0
    while _by_nine(killed) < kills or killed.total() - _by_nine(killed) < kills // 2:
        kind = kinds[round_number % len(kinds)]
        name = f"{kind}-{round_number}"
        round_number += 1
        victims = [*(VICTIMS if _by_nine(killed) < kills else []), *TERMINATED]
        _to_the_end(name, [*TINY, *STUDIES[kind], "--name", name], chance, killed, studies, victims, expected[kind])
        assert (numbers(name), scores(studies / name)) == expected[kind][:2]
        assert_mlflow_equals_record(name)
        print(f"{name} equals {kind} after {killed.total()} kills, {time.monotonic() - began:.0f} s", flush=True)
    phases = sum(count for what, count in killed.items() if "finalists" in what)
    print(f"\nseed {seed}: {dict(killed)} in {round_number} studies, {time.monotonic() - began:.0f} s")
    assert phases > 0 or "finalists" not in kinds


def scores(study: Path) -> dict[str, Any]:
    """What the finalists came to, by the folder of their weights."""
    found = {path.parent.relative_to(study): json.loads(path.read_text()) for path in study.rglob(FILE)}
    return {str(where): (one["of"], one["values"]) for where, one in sorted(found.items())}


def _by_nine(killed: Counter[str]) -> int:
    return sum(count for what, count in killed.items() if "SIGTERM" not in what)


def _to_the_end(
    name: str,
    search: list[str],
    chance: random.Random,
    killed: Counter[str],
    studies: Path,
    victims: list[str],
    usual: Quiet,
) -> None:
    """Start or go on with a study, kill somebody at some moment, and again, until it is at its end."""
    journal, noted = studies / name / "journal.log", b""
    while True:
        there = (studies / name / "study.yaml").exists()
        slots = search[search.index("--slots") + 1]
        driver = start(*(["resume", name, "--slots", slots] if there else ["search", *search]))
        victim = chance.choice(victims)
        moment = chance.random()
        if victim.startswith("worker"):
            while driver.poll() is None and not workers(studies):
                time.sleep(0.1)
        end = time.monotonic() + moment * (usual.computing if victim.startswith("worker") else usual.seconds)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(0.02)
        if victim == "worker writing a checkpoint":
            end = time.monotonic() + 5
            while time.monotonic() < end and driver.poll() is None and not _writing(studies / name):
                time.sleep(0.001)
        if driver.poll() is None and _kill(victim, driver.pid, studies):
            _note(killed, victim, studies / name)
        if victim.startswith("worker"):  # the driver goes on, for a while at least
            end = time.monotonic() + chance.uniform(0.2, 1) * usual.seconds
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is None:
                _note(killed, "driver", studies / name)
                _kill("driver", driver.pid, studies)
        _, err = driver.communicate(timeout=180 + 2 * usual.seconds)
        for pid in processes(studies):  # what Ray left behind; it would go by itself, but not at once
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if journal.exists():
            content = journal.read_bytes()
            assert content.startswith(noted)  # nothing that was noted is ever written anew
            noted = content[: content.rfind(b"\n") + 1]
        assert "Traceback" not in err
        by_ray = victim == "all by SIGTERM" and driver.returncode == 1  # its C++ ends a driver whose daemon has died
        if "SIGTERM" in victim and not by_ray and driver.returncode not in (0, -signal.SIGTERM):
            assert driver.returncode == 143, err  # -SIGTERM: before Python had begun to hear signals
            if (studies / name / "study.yaml").exists() and "study" in err:
                assert err.splitlines()[-1].startswith(("go on with: raymeta resume", "next: raymeta export"))
        elif "SIGTERM" not in victim:
            assert driver.returncode in (0, -signal.SIGKILL), err
        if driver.returncode == 0:
            assert {trial.state for trial in load(name).trials()} <= {"completed", "pruned", "diverged"}
            return


def _note(killed: Counter[str], victim: str, study: Path) -> None:
    phase = "finalists" if (study / "study.yaml").exists() and load(study.name).over else "search"
    killed[f"{victim}, {phase}"] += 1


def _writing(study: Path) -> bool:
    return any(study.rglob(".next-checkpoint.pt.*"))


def _kill(victim: str, driver: int, studies: Path) -> bool:
    """Whether there was somebody."""
    if victim == "group by SIGTERM":
        with suppress(ProcessLookupError):
            os.killpg(driver, signal.SIGTERM)
        return True
    number = signal.SIGTERM if "SIGTERM" in victim else signal.SIGKILL
    everyone = [driver, *processes(studies)]
    targets = {"driver": [driver], "all": everyone}.get(victim.removesuffix(" by SIGTERM")) or workers(studies)
    for pid in targets:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(targets)
