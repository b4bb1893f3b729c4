"""How many trials fit on a GPU, or on a machine's memory: from a measurement of the largest configs of a search.

Ray's fractions of a GPU only count; what keeps a trial within its share is `raymeta.training.trainer.cap_memory`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any, Literal

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.study.machines import mps
from raymeta.study.machines.failures import last_line
from raymeta.study.machines.probe import Peak, measure
from raymeta.study.machines.resources import TRIALS, Slots, beyond, on_cluster, start_ray
from raymeta.study.plan.plan import Plan

ROOM = 1.1  # a trial may need so much more than its probe
MOST_PER_GPU = 16
MOST_CONFIGS = 4

Pack = int | Literal["auto"] | None


@dataclass(frozen=True)
class Machine:
    """What Ray gives out on a machine; memory in bytes."""

    node: str
    cores: int
    gpus: int
    memory: int


def take_slots(
    most: int | None, pack: Pack, configs: Callable[[], Sequence[TrialConfig]], preload: str = TRIALS
) -> Slots:
    """Start Ray and see how many trials are to run at a time.

    Args:
        most: trials at a time, to which a cluster may grow; None: as many as there is room for.
        pack: trials for each GPU; auto: as many as fit by measurement, on cores too; None: auto where there are GPUs,
            elsewhere one for each core.
        configs: the largest of those that will run; called if something is measured.
        preload: as `start_ray` takes it.

    Raises:
        UserError: there is no core to run a trial on, more slots are asked for than any machine of this size could
            have, or a measurement failed.
    """
    remark = beyond(most)
    start_ray(most, preload)
    machines = _machines()
    gpus = sum(machine.gpus for machine in machines)
    if not any(machine.cores for machine in machines):
        raise UserError("Ray has no free core to run a trial on")
    if isinstance(pack, int) and gpus:
        slots = _shared(machines, pack, f"{pack} trials on each GPU, as asked" if pack > 1 else "")
    elif pack == "auto" or gpus:
        slots = _measured(machines, configs())
    else:
        slots = Slots(sum(machine.cores for machine in machines), 1.0, 0.0)
    grows = on_cluster()  # a cluster does, up to what is asked of it
    count = most if most and grows else min(most or slots.count, slots.count)
    if most and count < most:
        remark = f"--slots {most}: there is room for {count}"
    return replace(slots, count=count, why="; ".join(filter(None, (remark, slots.why))))


def _machines() -> list[Machine]:
    import ray

    alive = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Machine(node, *(int(has.get(name, 0)) for name in ("CPU", "GPU", "memory"))) for node, has in alive]


def _shared(machines: Sequence[Machine], count: int, why: str, context: int = 0) -> Slots:
    """Slots on the GPUs, `count` for each."""
    room = slots_on(machines, count)
    if not room:
        raise UserError("Ray has no free core on a machine with a GPU")
    if count > 1:
        why += f"; CUDA MPS {'as each machine has it' if on_cluster() else mps.switch_on()}"
    return Slots(room, 1.0, 1 / count, why=why, gpu_context=context)


def slots_on(machines: Sequence[Machine], count: int) -> int:
    """Trials at a time on machines with GPUs, `count` for each GPU; a trial takes a core of the same machine."""
    return sum(min(machine.cores, machine.gpus * count) for machine in machines)


def _measured(machines: Sequence[Machine], configs: Sequence[TrialConfig]) -> Slots:
    """Slots by probes of the configs: on every machine that has GPUs; if none has, on any."""
    import ray

    with_gpu = [machine for machine in machines if machine.gpus and machine.cores]
    where: Sequence[Machine | None] = with_gpu or [None]
    probes = [[_probe(config, machine) for config in configs] for machine in where]
    try:
        peaks: list[list[Peak]] = [ray.get(few) for few in probes]
    except ray.exceptions.RayError as error:
        raise UserError(
            f"--pack auto: a large config could not be measured ({last_line(error)}): give a number"
        ) from error
    every = list(chain.from_iterable(peaks))
    if with_gpu and all(peak.gpu for peak in every):
        pairs = [(found, machine.cores // machine.gpus) for found, machine in zip(peaks, with_gpu, strict=True)]
        return _shared(machines, *on_gpus(pairs), max(peak.context for peak in every))
    needed, why = on_cores(every)
    fit = sum(min(machine.cores, machine.memory // needed) for machine in machines)
    if with_gpu:
        why += "; torch sees no GPU there"
    return Slots(max(fit, 1), 1.0, 0.0, needed, why)


def _probe(config: TrialConfig, machine: Machine | None) -> Any:
    """Ask a machine to measure a config; None: one that Ray chooses."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 1, "max_calls": 1}  # max_calls: a process of its own
    if machine is not None:
        # On this machine all its GPUs, to see the smallest; on a cluster somebody else may hold some.
        options["num_gpus"] = 1 if on_cluster() else machine.gpus
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine.node, soft=False)
    return ray.remote(**options)(measure).remote(config.as_dict())


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
    configs = [plan.config(point) for point in points]
    return sorted(configs, key=_size, reverse=True)[:MOST_CONFIGS]


def _size(config: TrialConfig) -> int:
    """A rough order by what an outer step keeps."""
    settings = config.settings
    steps = getattr(settings, "inner_steps", 1) * (3 if getattr(settings, "order", "first") == "second" else 1)
    return prod((config.outer.tasks_per_step, steps, getattr(config.model, "width", 1)))


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


def on_gpus(machines: Sequence[tuple[Sequence[Peak], int]]) -> tuple[int, str]:
    """Trials for each GPU, and why: a trial's share is one for all machines, so the one with the least room decides.

    Args:
        machines: of each with GPUs the peaks measured there, and its cores for each GPU.
    """
    limits = [per_gpu(peaks, min(peak.gpu_total for peak in peaks), cores) for peaks, cores in machines]
    count, why = min(limits)
    others = sum(other > count for other, _ in limits)
    return count, f"{why}; {others} of {len(limits)} machines have room for more" if others else why


def on_cores(peaks: Sequence[Peak]) -> tuple[int, str]:
    """Bytes of memory that Ray is to keep for each trial, and why."""
    needed = int(ROOM * max(peak.host for peak in peaks))
    return needed, f"{_gib(needed)} of memory for each trial, as the largest config needs ({_pace(peaks)})"


def _pace(peaks: Sequence[Peak]) -> str:
    return f"an outer step of it takes {max(peak.step_s for peak in peaks):.2g} s alone"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
