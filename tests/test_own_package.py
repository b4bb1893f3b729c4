"""`examples/own_package`, installed beside raymeta into an environment of its own: all of it is found and used."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own_package"
OWN = ["unitmaml", "gradnoise", "smooth", "bars", "compass"]


def test_raymeta_names_nothing_of_it() -> None:
    for folder in ("raymeta", "trainables", "search_spaces"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                text = path.read_text(encoding="utf-8")
                assert not [name for name in OWN if f'"{name}"' in text], path


def test_the_method_is_short() -> None:
    assert len((EXAMPLE / "own/methods/unitmaml.py").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_from_methods_to_final_runs(tmp_path: Path) -> None:
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
    commands = tmp_path / "env" / ("Scripts" if sysconfig.get_platform().startswith("win") else "bin")
    packages = [f"{ROOT}[testing]", str(EXAMPLE)]
    install = ["uv", "pip", "install", "--quiet", "--python", commands / "python", *packages]
    subprocess.run(install, check=True)
    home = tmp_path / "home"
    home.mkdir()
    places = {"RAYMETA_STUDIES": str(tmp_path / "studies"), "RAYMETA_CACHE": str(tmp_path / "cache")}
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | places

    def raymeta(*words: str) -> str:
        done = subprocess.run(
            [commands / "raymeta", *words], cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "unitmaml" in raymeta("methods")
    assert "gradnoise.sigma" in raymeta("space", "unitmaml+gradnoise", "--task", "compass")
    small = ["budget.outer_steps=8", "budget.validate_every=2", "budget.validation_tasks=4", "study.first_rung=2"]
    compass = ["--task", "compass", "-n", "3", "study.finalists=0", *small]
    found = json.loads(raymeta("search", "unitmaml+gradnoise+dropgrad", *compass, "--name", "own", "--json"))
    assert found["trials"]["completed"] >= 1
    assert found["best"]["val_angle"] < 180
    bars = ["--task", "bars-3w1s", "-n", "2", "study.finalists=0", "task.queries=3", "model.width=4", *small]
    for added in ("mr", "taml", "dropgrad"):
        raymeta("search", f"unitmaml+{added}", *bars, "--name", added, "--json")

    killed = subprocess.Popen(
        [commands / "raymeta", "search", "maml", "--task", "compass", "-n", "4", "budget.outer_steps=4000",
         "budget.validate_every=20", "study.first_rung=4000", "study.finalists=0", "--name", "killed", "--json"],
        cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list((tmp_path / "studies" / "killed").glob("trials/*/checkpoint.pt")):
        assert time.monotonic() < until, "no trial has begun"
        time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert json.loads(raymeta("resume", "killed", "--json"))["trials"]["completed"] >= 1

    raymeta("export", "own", "-o", "best.yaml")
    final = json.loads(raymeta("final", "best.yaml", "--seeds", "2", "--json"))
    assert "angle" in json.dumps(final)
    shutil.copy(EXAMPLE / "test_own.py", home)  # away from this repository's own settings of pytest
    suite = [commands / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", home / "test_own.py"]
    done = subprocess.run(suite, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
