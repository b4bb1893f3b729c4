"""What tests of analyses look at: small learners in float64, trained for no step, and their tasks."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from raymeta.analysis import Subject
from raymeta.learner import Learner, build_learner
from raymeta.problem import Bank, Tasks, open_problem
from raymeta.testing import small_trial


@dataclass(frozen=True)
class Double:
    """A bank whose tasks are in float64."""

    bank: Bank

    def draw(self, first: int, count: int, learner: Learner | None = None) -> Tasks:
        drawn = self.bank.draw(first, count, learner)
        return drawn.map(lambda part: part.double() if part.is_floating_point() else part)


def subject(spec: str, problem: Any = "sinusoid", *, shake: float = 0.1, **config: Any) -> Subject:
    """A learner in float64 on validation tasks, its weights a little off their regular start."""
    trial = small_trial(spec, problem, config)
    opened = open_problem(trial.task)
    opened.prepare()
    learner = build_learner(trial, opened).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return Subject(learner, trial, Double(opened.bank("validation", trial.task.bank_seed)))


@pytest.fixture(autouse=True)
def _images(glyphs: Any) -> None:
    """The embedded data set is there."""
