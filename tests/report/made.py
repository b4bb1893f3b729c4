"""Studies that are written by the record's own writer, as a search would have, with scores of a formula."""

import time
from math import log10

import numpy as np
from study.driving import give, tiny_record

from raymeta.study.record.finalists import all_weights
from raymeta.study.record.record import StudyRecord, TrialRecord

LR, RATE = "maml.inner_lr", "regularizers.dropgrad.rate"
FROM = 1.7e9  # seconds since the epoch


def made(name: str, trials: int, *, finalists: bool = True, every: int = 2, seed: int = 0) -> StudyRecord:
    """A study of random proposals that went to its end. The error falls with the inner learning rate, too high ones
    diverge, and every fiftieth trial fails.
    """
    record = tiny_record(
        name, f"study.trials={trials}", f"study.startup_trials={trials + 1}", f"budget.validate_every={every}",
        f"study.first_rung={every}", f"budget.outer_steps={9 * every}",
    )  # fmt: skip
    chance, at, best = np.random.default_rng(seed), FROM, dict[int, list[float]]()
    together = record._journal.together
    record._journal.together = lambda: _nothing()  # type: ignore[assignment, return-value]
    with together():
        for number in range(trials):
            at = _run(record, record.ask(), chance, at, best, every, failed=number % 50 == 49)
    record._journal.together = together  # type: ignore[method-assign]
    if finalists:
        for one in all_weights(record):
            difficulty = np.random.default_rng(1).uniform(0.5, 1.5, 40)
            give(one, (difficulty + 0.01 * one.trial % 1 + chance.normal(0, 0.05, 40)).tolist())
    return record


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def _run(
    record: StudyRecord, trial: TrialRecord, chance: np.random.Generator, at: float, best: dict[int, list[float]],
    every: int, *, failed: bool,
) -> float:  # fmt: skip
    lr = trial.point[LR]
    assert isinstance(lr, float)
    level = 2.0 - 0.5 * log10(lr) + 0.3 * float(chance.normal())
    for steps in range(every, 9 * every + 1, every):
        at += 2.0
        about = {
            "outer_steps": steps,
            "train_loss": 1.0,
            "seconds": 1.5,
            "at": at,
            "hostname": f"node{trial.number % 2}",
        }
        if lr > 0.25 and steps == 2 * every:
            record.add_round(trial.number, about | {"diverged": True, "last": True})
            break
        score = level + 2.0 / steps
        rung = steps in record.plan.rungs
        own = best.setdefault(steps, [])
        cut = rung and len(own) >= 3 and score > float(np.quantile(own, 1 / 3))
        last = steps == 9 * every or cut
        own += [score] if rung else []
        scores = {f"val_{record.metric.name}": score, "val_ci95": 0.1, "val_loss": score, "diverged": False}
        record.add_round(trial.number, about | scores | ({"last": True} if last else {}))
        if failed or last:
            break
    record.finish(trial.number, *(("failed", "its worker died <twice> & said $nothing$") if failed else ()))
    return at


def timed(name: str, trials: int) -> tuple[StudyRecord, float]:
    start = time.perf_counter()
    return made(name, trials), time.perf_counter() - start
