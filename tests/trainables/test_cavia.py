"""CAVIA against a slow reference and finite differences; what adapts; what a task knows of others."""

from typing import Any

import episodic
import pytest
import reference
import torch
import torch.nn.functional as F
from episodic import EVALUATION, TRAINING, learned, maps, predict
from reference import Random, Task, Weights, learner
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.method import Method, build_method

IMAGES, CURVES = Random((1, 16, 16)), Random((4,), "regression")
ALPHA, SIZE = 0.5, 6


def cavia(dataset: Random, *, model: dict[str, Any] | None = None, **settings: Any) -> Method:
    network = {"name": "conv4", "width": 4} if dataset is IMAGES else {"name": "mlp", "hidden": [7, 5]}
    own = {"context_lr": ALPHA, "context_size": SIZE, **settings}
    return learner(dataset, method="cavia", model={**network, **(model or {})}, cavia=own)


def film_network(x: Tensor, phi: Tensor, weights: Weights, block: int) -> Tensor:
    film = weights["film.weight"] @ phi + weights["film.bias"]
    half = len(film) // 2
    features = maps(x, weights, film=(block, film[:half], film[half:])).flatten(1)
    return features @ weights["model.head.weight"].T + weights["model.head.bias"]


def appended(x: Tensor, phi: Tensor, weights: Weights, block: int) -> Tensor:
    inputs = torch.stack([torch.cat([row, phi]) for row in x])
    return reference.mlp(inputs, {name.removeprefix("model."): weight for name, weight in weights.items()})


def unrolled(weights: Weights, task: Task, *, steps: int, second_order: bool, block: int = 3) -> Tensor:
    support_x, support_y, query_x, query_y = task
    regression = query_y.is_floating_point()
    network, loss = (appended, F.mse_loss) if regression else (film_network, F.cross_entropy)
    phi = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        support_loss = loss(network(support_x, phi, weights, block), support_y)
        (found,) = torch.autograd.grad(support_loss, phi, create_graph=True)
        phi = phi - ALPHA * (found if second_order else found.detach())
    return loss(network(query_x, phi, weights, block), query_y)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("dataset", "block"), [(IMAGES, 1), (IMAGES, 3), (CURVES, 3)])
def test_outer_gradient_is_the_references(order: str, dataset: Random, block: int) -> None:
    method = cavia(dataset, order=order, inner_steps=3, block=block)

    def loss(weights: Weights, task: Task) -> Tensor:
        return unrolled(weights, task, steps=3, second_order=order == "second", block=block)

    episodic.assert_gradient(method, dataset.tasks(2), loss)


def test_orders_differ() -> None:
    first, second = (cavia(IMAGES, order=order) for order in ("first", "second"))
    episodic.assert_orders_differ_in_the_gradient_only(first, second, IMAGES.tasks(1))


def test_gradient_for_film_is_the_finite_difference() -> None:
    method = cavia(IMAGES, model={"width": 2}, context_size=3)
    episodic.assert_finite_differences(method, IMAGES.tasks(1), ["film.weight", "film.bias"])


def test_gradient_of_regression_is_the_finite_difference() -> None:
    method = cavia(CURVES, model={"hidden": [5]}, context_size=3)
    episodic.assert_finite_differences(method, CURVES.tasks(2), learned(method))


@pytest.mark.parametrize("dataset", [IMAGES, CURVES])
@pytest.mark.parametrize("context", [TRAINING, EVALUATION])
def test_only_the_context_changes_in_a_task(dataset: Random, context: Any) -> None:
    method, (task,) = cavia(dataset), dataset.tasks(1)
    theta = method.model.weights()
    adapted = method.adapt(*task[:2], context).weights
    assert all(adapted[name] is theta[name] for name in theta)
    (phi,) = (tensor for name, tensor in adapted.items() if tensor.shape == (SIZE,) and name == "context")
    assert float(phi.detach().norm()) > 1e-3
    assert torch.equal(cavia(dataset, inner_steps=0).adapt(*task[:2], context).weights["context"], torch.zeros(SIZE))


def test_the_context_starts_anew_in_every_task() -> None:
    method, (one, other) = cavia(IMAGES), IMAGES.tasks(2)
    results = [predict(method, task, TRAINING) for task in (one, one, other, one)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[3])
    assert not torch.equal(results[0], results[2])


def test_regression_appends_the_context_to_the_inputs() -> None:
    method, (task,) = cavia(CURVES), CURVES.tasks(1)
    adapted = method.adapt(*task[:2], TRAINING)
    expected = appended(task[2], adapted.weights["context"], dict(method.named_parameters()), 0)
    torch.testing.assert_close(method.predict(adapted, task[2]), expected, rtol=1e-12, atol=1e-12)
    assert not any(name.startswith("film") for name in learned(method))
    assert cavia(CURVES, context_size=None).model.input_shape == (4 + 5,)


@pytest.mark.parametrize("block", [5, 9])
def test_a_block_that_is_not_there_is_refused(block: int) -> None:
    config = parse_trial({"method": "cavia", "cavia": {"block": block}})
    with pytest.raises(UserError) as caught:
        build_method(config, IMAGES)
    assert str(caught.value) == f"cavia.block: conv4 has no block {block} that can be modulated: allowed: 1, 2, 3, 4"


@pytest.mark.parametrize("dataset", [IMAGES, CURVES])
def test_evaluation_is_clean(dataset: Random) -> None:
    episodic.assert_evaluation_is_clean(cavia(dataset), dataset.tasks(3))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("dataset", [IMAGES, CURVES])
def test_batched_tasks_are_looped_tasks(order: str, dataset: Random) -> None:
    episodic.assert_batched_is_looped(cavia(dataset, order=order), dataset.tasks(3))
