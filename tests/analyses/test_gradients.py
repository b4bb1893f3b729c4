"""Norms of inner gradients against finite differences, and what regularizers do to them."""

from typing import Any, ClassVar

import pytest
import torch
from analyses.conftest import subject
from reference import mlp
from torch import Tensor

from raymeta import registry
from raymeta.analyses.gradients import Gradients
from raymeta.analysis import AnalysisConfig, Subject
from raymeta.hooks import Hooks, Regularizer
from raymeta.schema import Section


def norms(subject: Subject, step: int = 1) -> dict[str, float]:
    rows = Gradients(AnalysisConfig(tasks=1)).measure(subject)
    return {row["layer"]: row["norm"] for row in rows if row["step"] == step}


def test_they_are_those_of_a_direct_computation_by_finite_differences() -> None:
    """Of both steps: the second is where the first one has led."""
    looked, rate, tiny = subject("maml", maml={"inner_lr": 0.05}), 0.05, 1e-6
    (case,) = looked.cases(1)
    weights = {name: one.detach().clone() for name, one in looked.learner.model.weights().items()}

    def loss(weights: dict[str, Tensor]) -> float:
        return float((mlp(case.task.support.x, weights) - case.task.support.y).square().mean())

    for step in (1, 2):
        slopes = {name: torch.zeros_like(one) for name, one in weights.items()}
        for name, one in weights.items():
            for place in range(one.numel()):
                ends = []
                for side in (tiny, -tiny):
                    moved = one.clone()
                    moved.view(-1)[place] += side
                    ends.append(loss({**weights, name: moved}))
                slopes[name].view(-1)[place] = (ends[0] - ends[1]) / (2 * tiny)
        found = norms(looked, step)
        assert list(found) == ["layer1", "layer2", "head"]
        for layer, value in found.items():
            assert value == pytest.approx(float(slopes[f"{layer}.weight"].norm()), rel=1e-6)
        weights = {name: one - rate * slopes[name] for name, one in weights.items()}


class Empty(Section):
    pass


class Triples(Regularizer):
    """Triples inner gradients, in evaluation too."""

    name = "triples"
    Config: ClassVar[type[Section]] = Empty
    neutral: ClassVar[dict[str, Any]] = {}
    in_evaluation: bool = True

    def on_step(self, *arguments: Any) -> Hooks:
        return Hooks(inner_gradients=lambda gradients, context: {name: 3 * g for name, g in gradients.items()})


def test_they_are_taken_before_regularizers_change_them() -> None:
    plain = norms(subject("maml"))
    with registry.planted("regularizer", "triples", Triples):
        looked = subject("maml+triples")
        assert norms(looked) == pytest.approx(plain, rel=1e-12)
        assert norms(looked, 2) != pytest.approx(norms(subject("maml"), 2), rel=1e-3)  # the update does see it
        (case,) = looked.cases(1)
        before, after = (case.inner_steps(regularized=way)[0].gradients for way in (False, True))
        assert {name: 3 * g for name, g in before.items()}.keys() == after.keys()
        for name, gradient in after.items():
            torch.testing.assert_close(gradient, 3 * before[name])


def test_of_a_context_vector_they_are_its_own() -> None:
    assert list(norms(subject("cavia"))) == ["context"]


def test_looking_changes_nothing() -> None:
    looked = subject("maml", "images")
    (case,) = looked.cases(1)
    with torch.no_grad():
        plain = looked.learner.predict(case.adapted(), case.task.query.x)
        case.inner_steps()
        again = looked.learner.predict(case.adapted(), case.task.query.x)
    assert torch.equal(plain, again)
