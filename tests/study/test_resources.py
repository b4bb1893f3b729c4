"""Ray on this machine: who may talk to it, and how it is left."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymeta.study.resources import stop_ray

INTRUDER = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
try:
    ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
    print("in:", ray.get(ray.remote(lambda: "ran").remote(), timeout=30))
except Exception as error:
    print("refused:", type(error).__name__)
"""


OWNER = """
import os, subprocess, sys
from raymeta.study.resources import start_ray, stop_ray
start_ray(1)
import ray
assert ray.get(ray.remote(lambda: "ran").remote()) == "ran"
address = ray.get_runtime_context().gcs_address
env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")} | {"HOME": sys.argv[2]}
subprocess.run([sys.executable, "-c", sys.argv[1], address], env=env, timeout=120)
stop_ray()
"""


@pytest.mark.ray
def test_a_local_ray_runs_nothing_for_those_without_its_token(tmp_path: Path) -> None:
    """Ray listens on all of the machine's addresses; its token keeps others out."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", OWNER, INTRUDER, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "in:" not in done.stdout
    assert "refused" in done.stdout


def test_ray_is_left_without_a_collection_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection in another thread that drops a reference of Ray's meanwhile would end the process."""
    import ray

    seen: list[bool] = []
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append(gc.isenabled()))
    stop_ray()
    assert seen == [False]
    assert gc.isenabled()
