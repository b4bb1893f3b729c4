"""How many trials at a time: arithmetic against its definition, a real probe, and logical GPUs that Ray counts."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.driving import WORDS
from study.fake_mps import calls, fake_mps

from raymeta.errors import UserError
from raymeta.study.machines.packing import MOST_PER_GPU, ROOM, Machine, largest, on_cores, on_gpus, per_gpu, slots_on
from raymeta.study.machines.probe import Peak, measure
from raymeta.study.plan.plan import Plan, make_plan

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


def test_of_unlike_machines_the_one_with_the_least_room_decides() -> None:
    large, small = Peak(2 * GIB, 80 * GIB, 0, 0.1), Peak(2 * GIB, 8 * GIB, 0, 0.1)
    alone, together = on_gpus([([small], 8)]), on_gpus([([large], 16), ([small], 8), ([large], 5)])
    assert alone == per_gpu([small], 8 * GIB, 8)
    assert alone[0] == 3
    assert together == (3, f"{alone[1]}; 2 of 3 machines have room for more")
    assert on_gpus([([large], 16), ([large], 5), ([small], 8)])[0] == 3
    count, why = on_gpus([([large], 16), ([small], 2)])
    assert count == 2
    assert "limit: 2 cores for each GPU" in why


def test_a_trial_takes_a_core_of_the_machine_with_its_gpu() -> None:
    machines = [Machine("head", 0, 1, 0), Machine("cores", 64, 0, 0), Machine("a", 6, 1, 0), Machine("b", 2, 2, 0)]
    assert [slots_on(machines, count) for count in (1, 2, 4, 16)] == [3, 4, 6, 8]


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


def in_a_fresh_process(code: str, **environment: str) -> dict[str, Any]:
    """What code prints as JSON: Ray remembers in a process whether the last one asked for a token."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_preload_python_modules": "", **environment}  # no trial runs here
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


ON_CORES = """
import json, sys
from raymeta.study.machines.packing import largest, take_slots
from raymeta.study.plan.plan import make_plan
from raymeta.study.machines.resources import stop_ray
plan = make_plan("maml", "sinusoid-5s", None, ["model.hidden=[8]", "outer.tasks_per_step=2"])
slots = take_slots(2, "auto", lambda: largest(plan))
stop_ray()
print(json.dumps({"count": slots.count, "per_trial": slots.per_trial, "memory": slots.memory, "why": slots.why}))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_on_cores_ray_keeps_each_trials_memory() -> None:
    found = in_a_fresh_process(ON_CORES)
    assert found["count"] in (1, 2)
    assert found["per_trial"] == {"cpu": 1.0, "memory": found["memory"]}
    assert 100 * 2**20 < found["memory"] < 4 * GIB
    assert found["why"]


UNLIKE_MACHINES = """
import json, os, time
os.environ["RAY_AUTH_MODE"] = "disabled"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "num_gpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=2, num_gpus=2)
os.environ["RAY_ADDRESS"] = cluster.address
from raymeta.study.machines.packing import take_slots
from raymeta.study.machines.resources import stop_ray
slots = take_slots(None, 4, lambda: 1 / 0)  # nothing is to be measured
import ray
@ray.remote(num_cpus=slots.cpu, num_gpus=slots.gpu)
def when():
    start = time.time()
    time.sleep(0.5)
    return start, time.time(), ray.get_runtime_context().get_node_id()
runs = ray.get([when.remote() for _ in range(12)])
stop_ray()
cluster.shutdown()
print(json.dumps({"count": slots.count, "per_trial": slots.per_trial, "words": str(slots), "runs": runs}))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_gpu_is_shared_by_as_many_as_said() -> None:
    """A machine of 6 cores and a GPU that only Ray believes in, and one of 2 cores and two such GPUs."""
    found = in_a_fresh_process(UNLIKE_MACHINES)
    assert (found["count"], found["per_trial"]) == (6, {"cpu": 1.0, "gpu": 0.25})
    assert found["words"] == "6 at a time, 1/4 GPU each"
    runs = found["runs"]
    for node in {where for *_, where in runs}:
        there = [(start, end) for start, end, where in runs if where == node]
        assert max(sum(start <= other < end for start, end in there) for other, _ in there) <= 4


ON_CHOSEN_GPUS = """
import json, os
from raymeta.study.machines.packing import take_slots
from raymeta.study.machines.resources import stop_ray
slots = take_slots(4, 2, lambda: 1 / 0)
import ray
@ray.remote(num_cpus=slots.cpu, num_gpus=slots.gpu)
def environment():
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY")}
seen = ray.get([environment.remote() for _ in range(8)])
stop_ray()
print(json.dumps({"count": slots.count, "why": slots.why, "seen": seen}))
"""


@pytest.mark.ray
def test_trials_see_the_gpus_that_the_user_has_chosen_and_share_them_by_mps(tmp_path: Path) -> None:
    """Two GPUs that only Ray believes in, numbers 5 and 7 of the machine."""
    log = fake_mps(tmp_path)
    found = in_a_fresh_process(
        ON_CHOSEN_GPUS,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="5,7",
        RAY_OVERRIDE_RESOURCES='{"GPU": 2}',
    )
    assert found["count"] == 4
    assert found["why"].endswith("2 trials on each GPU, as asked; CUDA MPS on")  # after what 4 slots on few cores mean
    assert {seen["CUDA_VISIBLE_DEVICES"] for seen in found["seen"]} <= {"5", "7"}
    (folder,) = {seen["CUDA_MPS_PIPE_DIRECTORY"] for seen in found["seen"]}
    assert calls(log)[1:] == [f"start {folder}", f"quit {folder}"]
    assert not Path(folder).exists()


@pytest.mark.parametrize("pack", ["0", "-1", "many", "1.5"])
def test_a_wrong_pack(pack: str) -> None:
    from raymeta.cli.common import parse_pack

    with pytest.raises(UserError) as caught:
        parse_pack(pack)
    assert str(caught.value) == f"--pack {pack}: expected auto, or how many trials share a GPU"
