"""The conformance suite on every method there is, and that it finds what it is for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from foreign import free
from torch import Tensor, nn

from raymeta import registry
from raymeta.inner import Context, Phase, gradients
from raymeta.learner import Adapted, Support
from raymeta.models import Pass, Weights
from raymeta.problem import Examples
from raymeta.registry import method
from raymeta.testing import conformance, promises, small_trial, suite
from raymeta.testing.numbers import takes_numbers_as_tensors
from trainables.maml import MAML

METHODS = registry.names("method")
OTHERS = {name: case for name, case in suite.SMALL.items() if name != "policies"}  # those: tests/problems/rl

test_every_method_conforms = conformance(*METHODS, problems=OTHERS)
test_regularizers_conform = conformance(
    "maml+dropgrad", "metasgd+dropgrad", "maml+dropout", "protonet+dropout", "protonet+taskaug", problems=OTHERS
)
test_sampled_evaluation_conforms = conformance(
    "alfa+metadropout", config={"regularizers": {"metadropout": {"eval_samples": 2}}}, problems=OTHERS
)


class Remembers(MAML):
    """Adapts from where the task before ended."""

    def adapt(self, support: Examples, context: Context) -> Adapted:
        adapted = super().adapt(support, context)
        before = getattr(self, "before", None)
        self.before = {name: weight.detach() for name, weight in adapted.weights.items()}
        return Adapted({**adapted.weights, **before}, adapted.query) if before else adapted


class Draws(MAML):
    """Draws from the global generator."""

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        prediction = super().predict(adapted, x)
        return prediction + torch.randn(prediction.shape)


class Idle(MAML):
    """Has a parameter that nothing uses."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.unused = nn.Parameter(torch.ones(3))


class Hoards(MAML):
    """Keeps what it predicts."""

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        self.__dict__.setdefault("kept", []).append(super().predict(adapted, x))
        return self.__dict__["kept"][-1]  # type: ignore[no-any-return]


class Detaches(MAML):
    """Claims second order and takes the first."""

    def phase(self, progress: float) -> Phase:
        return Phase(second_order=False)


class Branches(MAML):
    """Branches on a value, which vmap cannot."""

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        prediction = super().predict(adapted, x)
        return prediction if float(prediction.sum().detach()) > 0 else 2 * prediction


class Thaws(MAML):
    """Moves what a regularizer froze."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.adapted = self.moving()


class Deaf(MAML):
    """Runs an inner loop of its own, as it did before there were regularizers."""

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        loss, weights = self.step_loss(own), self.initial(own)
        for step in range(self.steps(context)):
            moving = {name: weights[name] for name in self.adapted}
            found = gradients(
                lambda moving, weights=weights, step=step: loss({**weights, **moving}, step),  # type: ignore[misc]
                moving,
                second_order=self.second_order(context),
                vectorized=context.vectorized,
            )
            weights = {**weights, **self.update(step, moving, found)}
        return self.adapted_state(own, [weights])


class Impatient(MAML):
    """Takes one pass where several are asked for."""

    def step_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        def loss(weights: Weights, step: int) -> Tensor:
            return self.loss(self.outputs(support.x, weights, support.context.at(step)), support.y)

        return loss


class Undisturbed(MAML):
    """Calls no hooks on activations in its inner loop."""

    def step_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        return super().step_loss(replace(support, context=replace(support.context, hooks=())))


class Stubborn(MAML):
    """Makes as many steps as it likes."""

    def steps(self, context: Context) -> int:
        return int(self.settings.inner_steps)


class Confuses(MAML):
    """Normalises the query by itself whatever the norm is."""

    def query_pass(self, support: Support, weights: Weights, step: int) -> Pass:
        return support.context.at(step, query=True)


class Another(MAML):
    """Has an initial state that is not where its inner loop starts."""

    def unadapted(self, support: Examples, context: Context) -> Adapted:
        found = super().unadapted(support, context)
        return replace(found, weights={name: 1.5 * weight for name, weight in found.weights.items()})


class Freezes(MAML):
    """Takes a number for a constant."""

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        return {name: weight - self.settings.inner_lr * gradients[name] for name, weight in moving.items()}


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (Remembers, suite.keeps_tasks_apart),
        (Draws, suite.is_deterministic),
        (Draws, suite.resumes_exactly),
        (Idle, suite.learns_its_parameters),
        (Hoards, suite.evaluates_cleanly),
        (Detaches, suite.follows_its_loss),
        (Branches, suite.batches_tasks),
        (Thaws, promises.honours_freezing),
        (Deaf, promises.honours_gradient_hooks),
        (Deaf, promises.shows_its_steps),
        (Impatient, promises.honours_samples),
        (Undisturbed, promises.honours_activation_hooks),
        (Stubborn, promises.honours_steps),
        (Another, promises.honours_steps),
        (Confuses, promises.honours_the_norm),
        (Freezes, takes_numbers_as_tensors),
    ],
)
def test_the_suite_finds_what_it_is_for(
    bad: type[MAML], check: Callable[..., None], glyphs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = small_trial("maml", config={"maml": {"inner_lr": 0.1}})
    check(trial)
    free(monkeypatch, "method", "maml")
    method("maml")(bad)
    with pytest.raises((AssertionError, RuntimeError)):
        check(trial)
