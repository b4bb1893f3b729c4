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
from raymeta.evaluation import CHUNK, evaluate
from raymeta.trainer import Trainer

PEER, LOOP, BATCH, WHOLE = "learn2learn's way", "raymeta, looped", "raymeta, batched", "the same, whole outer step"
EVALUATED = 600  # tasks
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

Contender = tuple[nn.Module, Callable[[], object]]


def speed(here: Here) -> None:
    """Outer steps of all works first, then evaluations."""
    wrong = [work.name for work in works(here) if not outer_steps(here, work)]
    for work in works(here)[:: 1 if here.small else 2]:  # the order is nothing to an evaluation
        for tasks in ("vmap", "loop"):
            evaluation(here, work, tasks)
    if wrong:
        raise AssertionError(f"the gradients of {', '.join(wrong)} differ from learn2learn's way by {EQUAL} or more")


def outer_steps(here: Here, work: Work) -> bool:
    """The rows of a work; returns whether all gradients were equal.

    A whole outer step has the episodes, their transfer and Adam beside the gradients that all compute.
    """
    here.report("works", work=work.name, what=work.about)
    off, why = attempt(lambda: difference(here, work))
    runners = contenders(here, work, torch.float32)
    whole = Trainer(config(here, work, "vmap"))
    runners[WHOLE] = (whole.method, whole.outer_update)
    steps, notes = {}, {}
    for who, (module, step) in runners.items():  # one that fails does not take part
        alone = partial(_alone, module, step)
        _, notes[who] = attempt(alone)
        if not notes[who]:
            steps[who] = alone
    taken = medians(here, steps, 0.0 if here.small else 5.0)
    for who in runners:
        row: dict[str, Any] = {"off": (off or {}).get(who)}
        if who in taken:
            middle, spread = taken[who]
            row |= {"steps_per_s": 1 / middle, "spread": f"{spread / middle:.0%}"}
            row["ratio"] = taken[PEER][0] / middle if PEER in taken else None
            row["peak_MiB"], _ = attempt(partial(peak, here, steps[who]))
            counted, notes[who] = attempt(partial(launches, here, steps[who]))
            count, busy = counted or (None, None)
            row |= {"launches": count, "GPU_busy": None if busy is None else f"{busy / middle:.0%}"}
        here.report("outer steps", work=work.name, who=who, **row, note=notes[who])
    if not here.small:
        for step in steps.values():
            step()
        here.report("clocks right after it", work=work.name, **smi(*CLOCKS))
    if why:
        here.report("works", work=work.name, what=f"float64 gradients: {why}")
    return off is not None and all(value < EQUAL for value in off.values())


def _alone(module: nn.Module, step: Callable[[], object]) -> None:
    module.zero_grad(set_to_none=True)
    step()


def contenders(here: Here, work: Work, dtype: torch.dtype) -> dict[str, Contender]:
    """Who computes the gradients of the same outer step: the module that holds them, and the call."""
    looped, batched = (Trainer(config(here, work, tasks)) for tasks in ("loop", "vmap"))
    for trainer in (looped, batched):
        trainer.method.to(dtype)
    episodes = looped.dataset.bank("train", 0).batch(0, work.tasks).to(looped.device)
    if dtype == torch.float64:  # without ties, which are rounded up by one way and down by the other
        generator = torch.Generator().manual_seed(0)

        def random(x: Tensor) -> Tensor:
            return torch.rand(x.shape, generator=generator, dtype=dtype).to(x.device)

        episodes = episodes._replace(support_x=random(episodes.support_x), query_x=random(episodes.query_x))
    plain, second = plain_like(looped).to(dtype), work.order == "second"
    return {
        PEER: (plain, lambda: learn2learn_step(plain, episodes, second)),
        LOOP: (looped.method.model, lambda: looped.accumulate(episodes)),
        BATCH: (batched.method.model, lambda: batched.accumulate(episodes)),
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
    bank = trainer.dataset.bank("validation", 0)

    def scored(number: int) -> None:
        evaluate(trainer.method, bank, number, device=trainer.device, vectorized=trainer.vectorized)

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
