"""Trials as lanes of one program on the device."""

from collections.abc import Callable
from functools import partial

from gpu_parts.child import Here
from gpu_parts.works import Work, attempt, config, launches, medians, peak, works
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

COUNTS = (1, 4, 16, 64, 128)
SECONDS = 6.0  # for each row
TRIAL = 1000  # outer steps of the trials that are counted by the hour


def lanes(here: Here) -> None:
    """Outer steps of W1, captured: a trial by itself, then L lanes; launches last: a profiler slows down the rest."""
    work = works(here)[0]
    alone = Trainer(config(here, work, "vmap", graphs="auto"))
    programs: dict[int, Callable[[], object]] = {0: alone.outer_update}
    base = None
    for count in (0, *(COUNTS[:2] if here.small else COUNTS)):
        if count:
            made, note = attempt(partial(program, here, work, count))
            if note:
                here.report("lanes", lanes=count, note=note)
                continue
            programs[count] = made
        step, trials = programs[count], max(count, 1)
        found, note = attempt(partial(medians, here, {"": step}, 0.0 if here.small else SECONDS))
        if note:
            here.report("lanes", lanes=count or "none", note=note)
            del programs[count]
            continue
        middle, spread = found[""]
        rate = trials / middle
        base = base or rate
        taken, note = attempt(partial(peak, here, step))
        here.report(
            "lanes", lanes=count or "none", trials_per_hour=3600 * rate / TRIAL, spread=f"{spread / middle:.0%}",
            against_one=rate / base, peak_MiB=taken, note=note,
        )  # fmt: skip
    for count, step in programs.items():
        seen, note = attempt(partial(launches, here, step))
        here.report("launches of a step of all lanes", lanes=count or "none", launches=seen and seen[0], note=note)


def program(here: Here, work: Work, count: int) -> Callable[[], object]:
    """An outer step of so many lanes."""
    together = [Trainer(config(here, work, "vmap", seed, "auto")) for seed in range(count)]
    beside = Lanes(together[0], count)
    for one in together:
        beside.join(one)
    return lambda: beside.step(range(count))
