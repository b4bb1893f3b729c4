"""RelationNet against a slow reference and finite differences; both losses; what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, both, learner, maps, means
from torch import Tensor
from unrolled import (
    TRAINING,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    beside_theta,
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
PASSES = pytest.mark.parametrize("passes", ["joint", "separate"])


def relationnet(
    *,
    loss: str = "mse",
    hidden: int = 5,
    passes: str = "separate",
    padding: str = "full",
    problem: Random = IMAGES,
    **model: Any,
) -> Learner:
    settings = {"loss": loss, "hidden": hidden, "passes": passes, "padding": padding}
    return learner(problem, method="relationnet", model={"name": "conv4", "width": 4, **model}, relationnet=settings)


def relations(
    theta: Weights, own: Weights, task: Task, passes: str = "separate", unpadded: tuple[int, int] = (0, 0)
) -> Tensor:
    """Before the sigmoid, [n, N]; the pairs are normalised together."""
    (x, y), (query_x, _) = task
    support, queries = both(x, query_x, theta, passes, pools=2, unpadded=unpadded[0])
    classes = means(support, y)
    pairs = [torch.cat([c, query]) for query in queries for c in classes]
    h = maps(torch.stack(pairs), own, blocks=2, prefix="relation.relation", unpadded=unpadded[1]).flatten(1)
    h = F.relu(h @ own["relation.hidden.weight"].T + own["relation.hidden.bias"])
    scores = h @ own["relation.score.weight"].T + own["relation.score.bias"]
    return scores.reshape(len(query_x), len(classes))


@PASSES
@pytest.mark.parametrize("kind", ["mse", "softmax"])
def test_outer_gradient_is_the_references(kind: str, passes: str) -> None:
    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        scores, y = relations(theta, own, task, passes), task.query.y
        if kind == "softmax":
            return -scores.log_softmax(1)[torch.arange(len(y)), y].mean()
        target = torch.zeros_like(scores)
        target[torch.arange(len(y)), y] = 1.0
        return ((torch.sigmoid(scores) - target) ** 2).mean()

    method = relationnet(loss=kind, passes=passes)
    assert_gradient(method, IMAGES.tasks(2), loss)
    parts = {name.split(".")[1] for name in filter(beside_theta, learned(method))}
    assert parts == {"relation1", "relation2", "hidden", "score"}


@PASSES
@pytest.mark.parametrize(("side", "maps_side", "hidden"), [(24, 4, 1), (28, 5, 1), (46, 10, 1), (84, 19, 9)])
def test_the_authors_pad_small_maps_and_the_last_two_blocks_only(
    side: int, maps_side: int, hidden: int, passes: str
) -> None:
    """Sides of the maps, and places that the first linear layer sees: Omniglot's and miniImageNet's among them."""
    problem = Random((1, side, side))
    method = relationnet(problem=problem, padding="authors", passes=passes, width=2)
    unpadded = (2, 2 if maps_side >= 10 else 0)
    assert method.model.map_shape == (2, maps_side, maps_side)
    assert method.relation.hidden.weight.shape == (5, 2 * hidden)  # type: ignore[union-attr]

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        target = F.one_hot(task.query.y, 3).double()
        return ((torch.sigmoid(relations(theta, own, task, passes, unpadded)) - target) ** 2).mean()

    assert_gradient(method, problem.tasks(1, shots=1, queries=1), loss)


def test_what_has_no_places_left_without_padding_is_refused() -> None:
    with pytest.raises(UserError, match=r"^relationnet needs maps of 4x4 places or more"):
        relationnet(problem=Random((1, 20, 20)), padding="authors", pools=2)
    with pytest.raises(UserError) as caught:
        relationnet(problem=Random((1, 28, 28)), padding="authors", pools=4)
    assert str(caught.value) == (
        "model: images of 28x28 pixels shrink to nothing in block 4 of conv4 with stride 1 and pools 4; use larger "
        "images or fewer pools"
    )


def test_padding_is_the_authors_by_default() -> None:
    assert parse_trial({"method": "relationnet"}).settings.padding == "authors"


@pytest.mark.parametrize("kind", ["mse", "softmax"])
def test_gradient_for_the_relation_module_is_the_finite_difference(kind: str) -> None:
    method = relationnet(loss=kind, width=1, hidden=3)
    assert finite_difference_error(method, IMAGES.tasks(1), beside_theta) < 1e-7


def test_predictions_are_relations_and_logits() -> None:
    (task,) = IMAGES.tasks(1)
    mse, softmax = relationnet(), relationnet(loss="softmax")
    softmax.load_state_dict(mse.state_dict())
    scores = relations(mse.model.weights(), dict(mse.named_parameters()), task)
    torch.testing.assert_close(predict(mse, task, TRAINING), scores.sigmoid(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(predict(softmax, task, TRAINING), scores, rtol=1e-10, atol=1e-10)


def test_the_loss_of_predictions_is_what_evaluation_reports() -> None:
    (task,), method = IMAGES.tasks(1), relationnet()
    prediction = predict(method, task, TRAINING)
    onehot = torch.eye(3, dtype=torch.float64)[task.query.y]
    expected = (prediction - onehot).square().sum() / (9 * 3)
    torch.testing.assert_close(method.loss(prediction, task.query.y), expected, rtol=1e-12, atol=1e-12)


def test_a_class_is_the_mean_of_its_maps() -> None:
    method, (task,) = relationnet(), IMAGES.tasks(1)

    def means_of(support: Examples) -> Tensor:
        adapted = method.adapt(support, TRAINING)
        return class_means(adapted.features, support.y, adapted.classes)

    classes = means_of(task.support)
    expected = means(maps(task.support.x, method.model.weights(), pools=2), task.support.y)
    assert classes.shape == (3, 4, 4, 4)
    torch.testing.assert_close(classes, expected, rtol=1e-10, atol=1e-10)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = means_of(Examples(task.support.x[order], task.support.y[order]))
    torch.testing.assert_close(permuted, expected, rtol=1e-10, atol=1e-10)


def test_classes_are_compared_alike() -> None:
    """The module does not know a class by its number."""
    method, (task,) = relationnet(), IMAGES.tasks(1)
    renamed = torch.tensor([2, 0, 1])
    there = predict(method, task, TRAINING)
    again = predict(method, task._replace(support=Examples(task.support.x, renamed[task.support.y])), TRAINING)
    torch.testing.assert_close(again[:, renamed], there, rtol=1e-9, atol=1e-9)


def test_two_blocks_pool_by_default() -> None:
    assert parse_trial({"method": "relationnet", "model": {"name": "conv4"}}).model.pools == 2
    assert parse_trial({"method": "protonet", "model": {"name": "conv4"}}).model.pools == 4


@pytest.mark.parametrize(
    ("data", "problem", "sentence"),
    [
        (
            {"model": {"name": "conv4", "pools": 3}},
            Random((1, 32, 32)),
            "relationnet needs maps of 4x4 places or more; conv4 here ends in (2, 2)",
        ),
        (
            {"model": {"name": "conv4", "norm": "support"}},
            Random((1, 32, 32)),
            "model.norm: found 'support', but relationnet compares pairs; allowed: batch, running",
        ),
        (
            {"model": {"name": "conv4", "norm": "per_step"}},
            Random((1, 32, 32)),
            "model.norm: found 'per_step', but relationnet compares pairs; allowed: batch, running",
        ),
        (
            {"model": {"name": "mlp"}},
            Random((4,), "values"),
            "relationnet needs labels, and random has none",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(data: dict[str, Any], problem: Random, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_learner(parse_trial({"method": "relationnet", **data}), problem)
    assert str(caught.value) == sentence


@PASSES
@pytest.mark.parametrize("norm", ["batch", "running"])
@pytest.mark.parametrize("kind", ["mse", "softmax"])
def test_evaluation_only_predicts(kind: str, norm: str, passes: str) -> None:
    assert_evaluation_only_predicts(relationnet(loss=kind, norm=norm, passes=passes), IMAGES.tasks(3))


@PASSES
@pytest.mark.parametrize("kind", ["mse", "softmax"])
def test_tasks_batched_are_tasks_looped_over(kind: str, passes: str) -> None:
    assert_batched_is_looped(relationnet(loss=kind, passes=passes), IMAGES.tasks(3))
