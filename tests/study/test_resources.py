"""Ray on this machine: who may talk to it, and how it is left."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymeta.study.resources import start_ray, stop_ray

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


@pytest.mark.ray
def test_a_local_ray_runs_nothing_for_those_without_its_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray listens on all of the machine's addresses; its token keeps others out."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start_ray(1)
    try:
        address = ray.get_runtime_context().gcs_address
        assert ray.get(ray.remote(lambda: "ran").remote()) == "ran"
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        done = subprocess.run(
            [sys.executable, "-c", INTRUDER, address],
            env=env | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        stop_ray()
    assert "in:" not in done.stdout
    assert "refused" in done.stdout or done.returncode != 0


def test_ray_is_left_without_a_collection_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection in another thread that drops a reference of Ray's meanwhile would end the process."""
    import ray

    seen: list[bool] = []
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append(gc.isenabled()))
    stop_ray()
    assert seen == [False]
    assert gc.isenabled()
