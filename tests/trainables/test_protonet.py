"""ProtoNet against a slow reference; its linear form; what a prototype depends on."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, learner, maps, means
from torch import Tensor
from unrolled import (
    EVALUATION,
    TRAINING,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    finite_difference_error,
    learned,
    predict,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Examples, Task

IMAGES = Random((1, 16, 16))


def protonet(problem: Random = IMAGES, *, norm: str = "batch", **model: Any) -> Learner:
    network = {"name": "conv4", "width": 6, "norm": norm} if problem is IMAGES else {"name": "mlp", "hidden": [5]}
    return learner(problem, method="protonet", model={**network, **model})


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_outer_gradient_is_the_references(norm: str) -> None:
    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        (x, y), (query_x, query_y) = task
        classes = means(maps(x, theta).flatten(1), y)
        features = maps(query_x, theta, normaliser=x if norm == "support" else None).flatten(1)
        distances = [((feature - c) ** 2).sum() for feature in features for c in classes]
        return F.cross_entropy(-torch.stack(distances).reshape(len(features), len(classes)), query_y)

    method = protonet(norm=norm)
    assert_gradient(method, IMAGES.tasks(2), loss)
    assert len(learned(method)) == 16, "four blocks, no head"


def test_gradient_is_the_finite_difference() -> None:
    vectors = Random((4,))
    method = protonet(vectors)
    assert finite_difference_error(method, vectors.tasks(2)) < 1e-7


def test_logits_are_those_of_a_linear_classifier() -> None:
    """Up to a constant of each query image: w = 2c, b = -|c|^2."""
    method, (task,) = protonet(), IMAGES.tasks(1)
    weights = method.model.weights()
    classes = means(maps(task.support.x, weights).flatten(1), task.support.y)
    linear = maps(task.query.x, weights).flatten(1) @ (2 * classes).T - (classes**2).sum(1)
    logits = predict(method, task, TRAINING)
    constants = logits - linear
    torch.testing.assert_close(constants, constants[:, :1].expand(-1, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits.softmax(1), linear.softmax(1), rtol=1e-9, atol=1e-9)
    assert (logits <= 0).all()


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_proto_maml_without_steps_predicts_alike(norm: str) -> None:
    method, (task,) = protonet(norm=norm), IMAGES.tasks(1)
    other = learner(
        IMAGES, method="protomaml", model={"name": "conv4", "width": 6, "norm": norm}, protomaml={"inner_steps": 0}
    )
    other.load_state_dict({**other.state_dict(), **method.state_dict()})
    for context in (TRAINING, EVALUATION):
        ours, theirs = predict(method, task, context), predict(other, task, context)
        torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), rtol=1e-9, atol=1e-9)
        assert torch.equal(ours.argmax(1), theirs.argmax(1))


def test_prototypes_do_not_depend_on_the_order_of_the_support() -> None:
    method, (task,) = protonet(), IMAGES.tasks(1)
    x, y = task.support

    def adapted(x: Tensor, y: Tensor) -> Tensor:
        return method.adapt(Examples(x, y), TRAINING).classes  # type: ignore[no-any-return]

    classes = adapted(x, y)
    torch.testing.assert_close(classes, means(maps(x, method.model.weights()).flatten(1), y))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(adapted(x[order], y[order]), classes, rtol=1e-10, atol=1e-10)
    renamed = torch.tensor([2, 0, 1])  # class k is now called renamed[k]
    torch.testing.assert_close(adapted(x, renamed[y])[renamed], classes)
    uneven = torch.tensor([0, 0, 0, 0, 1, 2])
    expected = means(maps(x, method.model.weights()).flatten(1), uneven)
    torch.testing.assert_close(adapted(x, uneven), expected)


def test_gradient_reaches_the_support_images() -> None:
    method, (task,) = protonet(), IMAGES.tasks(1)
    support_x = task.support.x.requires_grad_()
    method.query_loss(method.adapt(task.support, TRAINING), task.query).backward()
    assert support_x.grad is not None
    assert (support_x.grad.flatten(1).norm(dim=1) > 1e-6).all()


@pytest.mark.parametrize(
    ("data", "problem", "sentence"),
    [
        (
            {"model": {"name": "mlp"}},
            Random((4,), "values"),
            "protonet needs labels, and random has none",
        ),
        (
            {"regularizers": {"dropgrad": {}}},
            IMAGES,
            "protonet+dropgrad: dropgrad needs an inner loop, and protonet has none",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(data: dict[str, Any], problem: Random, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "protonet", **data}), problem)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("norm", ["batch", "support", "running"])
def test_evaluation_only_predicts(norm: str) -> None:
    assert_evaluation_only_predicts(protonet(norm=norm), IMAGES.tasks(3))


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_tasks_batched_are_tasks_looped_over(norm: str) -> None:
    assert_batched_is_looped(protonet(norm=norm), IMAGES.tasks(3))
