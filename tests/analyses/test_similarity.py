"""Cosines of gradients, where they are known."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.similarity import ALL, Similarity, SimilarityConfig, cosine, gradient
from raymeta.analysis import Subject
from raymeta.problem import Bank, Task, Tasks


@dataclass(frozen=True)
class Same:
    """A bank of one task, whose query set is its support set."""

    bank: Bank

    def draw(self, first: int, count: int, learner: Any = None) -> Tasks:
        drawn = self.bank.draw(0, 1, learner)
        return Tasks(drawn.support, drawn.support)


def test_equal_gradients_have_a_cosine_of_1() -> None:
    looked = subject("maml")
    rows = Similarity(SimilarityConfig(tasks=2)).measure(Subject(looked.learner, looked.config, Same(looked.bank)))
    assert {(row["of"], row["part"]) for row in rows} == {
        (of, part) for of in ("two tasks", "support and query") for part in (ALL, "layer1", "layer2", "head")
    }
    assert [row["cosine"] for row in rows] == pytest.approx([1] * len(rows), abs=1e-12)


def test_the_outer_gradient_is_the_one_of_training() -> None:
    """At no inner step it is the gradient of the query loss at theta."""
    looked = subject("maml")
    (case,) = looked.cases(1)
    learner = case.learner
    found = gradient(case, case.task, 0)
    state = learner.unadapted(case.task.support, case.context())  # type: ignore[operator]
    loss = learner.query_loss(state, case.task.query)
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    torch.testing.assert_close(found[ALL], torch.cat([one.flatten() for one in expected]))
    whole = gradient(case, case.task)[ALL]
    assert cosine(whole, found[ALL]) < 1 - 1e-6
    assert not torch.equal(gradient(case, Task(case.task.support, case.task.support))[ALL], whole)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropgrads_noise_turns_a_gradient_by_a_known_angle(p: float) -> None:
    """cos(g n, g) tends to sqrt(1 - p) for n = 1 + sqrt(p / (1 - p)) z and elements of one size."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(400_000, generator=generator, dtype=torch.float64).sign()
    z = torch.randn(400_000, generator=generator, dtype=torch.float64)
    assert cosine(g * (1 + (p / (1 - p)) ** 0.5 * z), g) == pytest.approx((1 - p) ** 0.5, abs=0.005)


def test_running_averages_stay_as_they_were() -> None:
    looked = subject("maml", "images", model={"norm": "running"})
    before = {name: one.clone() for name, one in looked.learner.state_dict().items()}
    Similarity(SimilarityConfig(tasks=2)).measure(looked)
    for name, one in looked.learner.state_dict().items():
        assert torch.equal(one, before[name]), name


def test_what_regularizers_learn_has_no_outer_gradient_without_them() -> None:
    rows = Similarity(SimilarityConfig(tasks=2)).measure(subject("maml+metadropout", "images"))
    assert {row["part"] for row in rows} == {ALL, "block1", "block2", "block3", "block4", "head"}
