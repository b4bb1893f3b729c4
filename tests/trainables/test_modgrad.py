"""ModGrad against a slow reference and finite differences; MAML where the modulation is 1."""

import sys
from typing import Any

import episodic
import pytest
import reference
import torch
import torch.nn.functional as F
from episodic import EVALUATION, TRAINING, gradient
from reference import Random, Task, Weights, learner, relative_error
from torch import Tensor

from raymeta.method import Method

IMAGES, CURVES = Random((1, 16, 16)), Random((4,), "regression")
ALPHA, BETA, SIZE = 0.125, 2.0, 6


def modgrad(dataset: Random = IMAGES, *, model: dict[str, Any] | None = None, **settings: Any) -> Method:
    """With factors several times their initial size, or they would hardly matter."""
    network = {"name": "conv4", "width": 4} if dataset is IMAGES else {"name": "mlp", "hidden": [7, 5]}
    own = {"inner_lr": ALPHA, "context_lr": BETA, "context_size": SIZE, "inner_steps": 2, **settings}
    method = learner(dataset, method="modgrad", model={**network, **(model or {})}, modgrad=own)
    with torch.no_grad():
        method.factors.weight *= 30
    return method


def unrolled(weights: Weights, task: Task, *, second_order: bool, adapt_norm: bool = False) -> Tensor:
    support_x, support_y, query_x, query_y = task
    regression = query_y.is_floating_point()
    network, loss = (reference.mlp, F.mse_loss) if regression else (reference.conv4(), F.cross_entropy)
    fast = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    names = [name for name in fast if adapt_norm or ".norm." not in name]

    def step(fast: Weights, nu: Tensor) -> Weights:
        support_loss = loss(network(support_x, fast, 0, None), support_y)
        found = torch.autograd.grad(support_loss, [fast[name] for name in names], create_graph=True)
        hidden = F.relu(weights["body.0.weight"] @ nu + weights["body.0.bias"])
        made = weights["factors.weight"] @ hidden + weights["factors.bias"]
        fast, used = dict(fast), 0
        for name, g in zip(names, found, strict=True):
            g = g if second_order else g.detach()
            if g.ndim > 1:
                rows, columns = len(g), g[0].numel()
                u, v = made[used : used + rows], made[used + rows : used + rows + columns]
                used += rows + columns
                g = g * (1 + (u[:, None] * v[None, :]).reshape(g.shape))
            fast[name] = fast[name] - ALPHA * g
        assert used == len(made)
        return fast

    nu = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    after = loss(network(support_x, step(fast, nu), 0, None), support_y)
    (found,) = torch.autograd.grad(after, nu, create_graph=True)
    nu = nu - BETA * (found if second_order else found.detach())
    for _ in range(2):
        fast = step(fast, nu)
    return loss(network(query_x, fast, 0, None), query_y)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("dataset", "adapt_norm"), [(IMAGES, False), (IMAGES, True), (CURVES, False)])
def test_outer_gradient_is_the_references(order: str, dataset: Random, adapt_norm: bool) -> None:
    method = modgrad(dataset, order=order, adapt_norm=adapt_norm)

    def loss(weights: Weights, task: Task) -> Tensor:
        return unrolled(weights, task, second_order=order == "second", adapt_norm=adapt_norm)

    episodic.assert_gradient(method, dataset.tasks(2), loss)


def test_orders_differ() -> None:
    first, second = (modgrad(order=order) for order in ("first", "second"))
    episodic.assert_orders_differ_in_the_gradient_only(first, second, IMAGES.tasks(1))


def test_gradient_for_the_generator_is_the_finite_difference() -> None:
    method = modgrad(CURVES, model={"hidden": [5]}, context_size=3)
    names = [name for name, _ in method.named_parameters() if not name.startswith("model.")]
    assert len(names) == 4
    episodic.assert_finite_differences(method, CURVES.tasks(2), names)


@pytest.mark.parametrize("order", ["first", "second"])
def test_it_is_maml_where_the_modulation_is_one(order: str) -> None:
    method, tasks = modgrad(order=order), IMAGES.tasks(2)
    with torch.no_grad():
        method.factors.weight.zero_()
        method.factors.bias.zero_()
    maml = learner(
        IMAGES,
        model={"name": "conv4", "width": 4},
        maml={"inner_lr": ALPHA, "inner_steps": 2, "order": order},
    )
    maml.model.load_state_dict(method.model.state_dict())
    loss, found = gradient(method, tasks)
    of_model = {name: g for name, g in found.items() if name.startswith("model.")}
    episodic.assert_same((loss, of_model), gradient(maml, tasks))
    ours, theirs = (m.adapt(*tasks[0][:2], TRAINING).weights for m in (method, maml))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_context_has_an_effect() -> None:
    (task,) = IMAGES.tasks(1)

    def adapted(**settings: Any) -> Weights:
        weights = modgrad(**settings).adapt(*task[:2], EVALUATION).weights
        return {name: weight.detach() for name, weight in weights.items()}

    assert relative_error(adapted(context_lr=0.0), adapted(context_lr=BETA)) > 1e-4
    steps = [adapted(context_lr=lr, inner_steps=0) for lr in (0.0, BETA)]
    assert relative_error(*steps) == 0, "a context changes a step, not the start"


def test_it_says_that_it_is_approximate() -> None:
    assert "APPROXIMATE" in (sys.modules[type(modgrad()).__module__].__doc__ or "")


@pytest.mark.parametrize("dataset", [IMAGES, CURVES])
def test_evaluation_is_clean(dataset: Random) -> None:
    episodic.assert_evaluation_is_clean(modgrad(dataset), dataset.tasks(3))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("dataset", "adapt_norm"), [(IMAGES, False), (IMAGES, True), (CURVES, False)])
def test_batched_tasks_are_looped_tasks(order: str, dataset: Random, adapt_norm: bool) -> None:
    episodic.assert_batched_is_looped(modgrad(dataset, order=order, adapt_norm=adapt_norm), dataset.tasks(3))
