"""`cluster.yaml` as Ray's own validator reads it; no cloud is asked."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / "cluster.yaml"


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def commands(config: dict[str, Any]) -> list[str]:
    return [text for key, found in config.items() if key.endswith("_commands") for text in found]


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = validated(config)
    worker = prepared["available_node_types"]["worker"]
    assert (worker["min_workers"], worker["max_workers"], prepared["max_workers"]) == (0, 8, 8)
    assert worker["resources"]["GPU"] == 1
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert prepared["idle_timeout_minutes"] == 10


def test_no_trial_runs_on_the_head(config: dict[str, Any]) -> None:
    head = validated(config)["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    (start,) = [text for text in config["head_start_ray_commands"] if "ray start --head" in text]
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(start.split())


def test_web_pages_listen_on_loopback_only_and_ray_asks_for_a_token(config: dict[str, Any]) -> None:
    text = "\n".join(commands(config))
    hosts = re.findall(r"--(?:[a-z]+-)?host[= ](\S+)", text)
    assert len(hosts) == 2
    assert set(hosts) == {"127.0.0.1"}
    assert "0.0.0.0" not in text
    starts = [command for command in commands(config) if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert [command for command in starts if "--head" in command and "--dashboard-host=127.0.0.1" in command]
    assert sum("mlflow server" in command for command in commands(config)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrkers": 8},
        {"idle_timeout_minutes": "ten"},
        {"head_node_type": "heed"},
    ],
)
def test_a_wrong_one_is_rejected(change: dict[str, Any], config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"max_wrkers|'ten' is not of type|head_node_type"):
        validated({**config, **change})
