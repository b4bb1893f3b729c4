"""The conformance suite on every method there is, and that it finds what it is for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign import free
from torch import Tensor, nn

from raymeta import registry
from raymeta.inner import Context
from raymeta.learner import Adapted
from raymeta.registry import method
from raymeta.testing import conformance, small_trial, suite
from trainables.maml import MAML

METHODS = registry.names("method")

test_every_method_conforms = conformance(*METHODS)
test_regularizers_conform = conformance(
    "maml+dropgrad", "metasgd+dropgrad", "maml+dropout", "protonet+dropout", "alfa+metadropout", "protonet+taskaug"
)


class Remembers(MAML):
    """Adapts from where the task before ended."""

    def adapt(self, support_x: Tensor, support_y: Tensor, context: Context) -> Adapted:
        adapted = super().adapt(support_x, support_y, context)
        before = getattr(self, "before", None)
        self.before = {name: weight.detach() for name, weight in adapted.weights.items()}
        return Adapted({**adapted.weights, **before}, adapted.query) if before else adapted


class Draws(MAML):
    """Draws from the global generator."""

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        prediction = super().predict(adapted, query_x)
        return prediction + torch.randn(prediction.shape)


class Idle(MAML):
    """Has a parameter that nothing uses."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Parameter(torch.ones(3))


class Hoards(MAML):
    """Keeps what it predicts."""

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        self.__dict__.setdefault("kept", []).append(super().predict(adapted, query_x))
        return self.__dict__["kept"][-1]  # type: ignore[no-any-return]


class Detaches(MAML):
    """Claims second order and takes the first."""

    def second_order(self, context: Context) -> bool:
        return False


class Branches(MAML):
    """Branches on a value, which vmap cannot."""

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        prediction = super().predict(adapted, query_x)
        return prediction if float(prediction.sum().detach()) > 0 else 2 * prediction


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
