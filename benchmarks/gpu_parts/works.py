"""What is measured: the works, their data, and how a step is timed, counted and weighed."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from inner_loop import INNER_LR, STEPS
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_parts.child import Here, reason
from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress

SCRATCH = "RAYMETA_GPU_SCRATCH"  # a folder that goes when the benchmark ends
MIB = 2**20
EQUAL = 1e-9  # relative, of outer gradients in float64


class Work(NamedTuple):
    """An outer step of MAML: 5-way, 15 queries, 5 inner steps.

    Attributes:
        name: in tables.
        about: what it is.
        order: of the outer gradient.
        dataset: of the episodes.
        width: of Conv-4.
        shots: support images per class.
        tasks: of an outer step.
    """

    name: str
    about: str
    order: str
    dataset: str
    width: int
    shots: int
    tasks: int


GREY = ("glyphs", 64, 1, 4)
COLOUR = ("photos", 48, 5, 2)
_ALL = (
    Work("W1", "Conv-4-64, 28x28 grey, 1-shot, 4 tasks, second order", "second", *GREY),
    Work("W2", "W1 in first order", "first", *GREY),
    Work("W3", "Conv-4-48, 84x84 colour, 5-shot, 2 tasks, second order", "second", *COLOUR),
    Work("W3f", "W3 in first order", "first", *COLOUR),
)


def works(here: Here) -> tuple[Work, ...]:
    """All of them; in the small form the first and the last, both data sets and both orders."""
    return _ALL[::3] if here.small else _ALL


@registry.dataset("photos")
class Photos(ImageDataset):
    """Coarse colour patterns under noise in place of photographs: 20 / 10 / 5 classes of 25 images."""

    input_shape: ClassVar[tuple[int, ...]] = (3, 84, 84)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)

    @property
    def folder(self) -> Path:
        return Path(os.environ[SCRATCH]) / "photos"

    def build(self, root: Path | None, progress: Progress) -> Packed:
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 192, (35 * 25, 3, 12, 12), np.uint8).repeat(7, 2).repeat(7, 3)
        images = coarse + generator.integers(0, 64, coarse.shape, np.uint8)
        split = {"train": range(20), "validation": range(20, 30), "test": range(30, 35)}
        return Packed(images, [f"class {number}" for number in range(35)], [25] * 35, {"standard": split})


def config(here: Here, work: Work, tasks: str = "auto", seed: int = 0, graphs: str = "off") -> TrialConfig:
    """The trial of a work, uncaptured by default; its data are made if they are not there.

    The small form has the kernels that a GPU has, too.
    """
    sizes = {"shots": 1, "queries": 3} if here.small else {"shots": work.shots, "queries": 15}
    trial = parse_trial(
        {
            "method": "maml",
            "maml": {"order": work.order, "inner_steps": STEPS, "inner_lr": INNER_LR},
            "model": {"name": "conv4", "width": 4 if here.small else work.width},
            "task": {"dataset": work.dataset, **sizes},
            "outer": {"tasks_per_step": work.tasks},
            "engine": {"device": here.device, "kernels": "torch", "tasks": tasks, "graphs": graphs},
            "seed": seed,
        }
    )
    open_problem(trial.task).prepare()
    return trial


def wait(here: Here) -> None:
    """Until the device has done all that it was asked: work on it is asynchronous."""
    if not here.small:
        torch.cuda.synchronize()


def medians(here: Here, steps: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """Seconds of a step of each, taken in turn: median, and half the distance of the quartiles.

    Args:
        here: whose device.
        steps: by name.
        seconds: for all of them together; at least three rounds are counted, after two that are not.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    left_out, least = (0, 2) if here.small else (2, 3)
    end, turn = time.perf_counter() + seconds, 0
    while turn < left_out + least or time.perf_counter() < end:
        for name, step in steps.items():
            wait(here)
            start = time.perf_counter()
            step()
            wait(here)
            if turn >= left_out:
                taken[name].append(time.perf_counter() - start)
        turn += 1
    quartiles = {name: statistics.quantiles(times, n=4) for name, times in taken.items()}
    return {name: (middle, (upper - lower) / 2) for name, (lower, middle, upper) in quartiles.items()}


def peak(here: Here, step: Callable[[], object]) -> float | None:
    """MiB of the GPU that a step takes above what was taken before it."""
    if here.small:
        return None
    wait(here)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    wait(here)
    return (torch.cuda.max_memory_allocated() - before) / MIB


class Operators(TorchDispatchMode):
    """Counts the operators that compute something, once batched and differentiated: about what a GPU launches.

    Attributes:
        count: of them; no views, nor memory that is only asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.count += not (func.is_view or name == "_unsafe_view" or "empty" in name)
        return func(*args, **(kwargs or {}))


def launches(here: Here, step: Callable[[], object]) -> tuple[int, float | None]:
    """Kernels that a step launches, by the profiler, and seconds that the GPU works; on a CPU operators, and None."""
    if here.small:
        with Operators() as seen_here:
            step()
        return seen_here.count, None
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        wait(here)
    # As the profiler has them: its own averages of so many events take seconds.
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    there = [event for event in events if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()]
    kernels = [event for event in there if not event.name().startswith(("Memcpy", "Memset"))]
    if not kernels:
        raise RuntimeError("the profiler saw no kernel")
    return len(kernels), sum(event.duration_ns() for event in there) / 1e9


def attempt(what: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, or None and why not: one row that fails must not cost the next ones.

    An error of the GPU itself, after which it refuses everything, does cost them.
    """
    try:
        return what(), ""
    except Exception as error:
        why = reason(error)
    torch.cuda.empty_cache()  # now that the error no longer holds what filled it
    return None, why
