"""What a learner is built from, what its parameters are, and in which order hooks act."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from reference import Random, learner
from torch import Tensor, nn

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Loss, Regularizer
from raymeta.inner import Context
from raymeta.learner import GradientLearner, InnerLoopConfig, Learner, build_learner, task_loss
from raymeta.models import Backbone, Weights
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.schema import Section

IMAGES, VECTORS = Random((1, 16, 16)), Random((4,), "regression")
MLP = {"model": {"name": "mlp", "hidden": [6]}}
TRAINING = Context(training=True)


class Empty(Section):
    pass


class Learned(Regularizer):
    """Multiplies inner gradients with a number that is meta-learned."""

    Config: ClassVar[type[Section]] = Empty
    neutral: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: Any, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        return Hooks(inner_gradients=lambda gradients, context: self.changed(gradients))

    def changed(self, gradients: Weights) -> Weights:
        return {name: self.factor * gradient for name, gradient in gradients.items()}


class Shifted(Learned):
    """Adds 1 to inner gradients."""

    def changed(self, gradients: Weights) -> Weights:
        return {name: gradient + 1 for name, gradient in gradients.items()}


class Frozen(Regularizer):
    """Keeps the first layer out of the inner loop."""

    Config: ClassVar[type[Section]] = Empty
    neutral: ClassVar[dict[str, Any]] = {}

    def freezes(self, name: str) -> bool:
        return name.startswith("layer1.")


class Narrow(Regularizer):
    """Has something to do where the first layer moves, and nowhere else."""

    Config: ClassVar[type[Section]] = Empty
    neutral: ClassVar[dict[str, Any]] = {}

    def covers(self, name: str) -> bool:
        return name.startswith("layer1.")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What a test registers is forgotten after it; what it merely imports stays."""
    own = [("regularizer", "learned"), ("regularizer", "shifted"), ("regularizer", "frozen"), ("regularizer", "narrow")]
    for (_, name), cls in zip(own, (Learned, Shifted, Frozen, Narrow), strict=True):
        registry.regularizer(name)(cls)
    yield
    for key in (*own, ("method", "nearest"), ("method", "plain")):
        registry._classes.pop(key, None)  # type: ignore[call-overload]


def in_training(method: Learner) -> Context:
    """A task's context with what the learner's regularizers do in it."""
    (task,) = VECTORS.tasks(1)
    tasks = Tasks(*(Examples(x[None], y[None]) for x, y in task))
    return replace(TRAINING, hooks=method.hooks(tasks, TRAINING, torch.Generator().manual_seed(0)))


def test_parameters_are_the_meta_learned_tensors() -> None:
    """The inner rate of MAML is none of them; what a regularizer owns is."""
    method = learner(VECTORS, **MLP, regularizers={"learned": {}, "dropgrad": {}})
    names = {name for name, _ in method.named_parameters()}
    assert names == {*(f"model.{name}" for name in method.model.weights()), "regularizers.0.factor"}
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_settings_that_are_numbers_are_tensors_and_no_part_of_the_state() -> None:
    method = learner(VECTORS, **MLP, maml={"inner_lr": 0.3}, regularizers={"dropgrad": {"rate": 0.2}})
    dropgrad = method.regularizers[0]
    assert float(method.numbers.inner_lr) == 0.3
    assert float(dropgrad.numbers.rate) == 0.2  # type: ignore[arg-type, union-attr]
    assert {"numbers.inner_lr", "regularizers.0.numbers.rate"} <= {name for name, _ in method.named_buffers()}
    assert not [name for name in method.state_dict() if "numbers" in name]


def test_outer_gradients_reach_a_regularizers_parameters() -> None:
    method = learner(VECTORS, **MLP, regularizers={"learned": {}}, maml={"inner_lr": 0.1, "inner_steps": 1})
    (task,) = VECTORS.tasks(1)
    method.query_loss(method.adapt(task.support, in_training(method)), task.query).backward()
    assert float(method.regularizers[0].factor.grad.abs()) > 0  # type: ignore[operator, union-attr]


def test_regularizers_are_called_in_the_order_of_the_composition() -> None:
    """2 (g + 1) or 2 g + 1: one step from the same weights, against the plain learner's."""
    (task,), moved = VECTORS.tasks(1), {}
    for order in ((), ("learned", "shifted"), ("shifted", "learned")):
        method = learner(
            VECTORS, **MLP, regularizers={name: {} for name in order}, maml={"inner_lr": 0.125, "inner_steps": 1}
        )
        adapted = method.adapt(task.support, in_training(method))
        before, after = method.model.weights()["head.bias"], adapted.weights["head.bias"]
        moved[order] = float((before - after).detach()) / 0.125
    factor = float(method.regularizers[-1].factor.detach())  # type: ignore[arg-type, operator, union-attr]
    assert factor == 2
    gradient = moved[()]
    assert moved["learned", "shifted"] == pytest.approx(factor * gradient + 1)
    assert moved["shifted", "learned"] == pytest.approx(factor * (gradient + 1))


def test_the_first_hook_on_a_task_is_the_outermost_and_hooks_on_its_loss_go_in_order() -> None:
    """Each of two hooks on the whole task writes before and after; the loss is 10 (10 l + 1) + 2."""
    method, seen = learner(VECTORS, **MLP), []
    (task,) = VECTORS.tasks(1)

    def around(name: str) -> Callable[[Task, Loss, Context], Tensor]:
        def hook(task: Task, loss: Loss, context: Context) -> Tensor:
            seen.append(f"{name} before")
            found = loss(task)
            seen.append(f"{name} after")
            return found

        return hook

    def adding(number: int) -> Callable[..., Tensor]:
        return lambda loss, adapted, task, context: 10 * loss + number

    hooks = (Hooks(task=around("first"), query_loss=adding(1)), Hooks(task=around("second"), query_loss=adding(2)))
    plain = task_loss(method, task, TRAINING)
    found = task_loss(method, task, replace(TRAINING, hooks=hooks))
    assert seen == ["first before", "second before", "second after", "first after"]
    torch.testing.assert_close(found, 10 * (10 * plain + 1) + 2)


def test_a_hook_on_the_query_changes_what_is_asked_and_not_what_later_hooks_are_told() -> None:
    """The query loss is of the changed task; the terms that are added to it see the task and the state as they are."""
    method, told = learner(VECTORS, **MLP), []
    (task, other) = VECTORS.tasks(2)

    def ask_another(adapted: Any, task: Task, context: Context) -> tuple[Any, Task]:
        return adapted, Task(task.support, other.query)

    def note(loss: Tensor, adapted: Any, task: Task, context: Context) -> Tensor:
        told.append(task)
        return loss

    found = task_loss(method, task, replace(TRAINING, hooks=(Hooks(query=ask_another, query_loss=note),)))
    adapted = method.adapt(task.support, TRAINING)
    torch.testing.assert_close(found, method.query_loss(adapted, other.query))
    assert told == [task]


LEARNERS = [
    name for name in registry.names("method") if registry.find("method", name).__module__.startswith("trainables")
]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learners_outer_loss_is_the_mean_of_the_losses_of_query_examples(name: str, soft: bool) -> None:
    """Each of them is a part of its own: what the others' labels are has no say."""
    problem = Random((1, 28, 28))
    method, (task,) = learner(problem, method=name, model={"width": 4}), problem.tasks(1)
    y = F.one_hot(task.query.y, 3).double() if soft else task.query.y
    adapted = method.adapt(task.support, TRAINING)
    losses = method.query_losses(adapted, Examples(task.query.x, y))
    assert losses.shape == (9,)
    torch.testing.assert_close(losses.mean(), method.query_loss(adapted, Examples(task.query.x, y)))
    others = torch.cat([y[:1], y[1:].roll(4, 0)])
    moved = method.query_losses(adapted, Examples(task.query.x, others))
    assert torch.equal(moved[0], losses[0])
    assert not torch.equal(moved[1:], losses[1:])


def test_a_hook_on_the_losses_of_queries_comes_before_their_mean_and_before_terms() -> None:
    method, (task,) = learner(VECTORS, **MLP), VECTORS.tasks(1)
    weights = torch.arange(len(task.query.y)).double()
    hooks = (
        Hooks(query_loss=lambda loss, adapted, task, context: loss + 1),
        Hooks(query_losses=lambda losses, context: weights * losses),
        Hooks(query_losses=lambda losses, context: losses + 2),
    )
    adapted = method.adapt(task.support, TRAINING)
    squares = (method.predict(adapted, task.query.x) - task.query.y).square().mean(1)
    found = task_loss(method, task, replace(TRAINING, hooks=hooks))
    torch.testing.assert_close(found, (weights * squares).mean() + 3)


def test_what_is_frozen_stays_in_the_inner_loop_and_is_learned_in_the_outer_one() -> None:
    method = learner(VECTORS, **MLP, regularizers={"frozen": {}}, maml={"inner_lr": 0.1, "inner_steps": 2})
    (task,), before = VECTORS.tasks(1), method.model.weights()
    adapted = method.adapt(task.support, in_training(method))
    moved = {name for name, weight in adapted.weights.items() if not torch.equal(weight, before[name])}
    assert moved == {"head.weight", "head.bias"}
    method.query_loss(adapted, task.query).backward()
    assert float(before["layer1.weight"].grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_a_regularizer_that_finds_nothing_to_do_is_refused() -> None:
    with pytest.raises(UserError, match=r"^maml\+frozen\+narrow: maml adapts nothing in the scope of narrow$"):
        learner(VECTORS, **MLP, regularizers={"frozen": {}, "narrow": {}})


def test_the_loss_is_that_of_the_data() -> None:
    images, curves = learner(IMAGES), learner(VECTORS, **MLP)
    for method, problem, loss in ((images, IMAGES, F.cross_entropy), (curves, VECTORS, F.mse_loss)):
        (task,) = problem.tasks(1)
        adapted = method.adapt(task.support, TRAINING)
        outputs, found = method.predict(adapted, task.query.x), method.query_loss(adapted, task.query)
        assert found.shape == ()
        torch.testing.assert_close(found, loss(outputs, task.query.y))
        torch.testing.assert_close(found, method.loss(outputs, task.query.y))


def test_outputs_are_a_logit_per_label_or_one_value() -> None:
    assert learner(Random((1, 16, 16), labels=7)).model.weights()["head.weight"].shape[0] == 7
    assert learner(Random((4,), "regression", labels=7), **MLP).model.weights()["head.weight"].shape[0] == 1


def test_a_base_regularizer_does_nothing() -> None:
    (task,), plain = IMAGES.tasks(1), Regularizer(Empty(), learner(IMAGES).model, IMAGES)
    tasks = Tasks(*(Examples(x[None], y[None]) for x, y in task))
    generator = torch.Generator()
    assert plain.on_tasks(tasks, 0.5, generator) is tasks
    assert plain.on_step(learner(IMAGES), tasks, TRAINING, plain.draw(tasks, TRAINING, generator)) == Hooks()


def test_a_learner_without_inner_steps_can_be_written() -> None:
    """A whole learner in a few lines, built by name."""

    @registry.method("nearest")
    class Nearest(Learner):
        Config: ClassVar[type[Section]] = Empty

        def adapt(self, support: Examples, context: Context) -> Tensor:
            x, y = support
            return torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])

        def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
            return -(x[:, None] - adapted).flatten(2).square().sum(-1)

    config: TrialConfig = parse_trial({"method": "nearest"})
    method = build_learner(config, IMAGES)
    assert isinstance(method, Nearest)
    (task,) = IMAGES.tasks(1)
    predictions = method.predict(method.adapt(task.support, Context(training=False)), task.query.x)
    assert predictions.shape == (9, 3)
    assert float((predictions.argmax(1) == task.query.y).double().mean()) > 0.5


def test_a_gradient_learner_with_nothing_overridden_is_maml() -> None:
    @registry.method("plain")
    class Plain(GradientLearner):
        Config: ClassVar[type[Section]] = InnerLoopConfig

    (task,) = IMAGES.tasks(1)
    losses = []
    for name in ("plain", "maml"):
        method = build_learner(parse_trial({"method": name, name: {"inner_lr": 0.1}}), IMAGES).double()
        losses.append(task_loss(method, task, TRAINING))
    assert torch.equal(*losses)
