"""`raymeta final` in processes of its own: left, killed and gone on with, it ends as if nothing had happened.

Whole runs, their tables and what MLflow has of them: tests/study/run/test_search.py.
"""

import json
import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from study.conftest import studies  # noqa: F401
from study.driving import ctrl_c, parse, processes, raymeta, start, until

from raymeta.config import parse_trial
from raymeta.study.plan.plan import make_config
from raymeta.training.trainer import Trainer

pytestmark = pytest.mark.ray

KEYS = ["model.hidden=[8]", "maml.inner_steps=1", "outer.tasks_per_step=2"]
KEYS += ["budget.outer_steps=300", "budget.validate_every=2", "budget.validation_tasks=10", "budget.test_tasks=10"]
SHORT = ["final", "maml", "--task", "sinusoid-5s", *KEYS, "--slots", "1", "--seeds", "2"]
LONG = [*SHORT, "budget.outer_steps=1500"]


def expected(seed: int, budget: int) -> dict[str, Any]:
    """What a seed's result is, without Ray and without an interruption."""
    config = make_config("maml", "sinusoid-5s", None, [*KEYS, f"budget.outer_steps={budget}"])
    trainer = Trainer(parse_trial(config.as_dict() | {"seed": seed}))
    while not trainer.done:
        trainer.round()
    score, ensemble = trainer.test()
    return {"values": score.values.tolist(), "ensemble": ensemble.mean, "rounds": without_times(trainer.rounds)}


def without_times(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in ("seconds", "hostname")} for entry in rounds]


def assert_as_if_nothing_had_happened(folder: Path, budget: int) -> None:
    assert sorted(path.name for path in folder.glob("seed*")) == ["seed0", "seed1"]
    for seed in range(2):
        result = json.loads((folder / f"seed{seed}" / "result.json").read_text())
        found = {key: result[key] for key in ("values", "ensemble")} | {"rounds": without_times(result["rounds"])}
        assert found == expected(seed, budget)


def the_folder(studies: Path) -> Path:  # noqa: F811
    (folder,) = (studies / "finals").iterdir()
    return folder


def trained(studies: Path, seed: int = 0) -> bool:  # noqa: F811
    """At least two rounds of a seed are saved."""
    return bool(list(studies.glob(f"finals/*/seed{seed}/previous-checkpoint.pt")))


def left(command: "subprocess.Popen[str]", words: list[str]) -> list[str]:
    """What a command said that was left by Ctrl-C; at its end how to go on."""
    out, err = command.communicate(timeout=120)
    assert command.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-2].endswith(" final runs are not finished; what is trained is saved")
    assert lines[-1] == f"go on with: raymeta {shlex.join(words)}"
    return lines


@pytest.mark.slow
def test_ctrl_c_once(studies: Path) -> None:  # noqa: F811
    command = start(*SHORT)
    until(lambda: trained(studies), command)
    ctrl_c(command)
    lines = left(command, SHORT)
    assert any("no new rounds; the running ones finish and are saved" in line for line in lines)
    assert lines[-2].startswith("2 of 2 ")
    assert not list(studies.glob("finals/*/*/result.json"))
    assert not list(studies.glob("finals/*/seed1"))  # nothing new was started

    done = raymeta(*SHORT, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = parse(done.stdout)["rows"]
    assert [seed["seed"] for seed in row["seeds"]] == [0, 1]
    assert_as_if_nothing_had_happened(the_folder(studies), 300)


@pytest.mark.slow
def test_ctrl_c_twice(studies: Path) -> None:  # noqa: F811
    command = start(*LONG)
    until(lambda: trained(studies), command)
    ctrl_c(command)
    time.sleep(1)
    ctrl_c(command)
    lines = left(command, LONG)
    assert any("leaving; what runs is saved first" in line for line in lines)
    assert raymeta(*LONG).returncode == 0
    assert_as_if_nothing_had_happened(the_folder(studies), 1500)


@pytest.mark.slow
def test_ctrl_c_before_ray_is_up(studies: Path) -> None:  # noqa: F811
    command = start(*LONG)
    until(lambda: processes(studies, b"gcs_server"), command)
    ctrl_c(command)
    lines = left(command, LONG)
    assert any("no new rounds" in line for line in lines)
    assert not list(studies.glob("finals/*/*/*.pt"))


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver(studies: Path) -> None:  # noqa: F811
    command = start(*LONG)
    until(lambda: trained(studies), command)
    command.kill()
    command.communicate(timeout=60)
    for pid in processes(studies):  # its worker ends by itself, but not at once, and might be taken for the next one
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    command = start(*LONG)
    checkpoint = the_folder(studies) / "seed0" / "checkpoint.pt"
    before = checkpoint.read_bytes()
    until(lambda: checkpoint.exists() and checkpoint.read_bytes() != before, command)
    (worker,) = processes(studies, b"ray::_Worker")
    os.kill(worker, signal.SIGKILL)
    until(lambda: trained(studies, seed=1), command)
    (worker,) = processes(studies, b"ray::_Worker")
    os.kill(worker, signal.SIGKILL)
    _, err = command.communicate(timeout=180)
    assert command.returncode == 0, err
    assert "Traceback" not in err
    for seed in range(2):
        assert f"maml, seed {seed}: its worker died; it goes on from its checkpoint (try 2 of 4)" in err
    assert_as_if_nothing_had_happened(the_folder(studies), 1500)
