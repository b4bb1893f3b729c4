"""`cluster.yaml` and `docs/cluster/local.yaml` as Ray's own validator reads them; no cloud and no machine is asked."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
AWS, OWN = ROOT / "cluster.yaml", ROOT / "docs" / "cluster" / "local.yaml"


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(params=[AWS, OWN], ids=["aws", "own"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(yaml.safe_load(request.param.read_text()))


@pytest.fixture
def aws() -> dict[str, Any]:
    return dict(yaml.safe_load(AWS.read_text()))


@pytest.fixture
def own() -> dict[str, Any]:
    return dict(yaml.safe_load(OWN.read_text()))


def commands(config: dict[str, Any]) -> list[str]:
    return [text for key, found in config.items() if key.endswith("_commands") for text in found]


def test_ray_accepts_the_cloud_one(aws: dict[str, Any]) -> None:
    prepared = validated(aws)
    worker = prepared["available_node_types"]["worker"]
    assert (worker["min_workers"], worker["max_workers"], prepared["max_workers"]) == (0, 8, 8)
    assert worker["resources"]["GPU"] == 1
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert prepared["idle_timeout_minutes"] == 10
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}


def test_ray_accepts_the_one_for_own_machines(own: dict[str, Any]) -> None:
    prepared = validated(own)
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(own["provider"]["worker_ips"])
    state = f"/tmp/ray/cluster-{own['cluster_name']}.state"  # Ray's name for it: the head must be given it
    assert own["file_mounts"][state] == state


def test_no_trial_runs_on_the_head(config: dict[str, Any]) -> None:
    (start,) = [text for text in config["head_start_ray_commands"] if "ray start --head" in text]
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(start.split())
    assert not [text for text in config["worker_start_ray_commands"] if "--num-cpus=0" in text]


def test_web_pages_listen_on_loopback_only_and_ray_asks_for_a_token(config: dict[str, Any]) -> None:
    text = "\n".join(commands(config))
    hosts = re.findall(r"--(?:[a-z]+-)?host[= ](\S+)", text)
    assert len(hosts) == 2
    assert set(hosts) == {"127.0.0.1"}
    assert "0.0.0.0" not in text
    starts = [command for command in commands(config) if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert [command for command in starts if "--head" in command and "--dashboard-host=127.0.0.1" in command]


def test_mlflow_is_started_unless_somebody_listens(config: dict[str, Any], tmp_path: Path) -> None:
    """The command itself, by the shell that Ray gives it to, with a listener and without one."""
    (line,) = [text for text in commands(config) if "mlflow server" in text]
    assert "--port 5000" in line
    (tmp_path / "mlflow").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/started\n")
    (tmp_path / "mlflow").chmod(0o755)
    listener = "import socket, sys, subprocess\ns = socket.create_server(('127.0.0.1', 0))\nport = s.getsockname()[1]\n"
    run = "line = sys.argv[1].replace('5000', str(port))\n{close}subprocess.run(['bash', '-c', line], check=False)\n"
    for close, started in (("", False), ("s.close()\n", True)):
        code = listener + run.format(close=close) + "import time; time.sleep(1)"
        environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run([sys.executable, "-c", code, line], env=environment, check=True, timeout=60)
        assert (tmp_path / "started").exists() is started
    assert f"--backend-store-uri sqlite:///{tmp_path}/studies/mlflow.db" in (tmp_path / "started").read_text()


def test_every_machine_has_one_folder_of_studies_and_only_the_head_needs_mlflow(config: dict[str, Any]) -> None:
    (line,) = [text for text in config["setup_commands"] if "RAYMETA_STUDIES" in text]
    assert "RAYMETA_STUDIES=$HOME/studies" in line
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in line
    assert not [text for text in config["worker_start_ray_commands"] if "mlflow" in text]


def test_the_cloud_one_shares_a_file_system_and_packs_data_once(aws: dict[str, Any]) -> None:
    (mount,) = [text for text in aws["initialization_commands"] if "mount -t nfs4" in text]
    assert mount.count("~/studies") == 4
    (line,) = [text for text in aws["setup_commands"] if "RAYMETA_STUDIES" in text]
    assert "RAYMETA_CACHE=$HOME/studies/.cache" in line


def test_commands_are_shell(config: dict[str, Any]) -> None:
    """No comment or quote swallows what Ray puts round a command."""
    for text in commands(config):
        done = subprocess.run(
            ["bash", "-n", "-c", f"export X=1 && ({text})"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), text


def test_the_extra_has_what_jobs_need() -> None:
    from importlib.metadata import requires

    found = {line.split(";")[0].strip() for line in requires("raymeta") or [] if line.startswith("ray[")}
    bounds = {line.split("]")[0]: line.split("]")[1] for line in found}
    assert bounds.keys() == {"ray[tune", "ray[default"}
    assert len(set(bounds.values())) == 1
    for path in (AWS, OWN):
        assert "--extra cluster" in path.read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrkers": 8},
        {"idle_timeout_minutes": "ten"},
        {"head_node_type": "heed"},
    ],
)
def test_a_wrong_one_is_rejected(change: dict[str, Any], aws: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"max_wrkers|'ten' is not of type|head_node_type"):
        validated({**aws, **change})
