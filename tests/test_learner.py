"""What a method is built from, and what its parameters are."""

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from foreign import free
from reference import Random, learner
from torch import Tensor, nn

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.hooks import Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner
from raymeta.models import Backbone, Weights
from raymeta.problem import Problem
from raymeta.schema import Section

IMAGES, VECTORS = Random((1, 16, 16)), Random((4,), "regression")
MLP = {"model": {"name": "mlp", "hidden": [6]}}


class Empty(Section):
    pass


class Learned(Regularizer):
    """Multiplies inner gradients with a number that is meta-learned."""

    Config: ClassVar[type[Section]] = Empty
    neutral: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: Any, model: Backbone, dataset: Problem) -> None:
        super().__init__(config, model, dataset)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def on_inner_gradients(self, gradients: Weights, context: Context) -> Weights:
        return {name: self.factor * gradient for name, gradient in gradients.items()}


class Shifted(Learned):
    """Adds 1 to inner gradients."""

    def on_inner_gradients(self, gradients: Weights, context: Context) -> Weights:
        return {name: gradient + 1 for name, gradient in gradients.items()}


@pytest.fixture
def regularizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are registered for a test."""
    free(monkeypatch, "regularizer", "learned", "shifted")
    registry.regularizer("learned")(Learned)
    registry.regularizer("shifted")(Shifted)


def test_parameters_are_the_meta_learned_tensors(regularizers: None) -> None:
    """The inner rate of MAML is none of them; what a regularizer owns is."""
    method = learner(VECTORS, **MLP, regularizers={"learned": {}, "dropgrad": {}})
    names = {name for name, _ in method.named_parameters()}
    assert names == {*(f"model.{name}" for name in method.model.weights()), "regularizers.0.factor"}
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_outer_gradients_reach_a_regularizers_parameters(regularizers: None) -> None:
    method = learner(VECTORS, **MLP, regularizers={"learned": {}}, maml={"inner_lr": 0.1, "inner_steps": 1})
    (task,) = VECTORS.tasks(1)
    hooks = tuple(method.regularizers)
    adapted = method.adapt(task.support, Context(training=True, regularizers=hooks))  # type: ignore[arg-type]
    method.query_loss(adapted, task.query).backward()
    assert float(hooks[0].factor.grad.abs()) > 0  # type: ignore[operator, union-attr]


def test_regularizers_are_called_in_the_order_of_the_composition(regularizers: None) -> None:
    """2 (g + 1) or 2 g + 1: one step from the same weights, against the plain learner's."""
    (task,), moved = VECTORS.tasks(1), {}
    for order in ((), ("learned", "shifted"), ("shifted", "learned")):
        method = learner(
            VECTORS, **MLP, regularizers={name: {} for name in order}, maml={"inner_lr": 0.125, "inner_steps": 1}
        )
        hooks = tuple(method.regularizers)
        adapted = method.adapt(task.support, Context(training=True, regularizers=hooks))  # type: ignore[arg-type]
        before, after = method.model.weights()["head.bias"], adapted.weights["head.bias"]
        moved[order] = float((before - after).detach()) / 0.125
    for hook in hooks:
        assert isinstance(hook, Learned)
    factor = float(hooks[-1].factor.detach())  # type: ignore[arg-type]
    assert factor == 2
    gradient = moved[()]
    assert moved["learned", "shifted"] == pytest.approx(factor * gradient + 1)
    assert moved["shifted", "learned"] == pytest.approx(factor * (gradient + 1))


def test_the_loss_is_that_of_the_data() -> None:
    images, curves = learner(IMAGES), learner(VECTORS, **MLP)
    assert (images.loss, curves.loss) == (F.cross_entropy, F.mse_loss)
    for method, dataset in ((images, IMAGES), (curves, VECTORS)):
        (task,) = dataset.tasks(1)
        adapted = method.adapt(task.support, Context(training=True))
        found = method.query_loss(adapted, task.query)
        assert found.shape == ()
        torch.testing.assert_close(found, method.loss(method.predict(adapted, task.query.x), task.query.y))


def test_outputs_are_a_logit_per_way_or_one_value() -> None:
    assert learner(IMAGES, ways=7).model.weights()["head.weight"].shape[0] == 7
    assert learner(VECTORS, ways=7, **MLP).model.weights()["head.weight"].shape[0] == 1


def test_a_base_regularizer_changes_nothing() -> None:
    gradients = {"a": torch.ones(2)}
    plain = Regularizer(None, learner(IMAGES).model, IMAGES)
    assert plain.on_inner_gradients(gradients, Context(training=True)) is gradients


def test_a_method_without_inner_steps_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole method in a few lines, built by name."""
    free(monkeypatch, "method", "nearest")

    @registry.method("nearest")
    class Nearest(Learner):
        Config: ClassVar[type[Section]] = Empty

        def adapt(self, support_x: Tensor, support_y: Tensor, context: Context) -> Tensor:
            return torch.stack([support_x[support_y == k].mean(0) for k in range(int(support_y.max()) + 1)])

        def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
            return -(query_x[:, None] - adapted).flatten(2).square().sum(-1)

    config: TrialConfig = parse_trial({"method": "nearest"})
    dataset: Problem = IMAGES
    method = build_learner(config, dataset)
    assert isinstance(method, Nearest)
    (task,) = IMAGES.tasks(1)
    predictions = method.predict(method.adapt(task.support, Context(training=False)), task.query.x)
    assert predictions.shape == (9, 3)
    assert float((predictions.argmax(1) == task.query.y).double().mean()) > 0.5
