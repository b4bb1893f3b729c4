"""How many trials at a time: arithmetic against its definition, a real probe, and logical GPUs that Ray counts."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.driving import WORDS

from raymeta.errors import UserError
from raymeta.study.packing import MOST_PER_GPU, ROOM, Peak, largest, measure, on_cores, per_gpu
from raymeta.study.plan import Plan, make_plan

GIB = 2**30


def plan(*words: str) -> Plan:
    return make_plan("maml+dropgrad", "sinusoid-5s", None, [*WORDS, *words])


@given(
    needs=st.lists(st.integers(2**20, 80 * GIB), min_size=1, max_size=4),
    gpu=st.integers(GIB, 200 * GIB),
    cores=st.integers(1, 64),
)
def test_as_many_as_fit_and_one_at_least(needs: list[int], gpu: int, cores: int) -> None:
    count, why = per_gpu([Peak(need, gpu, 0, 0.1) for need in needs], gpu, cores)
    assert 1 <= count <= max(1, min(cores, MOST_PER_GPU))
    worst = max(needs) * ROOM
    assert count == 1 or count * int(worst) <= gpu
    if count < min(cores, MOST_PER_GPU):
        assert (count + 1) * worst > gpu * (1 - 1e-9)
    assert why.startswith(f"{count} trials on each GPU: the largest config needs ")


def test_what_limits_is_said() -> None:
    peaks = [Peak(2 * GIB, 24 * GIB, 0, 0.25), Peak(GIB, 24 * GIB, 0, 0.5)]
    assert per_gpu(peaks, 24 * GIB, 64) == (
        10,
        "10 trials on each GPU: the largest config needs 2.20 GiB of 24.00 GiB "
        "(limit: its memory; an outer step of it takes 0.5 s alone)",
    )
    assert "limit: 4 cores for each GPU" in per_gpu(peaks, 24 * GIB, 4)[1]
    assert f"limit: at most {MOST_PER_GPU}" in per_gpu(peaks, 800 * GIB, 64)[1]
    assert "limit: one always runs" in per_gpu(peaks, GIB, 4)[1]


def test_the_largest_configs_have_whole_numbers_at_their_upper_ends() -> None:
    searched = make_plan("maml", "glyphs-5w1s", None, ["regularizers={}"])
    whole = {key: param.int_[1] for key, param in searched.space.params.items() if param.int_ is not None}
    found = largest(searched)
    assert found
    assert whole.items() <= found[0].flat().items()
    for key, param in searched.space.params.items():
        if param.choice is not None and len(param.choice) <= 3:
            assert {config.flat()[key] for config in found} == set(param.choice)


def in_a_process_of_its_own(*words: str) -> Peak:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, plan(*words).base.as_dict()).result()


def test_a_probe_on_a_cpu_measures_its_process() -> None:
    small, wide = (in_a_process_of_its_own(f"model.hidden=[{width}]") for width in (8, 20_000))
    assert small.gpu == wide.gpu == 0
    assert 100 * 2**20 < small.host < wide.host  # 20,000 units take room, eight do not
    assert wide.step_s > small.step_s > 0
    needed, why = on_cores([small, wide])
    assert needed == int(ROOM * wide.host)
    assert why.startswith(f"{needed / GIB:.2f} GiB of memory for each trial")


def in_a_fresh_process(code: str) -> dict[str, Any]:
    """What code prints as JSON: Ray remembers in a process whether the last one asked for a token."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


ON_CORES = """
import json, sys
from raymeta.study.packing import largest, take_slots
from raymeta.study.plan import make_plan
from raymeta.study.resources import stop_ray
plan = make_plan("maml", "sinusoid-5s", None, ["model.hidden=[8]", "outer.tasks_per_step=2"])
slots = take_slots(2, "auto", lambda: largest(plan))
stop_ray()
print(json.dumps({"count": slots.count, "per_trial": slots.per_trial, "memory": slots.memory, "why": slots.why}))
"""


@pytest.mark.ray
def test_on_cores_ray_keeps_each_trials_memory() -> None:
    found = in_a_fresh_process(ON_CORES)
    assert found["count"] in (1, 2)
    assert found["per_trial"] == {"cpu": 1.0, "memory": found["memory"]}
    assert 100 * 2**20 < found["memory"] < 4 * GIB
    assert found["why"]


ON_A_GPU = """
import json, os, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "num_gpus": 1, "include_dashboard": False})
os.environ["RAY_ADDRESS"] = cluster.address
from raymeta.study.packing import take_slots
from raymeta.study.resources import stop_ray
slots = take_slots(None, 4, lambda: 1 / 0)  # nothing is to be measured
import ray
@ray.remote(num_cpus=slots.cpu, num_gpus=slots.gpu)
def when():
    start = time.time()
    time.sleep(0.5)
    return start, time.time(), [int(one) for one in ray.get_gpu_ids()]
runs = ray.get([when.remote() for _ in range(8)])
stop_ray()
cluster.shutdown()
print(json.dumps({"count": slots.count, "per_trial": slots.per_trial, "words": str(slots), "runs": runs}))
"""


@pytest.mark.ray
def test_a_gpu_is_shared_by_as_many_as_said() -> None:
    """A machine of 6 cores and a GPU that only Ray believes in."""
    found = in_a_fresh_process(ON_A_GPU)
    assert (found["count"], found["per_trial"]) == (4, {"cpu": 1.0, "gpu": 0.25})
    assert found["words"] == "4 at a time, 1/4 GPU each"
    runs = found["runs"]
    assert max(sum(start <= other[0] < end for start, end, _ in runs) for other in runs) <= 4
    assert all(gpus == [0] for _, _, gpus in runs)


@pytest.mark.parametrize("pack", ["0", "-1", "many", "1.5"])
def test_a_wrong_pack(pack: str) -> None:
    from raymeta.cli.common import parse_pack

    with pytest.raises(UserError) as caught:
        parse_pack(pack)
    assert str(caught.value) == f"--pack {pack}: expected auto, or how many trials share a GPU"
