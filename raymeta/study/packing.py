"""How many trials fit on a GPU, or on a machine's memory: from a measurement of the largest configs of a search.

Ray's fractions of a GPU only count; what keeps a trial within its share is `raymeta.trainer.cap_memory`.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.study.failures import last_line
from raymeta.study.plan import Plan
from raymeta.study.resources import Slots, start_ray

ROOM = 1.1  # a trial may need so much more than its probe
MOST_PER_GPU = 16
MOST_CONFIGS = 4

Pack = int | Literal["auto"] | None


@dataclass(frozen=True)
class Peak:
    """What a config needs.

    Attributes:
        gpu: bytes of a GPU, with CUDA's own; 0 if it was computed on a CPU.
        gpu_total: bytes that the GPU has.
        host: bytes of memory of its process, at most.
        step_s: seconds of an outer step, alone.
    """

    gpu: int
    gpu_total: int
    host: int
    step_s: float


def take_slots(most: int | None, pack: Pack, configs: Callable[[], Sequence[TrialConfig]]) -> Slots:
    """Start Ray and see how many trials are to run at a time.

    Args:
        most: trials at a time, to which a cluster may grow; None: as many as there is room for.
        pack: trials for each GPU; auto: as many as fit by measurement, on cores too; None: auto where there are GPUs,
            elsewhere one for each core.
        configs: the largest of those that will run; called if something is measured.

    Raises:
        UserError: there is no core to run a trial on, or a measurement failed.
    """
    import ray

    start_ray(most)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU"))
    if cpus < 1:
        raise UserError("Ray has no free core to run a trial on")
    if isinstance(pack, int) and gpus:
        slots = Slots(min(cpus, gpus * pack), 1.0, 1 / pack)
    elif pack == "auto" or gpus:
        slots = _measured(nodes, gpus, [_probe(config, bool(gpus)) for config in configs()])
    else:
        slots = Slots(cpus, 1.0, 0.0)
    grows = bool(os.environ.get("RAY_ADDRESS"))  # a cluster does, up to what is asked of it
    return replace(slots, count=most if most and grows else min(most or slots.count, slots.count))


def _probe(config: TrialConfig, gpu: bool) -> Peak:
    import ray

    probe = ray.remote(num_cpus=1, num_gpus=int(gpu), max_calls=1)(measure)  # max_calls: a process of its own
    try:
        peak: Peak = ray.get(probe.remote(config.as_dict()))
    except ray.exceptions.RayError as error:
        raise UserError(
            f"--pack auto: a large config could not be measured ({last_line(error)}): give a number"
        ) from error
    return peak


def _measured(nodes: Sequence[dict[str, float]], gpus: int, peaks: Sequence[Peak]) -> Slots:
    if gpus and all(peak.gpu for peak in peaks):
        with_gpu = [node for node in nodes if node.get("GPU")]
        cores = int(min(node.get("CPU", 0) / node["GPU"] for node in with_gpu))
        count, why = per_gpu(peaks, min(peak.gpu_total for peak in peaks), cores)
        return Slots(gpus * count, 1.0, 1 / count, why=why)
    needed, why = on_cores(peaks)
    fit = sum(int(min(node.get("CPU", 0), node.get("memory", 0) // needed)) for node in nodes)
    if gpus:
        why += "; torch sees no GPU there"
    return Slots(max(fit, 1), 1.0, 0.0, needed, why)


def largest(plan: Plan) -> list[TrialConfig]:
    """The configs of a search that may need most: whole numbers at their upper ends, each value of the choices."""
    start = plan.space.start_from[0]
    wide = {
        key: param.int_[1] if (param := plan.space.params[key]).int_ is not None else value
        for key, value in start.items()
    }
    points = [wide]
    for key, param in plan.space.params.items():
        if key in wide and param.choice is not None:
            points += [{**wide, key: value} for value in param.choice if value != wide[key]]
    configs = [plan.trial(point) for point in points]
    return sorted(configs, key=_size, reverse=True)[:MOST_CONFIGS]


def _size(config: TrialConfig) -> int:
    """A rough order by what an outer step keeps."""
    settings = config.settings
    steps = getattr(settings, "inner_steps", 1) * (3 if getattr(settings, "order", "first") == "second" else 1)
    return prod((config.outer.tasks_per_step, steps, getattr(config.model, "width", 1)))


def measure(data: dict[str, Any]) -> Peak:
    """Two outer steps and a piece of a validation of a config, in a process that has done nothing else."""
    import torch

    from raymeta.config import parse_trial
    from raymeta.evaluation import CHUNK, evaluate
    from raymeta.trainer import CONTEXT_BYTES, Trainer

    torch.set_num_threads(1)
    trainer = Trainer(parse_trial(data, "the probe's config"))
    trainer.outer_update()
    start = time.perf_counter()
    trainer.outer_update()
    step_s = time.perf_counter() - start
    bank = trainer.dataset.bank("validation", trainer.config.task.bank_seed)
    evaluate(trainer.method, bank, CHUNK, device=trainer.device, vectorized=trainer.vectorized)
    host = _resident_peak()
    if trainer.device.type != "cuda":
        return Peak(0, 0, host, step_s)
    total = torch.cuda.mem_get_info()[1]
    return Peak(torch.cuda.max_memory_reserved() + CONTEXT_BYTES, total, host, step_s)


def _resident_peak() -> int:
    """Bytes that this process had resident at most."""
    try:  # `ru_maxrss` would begin with what the parent had when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def per_gpu(peaks: Sequence[Peak], gpu_bytes: int, cores: int) -> tuple[int, str]:
    """Trials for each GPU, and why.

    Args:
        peaks: of the largest configs.
        gpu_bytes: of the smallest GPU.
        cores: for each GPU; a trial takes one.
    """
    needed = int(ROOM * max(peak.gpu for peak in peaks))
    fit = gpu_bytes // needed
    count = max(1, min(fit, cores, MOST_PER_GPU))
    limits = {fit: "its memory", cores: f"{cores} cores for each GPU", MOST_PER_GPU: f"at most {MOST_PER_GPU}"}
    return count, (
        f"{count} trials on each GPU: the largest config needs {_gib(needed)} of {_gib(gpu_bytes)} "
        f"(limit: {limits.get(count, 'one always runs')}; {_pace(peaks)})"
    )


def on_cores(peaks: Sequence[Peak]) -> tuple[int, str]:
    """Bytes of memory that Ray is to keep for each trial, and why."""
    needed = int(ROOM * max(peak.host for peak in peaks))
    return needed, f"{_gib(needed)} of memory for each trial, as the largest config needs ({_pace(peaks)})"


def _pace(peaks: Sequence[Peak]) -> str:
    return f"an outer step of it takes {max(peak.step_s for peak in peaks):.2g} s alone"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
