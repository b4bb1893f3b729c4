"""The plan of final runs: one for every config and seed, each in a folder of its own, as a job of a pool."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.finals import by_step as inner_steps
from raymeta.finals.folders import folder_of
from raymeta.finals.results import BY_STEP, RESULT, SeedResult
from raymeta.metric import Metric
from raymeta.models.kernels import kernels_of
from raymeta.problem import open_problem
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.training.trainer import Trainer, resumed

if TYPE_CHECKING:
    from raymeta.study.machines.pool import Report


@dataclass(frozen=True)
class Run:
    """One seed of a config: trained to its full budget, selected by validation, tested.

    Attributes:
        name: of the config.
        by_step: score it by inner step, too.
    """

    name: str
    seed: int
    config: dict[str, Any]
    folder: AnyPath
    metric: Metric
    by_step: bool = False

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def steps(self) -> int:
        """Outer steps of its budget."""
        return int(self.config["budget"]["outer_steps"])

    @property
    def tested(self) -> bool:
        """Nothing is left to do."""
        files = [RESULT, *([BY_STEP] if self.by_step else [])]
        return all((self.folder / file).exists() for file in files)

    def work(self) -> "Iterator[Report]":
        """Train what is left of it, a round at a time, then test."""
        from raymeta.study.machines.pool import Report, rounds

        last, checkpoint = Report(), self.folder / "checkpoint.pt"
        trainer, note = resumed(parse_trial(self.config, str(self.folder)), checkpoint)
        for last in rounds(trainer, checkpoint, note):
            yield last
        if trainer.diverged:
            problem = f"diverged at {trainer.outer_step} outer steps"
            yield replace(last, seconds=0.0, note="", state="diverged", problem=problem)
            return
        start = time.perf_counter()
        if not (self.folder / RESULT).exists():
            write_atomically(self.folder / RESULT, json.dumps(asdict(_tested(trainer))))
        if self.by_step:
            inner_steps.write_scores(trainer, self.folder / BY_STEP)
        yield replace(last, seconds=time.perf_counter() - start, note="", state="done")


def _tested(trainer: Trainer) -> SeedResult:
    """The best validated weights on the test split, alone and as an ensemble."""
    (score, ensemble), best = trainer.test(), trainer.best
    assert best is not None
    return SeedResult(
        seed=trainer.config.seed,
        values=score.values.tolist(),
        ensemble=ensemble.mean,
        ensemble_ci95=ensemble.ci95,
        val=best["score"],
        val_ci95=best["ci95"],
        selected_at=best["outer_step"],
        rounds=trainer.rounds,
        also=dict(score.also),
        kernels=kernels_of(trainer.config),
    )


def plan_runs(configs: Mapping[str, TrialConfig], seeds: Sequence[int], by_step: bool) -> list[Run]:
    """Every config with every seed.

    Raises:
        UserError: one of them cannot be tested, or has no inner steps to be scored by.
    """
    runs = []
    for name, config in configs.items():
        problem = open_problem(config.task)
        problem.bank("test", config.task.bank_seed, final=True)
        if by_step and not registry.find("method", config.method).inner_loop:
            raise UserError(f"--by-step: {config.method} has no inner steps")
        metric, folder = problem.metric, folder_of(name, config)
        runs += [
            Run(name, seed, config.as_dict() | {"seed": seed}, folder / f"seed{seed}", metric, by_step)
            for seed in seeds
        ]
    return runs
