"""Score a study's finalists on fresh episodes, as jobs on the slots that the trials had."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.metric import Metric, half_width
from raymeta.report.live.progress import Jobs
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.study.machines.pool import Pool, Report, rounds
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import FILE, Weights, missing
from raymeta.study.record.record import StudyRecord
from raymeta.training.trainer import Trainer, resumed


def reevaluate(record: StudyRecord, session: Session) -> None:
    """Score what is missing, each in a file of its own as soon as it is known; `resume` does what is left.

    Args:
        record: a study that is over.
        session: whose slots to use; what went wrong is put into its `problems`.
    """
    jobs = [Scoring(one, record.metric) for one in missing(record)]
    pool = Pool(jobs, session, record.plan.study.hung_after_s)
    with Jobs(pool, session, "finalists scored on fresh episodes") as shown:
        pool.run(shown)


@dataclass(frozen=True)
class Scoring:
    """Weights to be scored, as a job of a pool."""

    one: Weights
    metric: Metric

    def __str__(self) -> str:
        return str(self.one)

    @property
    def folder(self) -> AnyPath:
        """Where its checkpoint lies."""
        return self.one.folder

    @property
    def steps(self) -> int:
        """Outer steps that the config is trained again."""
        return 0 if self.one.trained_at is not None else int(self.one.config["budget"]["outer_steps"])

    def work(self) -> Iterator[Report]:
        """Train the weights, if they are a fresh seed's, score them, and keep the scores in their folder."""
        one, last, start = self.one, Report(), time.perf_counter()
        config, checkpoint = parse_trial(one.config), one.folder / "checkpoint.pt"
        try:
            if one.trained_at is None:
                trainer, note = resumed(config, checkpoint)
                for last in rounds(trainer, checkpoint, note):
                    yield last
                start = time.perf_counter()
            else:
                trainer = Trainer(config)
                trainer.load(checkpoint)
                yield last
            values, reason = _values(trainer, one), ""
        except UserError as error:
            values, reason = [], str(error)
        seconds = time.perf_counter() - start
        found = {"values": values, "reason": reason, "of": one.identity, "seconds": seconds, "at": time.time()}
        write_atomically(one.folder / FILE, json.dumps(found))
        if values:
            yield replace(last, seconds=seconds, note="", state="done", score=fmean(values), ci95=half_width(values))
        else:
            yield replace(last, seconds=seconds, note=reason, state="failed")


def _values(trainer: Trainer, one: Weights) -> list[float]:
    if one.trained_at is None and trainer.diverged:
        raise UserError(f"seed {one.config['seed']} diverged at {trainer.outer_step} outer steps")
    steps = one.trained_at if one.trained_at is not None else (trainer.best or {})["outer_step"]
    kept = [entry["weights"] for entry in trainer.top if entry["outer_step"] == steps]
    if not kept:
        path = one.folder / "checkpoint.pt"
        raise UserError(f"{path}: lacks the weights of {steps} outer steps, which were the trial's best")
    bank = trainer.problem.bank("validation", one.bank_seed)
    values = trainer.evaluate(bank, one.tasks, members=kept).values.tolist()
    if not all(map(isfinite, values)):
        raise UserError("a score on the fresh episodes is not finite")
    return [float(value) for value in values]
