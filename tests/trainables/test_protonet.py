"""ProtoNet against a slow reference; its linear form; what a prototype depends on."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, both, learner, maps, means
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
from trainables.protonet import class_means

IMAGES = Random((1, 16, 16))


WAYS = pytest.mark.parametrize("way", ["joint", "separate", "support"])  # which statistics a query sees


def protonet(problem: Random = IMAGES, *, way: str = "separate", norm: str = "batch", **model: Any) -> Learner:
    norm, own = ("support", {}) if way == "support" else (norm, {"passes": way})
    network = {"name": "conv4", "width": 6, "norm": norm} if problem is IMAGES else {"name": "mlp", "hidden": [5]}
    return learner(problem, method="protonet", model={**network, **model}, protonet=own)


@WAYS
def test_outer_gradient_is_the_references(way: str) -> None:
    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        (x, y), (query_x, query_y) = task
        support, features = (found.flatten(1) for found in both(x, query_x, theta, way))
        classes = means(support, y)
        distances = [((feature - c) ** 2).sum() for feature in features for c in classes]
        return F.cross_entropy(-torch.stack(distances).reshape(len(features), len(classes)), query_y)

    method = protonet(way=way)
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


def test_support_and_query_share_their_statistics_by_default_and_evaluation_is_as_training() -> None:
    """But for running averages, with which the images of a pass don't see each other."""
    (task,) = IMAGES.tasks(1)
    ways = [protonet(way=way) for way in ("joint", "separate")]
    assert parse_trial({"method": "protonet"}).settings.passes == "joint"
    joint, separate = (predict(method, task, EVALUATION) for method in ways)
    assert float((joint - separate).detach().abs().max()) > 0.1
    torch.testing.assert_close(predict(ways[0], task, TRAINING), joint)
    alike = [predict(protonet(way=way, norm="running"), task, EVALUATION) for way in ("joint", "separate")]
    torch.testing.assert_close(*alike, rtol=1e-10, atol=1e-10)


def test_one_pass_updates_the_running_averages_once_with_all_images() -> None:
    (task,), momentum = IMAGES.tasks(1), 0.1
    for way, passes in (
        ("joint", [torch.cat([task.support.x, task.query.x])]),
        ("separate", [task.support.x, task.query.x]),
    ):
        method = protonet(way=way, norm="running")
        weights = method.model.weights()
        expected = torch.zeros(6, dtype=torch.float64)
        for x in passes:
            h = F.conv2d(x, weights["block1.weight"], weights["block1.bias"], padding=1)
            expected = (1 - momentum) * expected + momentum * h.mean((0, 2, 3))
        predict(method, task, TRAINING)
        torch.testing.assert_close(method.model.block1.norm.running_mean, expected.detach())  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_proto_maml_without_steps_predicts_alike(norm: str) -> None:
    method, (task,) = protonet(way="support" if norm == "support" else "separate"), IMAGES.tasks(1)
    model = {"name": "conv4", "width": 6, "norm": norm, "conv_bias": True}
    other = learner(IMAGES, method="protomaml", model=model, protomaml={"inner_steps": 0})
    other.load_state_dict({**other.state_dict(), **method.state_dict()})
    for context in (TRAINING, EVALUATION):
        ours, theirs = predict(method, task, context), predict(other, task, context)
        torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), rtol=1e-9, atol=1e-9)
        assert torch.equal(ours.argmax(1), theirs.argmax(1))


def test_prototypes_do_not_depend_on_the_order_of_the_support() -> None:
    method, (task,) = protonet(), IMAGES.tasks(1)
    x, y = task.support

    def adapted(x: Tensor, y: Tensor) -> Tensor:
        adapted = method.adapt(Examples(x, y), TRAINING)
        return class_means(adapted.features, y, adapted.classes)

    classes = adapted(x, y)
    torch.testing.assert_close(classes, means(maps(x, method.model.weights()).flatten(1), y))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(adapted(x[order], y[order]), classes, rtol=1e-10, atol=1e-10)
    renamed = torch.tensor([2, 0, 1])  # class k is now called renamed[k]
    torch.testing.assert_close(adapted(x, renamed[y])[renamed], classes)
    uneven = torch.tensor([0, 0, 0, 0, 1, 2])
    expected = means(maps(x, method.model.weights()).flatten(1), uneven)
    torch.testing.assert_close(adapted(x, uneven), expected)


@WAYS
def test_gradient_reaches_the_support_images(way: str) -> None:
    method, (task,) = protonet(way=way), IMAGES.tasks(1)
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


@WAYS
def test_evaluation_only_predicts(way: str) -> None:
    assert_evaluation_only_predicts(protonet(way=way), IMAGES.tasks(3))


@pytest.mark.parametrize("way", ["joint", "separate"])
def test_evaluation_with_running_averages_only_predicts(way: str) -> None:
    assert_evaluation_only_predicts(protonet(way=way, norm="running"), IMAGES.tasks(3))


@WAYS
def test_tasks_batched_are_tasks_looped_over(way: str) -> None:
    assert_batched_is_looped(protonet(way=way), IMAGES.tasks(3))
