"""What a search would do, before it does it: sampled configs, rungs, time and disk."""

import io
import time
from dataclasses import dataclass, fields
from typing import Any

import optuna
import torch

from raymeta.problem import CHUNK
from raymeta.study.plan.param import Point
from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import BASELINE
from raymeta.training.lanes import lane_structure, lanes_of
from raymeta.training.trainer import Trainer

PROBED_STEPS = 3


@dataclass(frozen=True)
class Preview:
    """A study's size.

    Attributes:
        plan: the study, with where all of it is from.
        points: what the first trials would be, starting points first; proposals after them are random ones here.
        step_s, validation_s: measured on this machine with the base config, for one trial alone.
        usual_steps, most_steps: outer steps of the study if one trial in `reduction` passes each rung, and if all do.
        lanes: trials that may be lanes of one program, on each slot; 0: each trial has a process of its own.
        structures: by which lanes can share a program, among as many random proposals as the study has trials.
        finalists: how many trials are scored on fresh episodes at most, the un-regularized start among them.
        finalist_s: for one of them, with its trainings by `study.finalist_seeds`.
    """

    plan: Plan
    points: list[Point]
    labels: list[str]
    rungs: list[int]
    slots: int
    step_s: float
    validation_s: float
    validate_every: int
    usual_steps: int
    most_steps: int
    disk_bytes: int
    lanes: int
    structures: int
    finalists: int
    finalist_s: float

    def hours(self, steps: int) -> float:
        """Wall time of so many outer steps with their validations, and of the finalists, all slots busy."""
        trials = steps * (self.step_s + self.validation_s / self.validate_every)
        return (trials + self.finalists * self.finalist_s) / self.slots / 3600

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        times = {"usual_hours": self.hours(self.usual_steps), "worst_case_hours": self.hours(self.most_steps)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "plan"}
        from_where = {"space": self.plan.space.as_dict(), "fixed": self.plan.fixed, "others": self.plan.origins}
        return {"spec": self.plan.spec, **own, **times, **from_where}


def preview(plan: Plan, slots: int, trials: int = 8) -> Preview:
    """Sample the space and time its first starting point for a few steps.

    Args:
        plan: of the study.
        slots: trials at a time, for the estimates of time.
        trials: to sample.
    """
    proposals = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=plan.study.seed))
    for point in plan.space.start_from:
        proposals.enqueue_trial(point)
    points = [plan.space.sample(proposals.ask()) for _ in range(min(trials, plan.study.trials))]
    for point in points:
        plan.config(point)
    labels = [*plan.space.labels, *[""] * len(points)][: len(points)]
    step_s, validation_s, checkpoint = _probe(plan)
    budget, study = plan.base.budget, plan.study
    finalists = min(study.finalists + (BASELINE in plan.space.labels), study.trials) if study.finalists else 0
    training_s = budget.outer_steps * (step_s + validation_s / budget.validate_every)
    fresh_s = validation_s * plan.finalist_tasks / budget.validation_tasks
    return Preview(
        plan,
        points,
        labels,
        plan.rungs,
        slots,
        step_s,
        validation_s,
        budget.validate_every,
        plan.usual_steps(),
        study.trials * budget.outer_steps,
        (study.trials + finalists * study.finalist_seeds) * checkpoint,
        lanes_of(plan.base, gpu=torch.cuda.is_available()),
        _structures(plan),
        finalists,
        fresh_s + study.finalist_seeds * (training_s + fresh_s),
    )


def _structures(plan: Plan) -> int:
    """How many there are among random proposals."""
    proposals = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=plan.study.seed))
    return len({lane_structure(plan.config(plan.space.sample(proposals.ask()))) for _ in range(plan.study.trials)})


def _probe(plan: Plan) -> tuple[float, float, int]:
    """Seconds of an outer step and of a validation, and bytes of a trial's two checkpoints."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = Trainer(plan.config(plan.space.start_from[0]))
    trainer.outer_update()
    start = time.perf_counter()
    for _ in range(PROBED_STEPS):
        trainer.outer_update()
    step_s = (time.perf_counter() - start) / PROBED_STEPS
    budget, task = trainer.config.budget, trainer.config.task
    tasks = min(CHUNK, budget.validation_tasks)
    start = time.perf_counter()
    bank = trainer.problem.bank("validation", task.bank_seed)
    trainer.evaluate(bank, tasks)
    validation_s = (time.perf_counter() - start) * budget.validation_tasks / tasks
    torch.set_num_threads(threads)
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    weights = sum(tensor.nbytes for tensor in trainer.learner.state_dict().values())
    return step_s, validation_s, 2 * (buffer.tell() + budget.ensemble * weights)
