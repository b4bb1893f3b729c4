"""MatchingNet against a slow reference; probabilities; the nearest neighbour as its limit."""

from typing import Any

import pytest
import torch
from reference import Random, Weights, both, learner, maps
from torch import Tensor
from unrolled import (
    EVALUATION,
    TRAINING,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    finite_difference_error,
    predict,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Examples, Task

IMAGES = Random((1, 16, 16))
TINY = 1e-6  # in the logarithm
WAYS = pytest.mark.parametrize("way", ["joint", "separate", "support"])  # which statistics a query sees


def matchingnet(
    problem: Random = IMAGES, *, way: str = "separate", norm: str = "batch", scale: float = 100.0
) -> Learner:
    norm, own = ("support", {}) if way == "support" else (norm, {"passes": way})
    network = {"name": "conv4", "width": 6, "norm": norm} if problem is IMAGES else {"name": "mlp", "hidden": [5]}
    return learner(problem, method="matchingnet", model=network, matchingnet={"scale": scale, **own})


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (torch.sqrt((a**2).sum()) * torch.sqrt((b**2).sum()))


@pytest.mark.parametrize("scale", [1.0, 100.0])
@WAYS
def test_outer_gradient_is_the_references(way: str, scale: float) -> None:
    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        (x, y), (query_x, query_y) = task
        memory, features = (found.flatten(1) for found in both(x, query_x, theta, way))
        losses = []
        for feature, label in zip(features, query_y, strict=True):
            similarity = torch.exp(scale * torch.stack([cosine(feature, other) for other in memory]))
            p = torch.stack([similarity[y == k].sum() for k in range(3)]) / similarity.sum() + TINY
            losses.append(-torch.log(p[label] / p.sum()))
        return torch.stack(losses).mean()

    assert_gradient(matchingnet(way=way, scale=scale), IMAGES.tasks(2), loss)


def test_gradient_is_the_finite_difference() -> None:
    vectors = Random((4,))
    assert finite_difference_error(matchingnet(vectors, scale=5.0), vectors.tasks(2)) < 1e-7


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_outputs_are_logarithms_of_probabilities(scale: float) -> None:
    p = predict(matchingnet(scale=scale), IMAGES.tasks(1)[0]).exp()
    torch.testing.assert_close(p.sum(1), torch.full((9,), 1 + 3 * TINY, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert (p >= TINY * (1 - 1e-9)).all()
    assert (p.amax(1) < 0.9).all() == (scale == 1.0), "the larger the scale the surer"


def test_equal_support_images_share_their_weight() -> None:
    method, (task,) = matchingnet(scale=1.0), IMAGES.tasks(1, shots=1)
    x, y = task.support.x[[0, 0, 1, 2]], task.support.y[[0, 1, 1, 2]]  # the first image belongs to two classes
    memory = maps(x, method.model.weights()).flatten(1)
    p = predict(method, task._replace(support=Examples(x, y))).exp() - TINY
    for row, feature in zip(p, maps(task.query.x, method.model.weights()).flatten(1), strict=True):
        attention = torch.stack([cosine(feature, other) for other in memory]).exp()
        attention = attention / attention.sum()
        torch.testing.assert_close(row, torch.stack([attention[0], attention[1] + attention[2], attention[3]]))


def test_a_huge_scale_is_the_nearest_neighbour_by_cosine() -> None:
    method, (task,) = matchingnet(scale=1e6), IMAGES.tasks(1, ways=3, shots=1, queries=10)
    weights = method.model.weights()
    memory, features = maps(task.support.x, weights).flatten(1), maps(task.query.x, weights).flatten(1)
    nearest = [int(torch.stack([cosine(feature, other) for other in memory]).argmax()) for feature in features]
    p = predict(method, task).exp()
    assert p.argmax(1).tolist() == nearest
    assert len(set(nearest)) == 3
    torch.testing.assert_close(p.amax(1), torch.ones(30).double(), rtol=1e-4, atol=1e-4)


def test_gradient_reaches_the_support_images() -> None:
    method, (task,) = matchingnet(scale=1.0), IMAGES.tasks(1)
    support_x = task.support.x.requires_grad_()
    method.query_loss(method.adapt(task.support, TRAINING), task.query).backward()
    assert support_x.grad is not None
    assert (support_x.grad.flatten(1).norm(dim=1) > 1e-6).all()


def test_the_support_is_kept_image_by_image() -> None:
    method, (task,) = matchingnet(), IMAGES.tasks(1)
    adapted: Any = method.adapt(task.support, EVALUATION)
    assert adapted.features.shape == (6, 6)


@pytest.mark.parametrize(
    ("data", "problem", "sentence"),
    [
        (
            {"model": {"name": "mlp"}},
            Random((4,), "values"),
            "matchingnet needs labels, and random has none",
        ),
        (
            {"regularizers": {"dropgrad": {}}},
            IMAGES,
            "matchingnet+dropgrad: dropgrad needs an inner loop, and matchingnet has none",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(data: dict[str, Any], problem: Random, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "matchingnet", **data}), problem)
    assert str(caught.value) == sentence


@WAYS
@pytest.mark.parametrize("norm", ["batch", "running"])
def test_evaluation_only_predicts(norm: str, way: str) -> None:
    assert_evaluation_only_predicts(matchingnet(norm=norm, way=way), IMAGES.tasks(3))


@WAYS
def test_tasks_batched_are_tasks_looped_over(way: str) -> None:
    assert_batched_is_looped(matchingnet(way=way), IMAGES.tasks(3))
