"""Scores by inner step are those of final runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raymeta.analyses.steps import Steps, StepsConfig, last_step
from raymeta.analysis import Subject
from raymeta.errors import UserError
from raymeta.finals.by_step import write_scores
from raymeta.learner import build_learner
from raymeta.testing import small_trial
from raymeta.training.trainer import Trainer


def of(rows: list[dict[str, Any]], tasks: str) -> list[list[float]]:
    steps = sorted({row["step"] for row in rows})
    return [[row["score"] for row in rows if row["tasks"] == tasks and row["step"] == step] for step in steps]


@pytest.mark.parametrize("problem", ["sinusoid", "images"])
def test_they_are_those_that_final_runs_have(problem: str, glyphs: Any, tmp_path: Path) -> None:
    trainer = Trainer(small_trial("maml", problem))
    while not trainer.done:
        trainer.round()
    write_scores(trainer, tmp_path / "steps.json")
    expected = json.loads((tmp_path / "steps.json").read_text())
    assert trainer.best is not None
    config, learner = trainer.config, build_learner(trainer.config, trainer.problem)
    learner.load_state_dict(trainer.best["weights"])
    bank = trainer.problem.bank("test", config.task.bank_seed, final=True)
    rows = Steps(StepsConfig(tasks=config.budget.test_tasks)).measure(Subject(learner.eval(), config, bank))
    for tasks in ("training", "test"):
        found = of(rows, tasks)
        assert len(found) == 1 + 2 * 2  # twice the learner's own
        assert found[:3] == expected[tasks]
    assert found[2] == trainer.test()[0].values.tolist()
    fresh = Subject(build_learner(config, trainer.problem).eval(), config, bank)
    assert of(rows, "untrained") == of(Steps(StepsConfig(tasks=4)).measure(fresh), "test")


@pytest.mark.parametrize(("spec", "last"), [("maml", 4), ("alfa", 2), ("mamlpp", 2)])
def test_the_last_step_is_one_that_the_learner_can_make(spec: str, last: int) -> None:
    config = small_trial(spec, "sinusoid")
    problem = Trainer(config).problem
    looked = Subject(build_learner(config, problem), config, problem.bank("validation", 0))
    assert last_step(looked, None) == last
    assert last_step(looked, 1) == 1
    if last == 2:
        with pytest.raises(UserError, match=rf"^{spec}.eval_steps: found 3, but {spec} learns something for each"):
            last_step(looked, 3)
    assert torch.is_grad_enabled()
