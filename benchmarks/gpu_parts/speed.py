"""Outer steps and evaluation: learn2learn's way, raymeta in a loop and raymeta batched."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from inner_loop import learn2learn_step, plain_like
from torch import Tensor, nn

from gpu_parts.child import Here
from gpu_parts.machine import smi
from gpu_parts.works import EQUAL, Work, attempt, config, launches, medians, peak, wait, works
from raymeta.problem import CHUNK
from raymeta.training.trainer import Trainer

PEER, LOOP, BATCH, WHOLE = "learn2learn's way", "raymeta, looped", "raymeta, batched", "the same, whole outer step"
EVALUATED = 600  # tasks
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

Contender = tuple[nn.Module, Callable[[], object]]


def speed(here: Here) -> None:
    """Outer steps of all works, evaluations, and then, since a profiler may slow down what comes after it, launches."""
    taken = {}
    for work in works(here):
        off, why = attempt(partial(difference, here, work))
        if off and not all(value < EQUAL for value in off.values()):
            why = f"gradients differ by {max(off.values()):.0e}"
        here.report("works", work=work.name, what=work.about, note=why)
        taken[work], why = attempt(partial(outer_steps, here, work, off or {}))
        if why:
            here.report("outer steps", work=work.name, note=why)
    for work in works(here)[:: 1 if here.small else 2]:  # the order is nothing to an evaluation
        for tasks in ("vmap", "loop"):
            evaluation(here, work, tasks)
    for work, seconds in taken.items():
        launched(here, work, seconds or {})


def outer_steps(here: Here, work: Work, off: dict[str, float]) -> dict[str, float]:
    """Report the rows of a work; returns seconds of a step of each, as far as they could be measured."""
    steps, notes = {}, {}
    for who, step in runners(here, work).items():  # one that fails does not take part
        _, notes[who] = attempt(step)
        if not notes[who]:
            steps[who] = step
    taken = medians(here, steps, 0.0 if here.small else 5.0)
    clocks = {} if here.small else smi(*CLOCKS)  # right after it
    for who, note in notes.items():
        row: dict[str, Any] = {"off": off.get(who)}
        if who in taken:
            middle, spread = taken[who]
            row |= {"steps_per_s": 1 / middle, "spread": f"{spread / middle:.0%}"}
            row["ratio"] = taken[PEER][0] / middle if PEER in taken else None
            row["peak_MiB"], note = attempt(partial(peak, here, steps[who]))
        here.report("outer steps", work=work.name, who=who, **row, note=note)
    if clocks:
        here.report("clocks", work=work.name, **clocks)
    return {who: middle for who, (middle, _) in taken.items()}


def launched(here: Here, work: Work, seconds: dict[str, float]) -> None:
    """Report what each launches in a step, and the share of the step's time in which the GPU works."""
    steps = runners(here, work)
    for who, middle in seconds.items():
        steps[who]()
        found, note = attempt(partial(launches, here, steps[who]))
        count, busy = found or (None, None)
        share = None if busy is None else f"{busy / middle:.0%}"
        here.report("launches of a step", work=work.name, who=who, launches=count, GPU_busy=share, note=note)


def runners(here: Here, work: Work) -> dict[str, Callable[[], object]]:
    """Calls by what they compute: the gradients of one outer step, and whole outer steps.

    A whole one has the episodes, their transfer and Adam beside the gradients.
    """
    whole = Trainer(config(here, work, "vmap"))
    found = contenders(here, work, torch.float32)
    return {who: partial(_alone, *pair) for who, pair in found.items()} | {WHOLE: whole.outer_update}


def _alone(module: nn.Module, step: Callable[[], object]) -> None:
    module.zero_grad(set_to_none=True)
    step()


def contenders(here: Here, work: Work, dtype: torch.dtype) -> dict[str, Contender]:
    """Who computes the gradients of the same outer step: the module that holds them, and the call."""
    looped, batched = (Trainer(config(here, work, tasks)) for tasks in ("loop", "vmap"))
    for trainer in (looped, batched):
        trainer.learner.to(dtype)
    episodes = looped.problem.bank("train", 0).draw(0, work.tasks).to(looped.device)
    if dtype == torch.float64:  # without ties, which are rounded up by one way and down by the other
        generator = torch.Generator().manual_seed(0)

        def random(x: Tensor) -> Tensor:
            return torch.rand(x.shape, generator=generator, dtype=dtype).to(x.device) if x.is_floating_point() else x

        episodes = episodes.map(random)
    plain, second = plain_like(looped).to(dtype), work.order == "second"
    return {
        PEER: (plain, lambda: learn2learn_step(plain, episodes, second)),
        LOOP: (looped.learner.model, lambda: looped.accumulate(episodes)),
        BATCH: (batched.learner.model, lambda: batched.accumulate(episodes)),
    }


def difference(here: Here, work: Work) -> dict[str, float]:
    """Relative differences of whole outer gradients from learn2learn's way, in float64."""
    gradients = {}
    for who, (module, step) in contenders(here, work, torch.float64).items():
        step()
        gradients[who] = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    base = gradients.pop(PEER)
    return {who: float((base - other).norm() / base.norm()) for who, other in gradients.items()}


def evaluation(here: Here, work: Work, tasks: str) -> None:
    """The row of an evaluation, after a short one that is not counted."""
    trainer = Trainer(config(here, work, tasks))
    first, count = (1, 4) if here.small else (CHUNK, EVALUATED)
    bank = trainer.problem.bank("validation", 0)

    def scored(number: int) -> None:
        trainer.evaluate(bank, number)

    def seconds() -> float:
        scored(first)
        wait(here)
        start = time.perf_counter()
        scored(count)
        wait(here)
        return time.perf_counter() - start

    taken, note = attempt(seconds)
    who = BATCH if tasks == "vmap" else LOOP
    rate = count / taken if taken else None
    here.report("evaluation", work=work.name, who=who, tasks=count, seconds=taken, tasks_per_s=rate, note=note)
