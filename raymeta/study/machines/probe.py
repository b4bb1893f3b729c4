"""What a config needs, measured in a process of its own: memory, and the time of an outer step."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peak:
    """What a config needs.

    Attributes:
        gpu: bytes of a GPU, with CUDA's own; 0 if it was computed on a CPU.
        gpu_total: bytes that the smallest GPU of its machine has.
        host: bytes of memory of its process, at most.
        step_s: seconds of an outer step, alone.
        context: what of `gpu` is CUDA's own.
    """

    gpu: int
    gpu_total: int
    host: int
    step_s: float
    context: int = 0


def measure(data: dict[str, Any]) -> Peak:
    """Two outer steps and a piece of a validation of a config, in a process that has done nothing else."""
    import torch

    from raymeta.config import parse_trial
    from raymeta.problem import CHUNK
    from raymeta.training.device import CONTEXT_BYTES
    from raymeta.training.trainer import Trainer

    torch.set_num_threads(1)
    trainer = Trainer(parse_trial(data, "the probe's config"))
    trainer.outer_update()
    start = time.perf_counter()
    trainer.outer_update()
    step_s = time.perf_counter() - start
    bank = trainer.problem.bank("validation", trainer.config.task.bank_seed)
    trainer.evaluate(bank, CHUNK)
    host = resident_peak()
    if trainer.device.type != "cuda":
        return Peak(0, 0, host, step_s)
    # What of the GPU is neither free nor torch's is CUDA's own (or another program's, and no trial can have it either).
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    context = context if context > 0 else CONTEXT_BYTES
    smallest = min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    return Peak(torch.cuda.max_memory_reserved() + context, min(total, smallest), host, step_s, context)


def resident_peak() -> int:
    """Bytes that this process had resident at most."""
    try:  # `ru_maxrss` would begin with what the parent had when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
