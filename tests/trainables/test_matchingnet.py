"""MatchingNet against a slow reference; probabilities; the nearest neighbour as its limit."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, both, learner, maps
from torch import Tensor, nn
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
    problem: Random = IMAGES, *, way: str = "separate", norm: str = "batch", plain: bool = True, **own: Any
) -> Learner:
    """By default on plain embeddings and cosines, as the paper's without full context."""
    norm, passes = ("support", {}) if way == "support" else (norm, {"passes": way})
    network = {"name": "conv4", "width": 6, "norm": norm} if problem is IMAGES else {"name": "mlp", "hidden": [5]}
    forms = {"fce": False, "relu": False, "eps": 0.0, "loss": "cross_entropy"} if plain else {}
    return learner(problem, method="matchingnet", model=network, matchingnet={**forms, **passes, **own})


def cosine(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    return (a * b).sum() / ((torch.sqrt((a**2).sum()) + eps) * (torch.sqrt((b**2).sum()) + eps))


def in_context(own: Weights, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Full context embeddings of support and query by torch's own LSTMs, query by query."""
    size = z.shape[1]
    both, cell = nn.LSTM(size, size, bidirectional=True).double(), nn.LSTMCell(2 * size, size).double()
    of_both, of_cell = (
        {n.removeprefix(prefix): w for n, w in own.items() if n.startswith(prefix)}
        for prefix in ("context.both_ways.", "context.cell.")
    )
    found = torch.func.functional_call(both, of_both, (z[:, None],))[0][:, 0]
    g = z + found[:, :size] + found[:, size:]
    hs = []
    for f in features:
        h, c = f, torch.zeros_like(f)
        for _ in range(len(z)):
            attention = torch.stack([(h * one).sum() for one in g]).softmax(0)
            r = (attention[:, None] * g).sum(0)
            h, c = (
                v[0] for v in torch.func.functional_call(cell, of_cell, (torch.cat([f, r])[None], (h[None], c[None])))
            )
            h = h + f
        hs.append(h)
    return g, torch.stack(hs)


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


@pytest.mark.parametrize("scale", [3.0, 100.0])
@pytest.mark.parametrize("fce", [True, False])
@WAYS
def test_outer_gradient_is_that_of_closerlooks_form(way: str, scale: float, fce: bool) -> None:
    """By torch's own LSTMs; the logarithm is taken once."""

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        (x, y), (query_x, query_y) = task
        g, features = (found.flatten(1) for found in both(x, query_x, theta, way))
        if fce:
            g, features = in_context(own, g, features)
        losses = []
        for h, label in zip(features, query_y, strict=True):
            cosines = torch.stack([cosine(h, one, 1e-5) for one in g])
            p = (scale * cosines.clamp(min=0)).softmax(0)
            losses.append(-torch.log(p[y == label].sum() + TINY))
        return torch.stack(losses).mean()

    method = matchingnet(way=way, plain=False, fce=fce, scale=scale)
    assert_gradient(method, IMAGES.tasks(2), loss)


def test_negative_cosines_are_cut() -> None:
    method = matchingnet(plain=False, fce=False, scale=1.0)
    y, support = torch.tensor([0, 1, 2]), torch.eye(3, dtype=torch.float64)
    adapted: Any = method.adapt(IMAGES.tasks(1, shots=1)[0].support, EVALUATION)
    found = method.compare(adapted, support, torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).double()).exp() - TINY  # type: ignore[operator]
    assert torch.equal(y, adapted.support.y)
    e = float(torch.tensor(1 / (1 + 1e-5) ** 2, dtype=torch.float64).exp())
    expected = torch.tensor([[1 / 3] * 3, [e / (e + 2), 1 / (e + 2), 1 / (e + 2)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_full_context_knows_the_order_of_the_support_and_plain_embeddings_do_not() -> None:
    (task,), order = IMAGES.tasks(1), torch.tensor([3, 0, 5, 1, 4, 2])
    turned = task._replace(support=Examples(task.support.x[order], task.support.y[order]))
    plain, full = (matchingnet(plain=False, fce=fce, scale=5.0) for fce in (False, True))
    torch.testing.assert_close(predict(plain, turned), predict(plain, task), rtol=1e-9, atol=1e-9)
    assert float((predict(full, turned) - predict(full, task)).detach().abs().max()) > 1e-4


def test_soft_labels_weigh_the_logarithms() -> None:
    method, (task,) = matchingnet(plain=False), IMAGES.tasks(1)
    outputs, share = predict(method, task), 0.3
    other = task.query.y.roll(1)
    soft = share * F.one_hot(task.query.y, 3).double() + (1 - share) * F.one_hot(other, 3).double()
    expected = share * method.loss(outputs, task.query.y) + (1 - share) * method.loss(outputs, other)
    torch.testing.assert_close(method.loss(outputs, soft), expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_closerlooks_form_is_the_finite_difference() -> None:
    vectors = Random((4,))
    assert finite_difference_error(matchingnet(vectors, plain=False, scale=5.0), vectors.tasks(2)) < 1e-6


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
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("norm", ["batch", "running"])
def test_evaluation_only_predicts(norm: str, way: str, plain: bool) -> None:
    assert_evaluation_only_predicts(matchingnet(norm=norm, way=way, plain=plain, scale=5.0), IMAGES.tasks(3))


@WAYS
@pytest.mark.parametrize("plain", [True, False])
def test_tasks_batched_are_tasks_looped_over(way: str, plain: bool) -> None:
    assert_batched_is_looped(matchingnet(way=way, plain=plain), IMAGES.tasks(3))
