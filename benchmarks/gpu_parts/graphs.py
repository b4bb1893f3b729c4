"""Outer steps captured as CUDA graphs against the same uncaptured: a trial's, and those of lanes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_parts.child import Here
from gpu_parts.works import MIB, Work, attempt, config, launches, medians, wait, works
from raymeta.engine.graphs import BEFORE, CHECKED
from raymeta.engine.recorded import RecordedGraphs
from raymeta.training import device
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

LANES = 16
SECONDS = 8.0  # for each work, both ways in turn
WAYS = {"uncaptured": "off", "captured": "on"}


class Runner(NamedTuple):
    """Trials and an outer step of all of them; `problem` says why it is not captured."""

    trainers: list[Trainer]
    step: Callable[[], object]
    problem: Callable[[], str]


def graphs(here: Here) -> None:
    """Two rows for each work, alone and in lanes; on a CPU operations that are done again stand for graphs."""
    if here.small:
        device.CAPTURES["cpu"] = RecordedGraphs
    runners = {}
    for work in works(here)[: 1 if here.small else 2]:
        for lanes in (0, 2 if here.small else LANES):
            runners[work.name, lanes], note = attempt(partial(measured, here, work, lanes))
            if note:
                here.report("graphs", work=work.name, lanes=lanes or "none", note=note)
    for (name, lanes), ways in runners.items():  # last, as a profiler slows down what comes after it
        for way, runner in (ways or {}).items():
            found, note = attempt(partial(asked_of_the_driver, here, runner.step))
            here.report("launches by the host", work=name, lanes=lanes or "none", way=way, launches=found, note=note)


def measured(here: Here, work: Work, lanes: int) -> dict[str, Runner]:
    """Report a work's two rows, once both have done the same steps."""
    reserved, ways = {}, {}
    for way, wanted in WAYS.items():
        before = 0 if here.small else torch.cuda.memory_reserved()
        ways[way] = runner(here, work, lanes, wanted)
        for _ in range(BEFORE + CHECKED + 1):
            ways[way].step()
        wait(here)
        reserved[way] = None if here.small else (torch.cuda.memory_reserved() - before) / MIB
    off = difference(*(weights(one.trainers) for one in ways.values()))
    taken = medians(here, {way: one.step for way, one in ways.items()}, 0.0 if here.small else SECONDS)
    for way, (middle, spread) in taken.items():
        here.report(
            "graphs", work=work.name, lanes=lanes or "none", way=way, ms=1e3 * middle, spread=f"{spread / middle:.0%}",
            ratio=taken["uncaptured"][0] / middle, weights_off=off, reserved_MiB=reserved[way],
            note=ways[way].problem(),
        )  # fmt: skip
    return ways


def runner(here: Here, work: Work, lanes: int, wanted: str) -> Runner:
    """A trial of a work, or so many lanes of trials."""
    together = [Trainer(config(here, work, "vmap", seed, wanted)) for seed in range(max(lanes, 1))]
    if not lanes:
        return Runner(together, together[0].outer_update, lambda: together[0].captured.problem)
    beside = Lanes(together[0], lanes)
    for one in together:
        beside.join(one)
    return Runner(together, lambda: beside.step(range(lanes)), lambda: str(beside.untraced or ""))


def weights(trainers: list[Trainer]) -> torch.Tensor:
    """All parameters of trials, one after the other."""
    return torch.cat([p.detach().flatten() for one in trainers for p in one.learner.parameters()]).double()


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Relative; 0: the same bits."""
    return float((found - expected).norm() / expected.norm())


def asked_of_the_driver(here: Here, step: Callable[[], object]) -> int:
    """Kernels and graphs that the host launches in a step; on a CPU operators."""
    if here.small:
        return launches(here, step)[0]
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        wait(here)
    assert seen.profiler is not None
    names = [event.name() for event in seen.profiler.kineto_results.events()]  # type: ignore[union-attr]
    count = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)
    if not count:
        raise RuntimeError("the profiler saw no launch")
    return count
