"""Ray on this machine: who may talk to it, and how it is left; a cluster without a token."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymeta.errors import RunFailed
from raymeta.study.machines.resources import start_ray, stop_ray

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
from pathlib import Path
from raymeta.study.machines.resources import start_ray, stop_ray

def listens():
    \"\"\"The hexadecimal addresses that this process and all that it started listen on.\"\"\"
    lines = [line.split() for net in ("tcp", "tcp6") for line in Path("/proc/net", net).read_text().splitlines()[1:]]
    addresses = {f"socket:[{line[9]}]": line[1].partition(":")[0] for line in lines if line[3] == "0A"}
    tree = {os.getpid()}
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone meanwhile
            pass
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    for pid in tree:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if (address := addresses.get(os.readlink(file))) is not None:
                    yield address
            except OSError:
                pass

start_ray(1)
import ray
assert ray.get(ray.remote(lambda: "ran").remote()) == "ran"
print("listens:", *listens())
address = ray.get_runtime_context().gcs_address
env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")} | {"HOME": sys.argv[2]}
subprocess.run([sys.executable, "-c", sys.argv[1], address], env=env, timeout=120)
stop_ray()
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_only_and_to_those_with_its_token(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", OWNER, INTRUDER, str(tmp_path)],
        env=env | {"RAY_preload_python_modules": ""},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("listens:")]
    addresses = line.split()[1:]
    assert len(addresses) > 3  # the driver, its worker, and what Ray itself is made of
    assert set(addresses) <= LOOPBACK
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


def test_a_ray_that_does_not_come_up_in_time_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    tries: list[int] = []

    def init(*arguments: object, **named: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"})
    monkeypatch.setattr(ray, "init", init)
    start_ray(1)
    assert len(tries) == 3
    monkeypatch.setattr(ray, "init", lambda *arguments, **named: ray.no_such_name)
    with pytest.raises(RunFailed, match=r"^Ray did not start on this machine in 3 tries: module "):
        start_ray(1)
