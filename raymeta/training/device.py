"""Where a trial computes, and what it may take there."""

from collections.abc import Callable

import torch

from raymeta.config import TrialConfig
from raymeta.engine.graphs import CudaGraphs, Graphs
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import open_problem

CONTEXT_BYTES = 600 * 2**20  # a guess, where it is not measured, of what CUDA itself takes of a GPU for each process
CAPTURES: dict[str, Callable[[], Graphs]] = {"cuda": CudaGraphs}  # by kind of device
DATA_SHARE = 0.05  # of a GPU's free memory, for a copy of the data: each trial that shares the GPU has its own


def cap_memory(share: float, context: int = 0) -> None:
    """Let this process take no more of its GPU than its share, so that its neighbours live. Without a GPU: nothing.

    Args:
        share: of the GPU's memory, CUDA's own part of it included; 0: all of it.
        context: bytes of that part; 0: they were not measured.
    """
    if share and torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(max(share - (context or CONTEXT_BYTES) / total, 0.01))


def device_of(config: TrialConfig) -> torch.device:
    """Where a trial computes.

    Raises:
        UserError: it asks for a GPU, or for numbers of one, and there is none.
    """
    wanted = config.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device: found 'cuda', but torch sees no GPU here; allowed: auto, cpu")
    found = torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
    if found.type == "cpu" and config.engine.precision == "tf32":
        raise UserError("engine.precision: found 'tf32', but the trial computes on a CPU; allowed: float32, bf16")
    return found


def keeps_on_device(config: TrialConfig, device: torch.device, learner: Learner) -> bool:
    """Whether tasks are gathered on the device.

    Raises:
        UserError: it is asked for and can't be.
    """
    wanted, problem = config.engine.images, learner.problem
    if wanted == "host":
        return False
    reasons = [f"{one.name} changes tasks on the CPU" for one in learner.regularizers if one.changes_tasks]
    if not problem.keeps_on_devices:
        reasons.append(f"{problem.name} has no images")
    if wanted == "device" and reasons:
        raise UserError(f"engine.images: found 'device', but {reasons[0]}; allowed: auto, host")
    if wanted == "device" or reasons or device.type != "cuda":
        return wanted == "device"
    return problem.kept_bytes < DATA_SHARE * torch.cuda.mem_get_info(device)[0]


def graphs_of(config: TrialConfig, device: torch.device) -> Graphs | None:
    """What captures a trial's outer steps; None: nothing is to.

    Raises:
        UserError: it is asked for on a CPU.
    """
    wanted, made = config.engine.graphs, CAPTURES.get(device.type)
    if made is not None:
        return None if wanted == "off" else made()
    if wanted == "on":
        raise UserError("engine.graphs: found 'on', but the trial computes on a CPU; allowed: auto, off")
    return None


def vectorized(config: TrialConfig, device: torch.device, learner: Learner) -> bool:
    """Whether the tasks of an outer step are batched.

    Raises:
        UserError: it is asked for and can't be.
    """
    wanted = config.engine.tasks
    if reason := one_by_one(config, learner):
        if wanted == "vmap":
            raise UserError(f"engine.tasks: found 'vmap', but {reason}; allowed: auto, loop")
        return False
    if wanted == "auto":
        return device.type == "cuda" or learner.model.batches_tasks_on_cpu
    return wanted == "vmap"


def one_by_one(config: TrialConfig, learner: Learner) -> str:
    """Why the tasks of an outer step can't be batched, or ""."""
    if not learner.problem.one_shape:
        return f"{config.task.name} has tasks of different shapes"
    if config.engine.chunk is not None:
        return "engine.chunk computes some images of a task at a time"
    for one in learner.regularizers:
        if not one.batches:
            return f"{one.name} computes task by task"
    if learner.model.norm_mode == "running":  # they are written to in place
        return "model.norm running updates its averages task by task"
    return ""


def refuse_unfit(config: TrialConfig) -> None:
    """Build a trial's learner, to no end but that what does not fit together is said before anything starts.

    Raises:
        UserError: the trainer would refuse the config, on whatever device.
    """
    learner, cpu = build_learner(config, open_problem(config.task)), torch.device("cpu")
    vectorized(config, cpu, learner)
    keeps_on_device(config, cpu, learner)
