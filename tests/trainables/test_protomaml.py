"""Proto-MAML against a slow reference and finite differences; its head; ALFA's rule on it."""

from typing import Any

import episodic
import pytest
import reference
import torch
import torch.nn.functional as F
from episodic import TRAINING, gradient, learned, maps, means, own, predict, reference_gradient
from reference import Random, Task, Weights, learner, relative_error
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.method import Method

IMAGES, VECTORS = Random((1, 16, 16)), Random((4,))
ALPHA, STEPS = 0.125, 2


def protomaml(dataset: Random = IMAGES, *, model: dict[str, Any] | None = None, **settings: Any) -> Method:
    network = {"name": "conv4", "width": 4} if dataset is IMAGES else {"name": "mlp", "hidden": [5]}
    own_settings = {"inner_lr": ALPHA, "inner_steps": STEPS, **settings}
    return learner(dataset, method="protomaml", model={**network, **(model or {})}, protomaml=own_settings)


def sgd(weights: Weights, step: int, fast: Weights, found: Weights) -> Weights:
    return {name: fast[name] - ALPHA * g for name, g in found.items()}


def alfa(weights: Weights, step: int, fast: Weights, found: Weights, state: str = "both") -> Weights:
    tau = [fast[name].mean() for name in found] if state != "gradients" else []
    tau += [g.detach().mean() for g in found.values()] if state != "weights" else []
    h = torch.stack(tau)
    layers = sorted({name.rsplit(".", 1)[0] for name in weights if name.startswith("rule.generator.")})
    for layer in layers:
        h = weights[f"{layer}.weight"] @ (h if layer is layers[0] else F.relu(h)) + weights[f"{layer}.bias"]
    moved = {}
    for i, (name, g) in enumerate(found.items()):
        rate = h[i] * weights["rule.rates"][i, step]
        decay = h[len(found) + i] * weights["rule.decays"][i, step]
        moved[name] = (1 - decay) * fast[name] - rate * g
    return moved


def unrolled(
    weights: Weights,
    task: Task,
    *,
    second_order: bool,
    norm: str = "support",
    update: Any = sgd,
    detached: bool = False,
    adapt_norm: bool = False,
) -> Tensor:
    x, y, query_x, query_y = task
    network = reference.conv4()
    classes = means(maps(x, weights).flatten(1), y)
    classes = classes.detach().requires_grad_() if detached else classes
    fast = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    fast = {**fast, "head.weight": 2 * classes, "head.bias": -(classes**2).sum(1)}
    names = [name for name in fast if adapt_norm or ".norm." not in name]
    for step in range(STEPS):
        # Variables of their own: a prototype is a function of the body, and that is no part of the inner gradient.
        start = {name: w.clone() if second_order else w.detach().requires_grad_() for name, w in fast.items()}
        support_loss = F.cross_entropy(network(x, start, 0, None), y)
        found = torch.autograd.grad(support_loss, [start[name] for name in names], create_graph=second_order)
        fast = {**fast, **update(weights, step, fast, dict(zip(names, found, strict=True)))}
    return F.cross_entropy(network(query_x, fast, 0, x if norm == "support" else None), query_y)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("norm", "adapt_norm"), [("support", False), ("batch", False), ("support", True)])
def test_outer_gradient_is_the_references(order: str, norm: str, adapt_norm: bool) -> None:
    method = protomaml(order=order, model={"norm": norm}, adapt_norm=adapt_norm)

    def loss(weights: Weights, task: Task) -> Tensor:
        return unrolled(weights, task, second_order=order == "second", norm=norm, adapt_norm=adapt_norm)

    episodic.assert_gradient(method, IMAGES.tasks(2), loss)


def test_orders_differ() -> None:
    first, second = (protomaml(order=order) for order in ("first", "second"))
    episodic.assert_orders_differ_in_the_gradient_only(first, second, IMAGES.tasks(1))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("depth", "state"), [(3, "both"), (2, "both"), (3, "weights"), (3, "gradients")])
def test_outer_gradient_with_alfas_rule_is_the_references(order: str, depth: int, state: str) -> None:
    method = protomaml(order=order, rule="alfa", depth=depth, state=state)

    def loss(weights: Weights, task: Task) -> Tensor:
        def update(*args: Any) -> Weights:
            return alfa(*args, state=state)

        return unrolled(weights, task, second_order=order == "second", update=update)

    episodic.assert_gradient(method, IMAGES.tasks(1), loss)
    assert len(own(learned(method))) == 2 * depth + 2


def test_gradient_for_alfas_rule_is_the_finite_difference() -> None:
    """Where the rule sees weights only, as what it sees of gradients is a constant."""
    method = protomaml(VECTORS, order="second", rule="alfa", state="weights", depth=2)
    episodic.assert_finite_differences(method, VECTORS.tasks(1), own(learned(method)))


def test_gradient_is_the_finite_difference() -> None:
    method = protomaml(VECTORS, order="second")
    episodic.assert_finite_differences(method, VECTORS.tasks(2), learned(method))


@pytest.mark.parametrize("order", ["first", "second"])
def test_outer_gradient_reaches_the_body_through_the_prototypes(order: str) -> None:
    method, tasks = protomaml(order=order), IMAGES.tasks(2)
    second = order == "second"
    _, apart = reference_gradient(method, tasks, lambda w, t: unrolled(w, t, second_order=second, detached=True))
    assert relative_error(gradient(method, tasks)[1], apart) > 1e-2


@pytest.mark.parametrize("rule", ["sgd", "alfa"])
def test_the_models_own_head_is_neither_used_nor_learned(rule: str) -> None:
    method, (task,) = protomaml(rule=rule), IMAGES.tasks(1)
    before = predict(method, task, TRAINING).detach()
    heads = {name: weight for name, weight in method.named_parameters() if ".head." in name}
    assert len(heads) == 2
    assert not any(weight.requires_grad for weight in heads.values())
    assert len(learned(method)) == len(dict(method.named_parameters())) - 2
    with torch.no_grad():
        for weight in heads.values():
            weight += 1
    assert torch.equal(predict(method, task, TRAINING), before)


def test_it_starts_from_the_prototypes_and_moves_body_and_head() -> None:
    (task,) = IMAGES.tasks(1)
    still, method = protomaml(inner_steps=0), protomaml()
    theta = method.model.weights()
    classes = means(maps(task[0], dict(method.named_parameters())).flatten(1), task[1])
    start = still.adapt(*task[:2], TRAINING).weights
    torch.testing.assert_close(start["head.weight"], 2 * classes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(start["head.bias"], -(classes**2).sum(1), rtol=1e-10, atol=1e-10)
    moved = method.adapt(*task[:2], TRAINING).weights
    still_there = {name for name in theta if torch.allclose(moved[name], start[name], rtol=0, atol=1e-9)}
    # A convolution's bias has no gradient under batch norm, but for rounding.
    assert still_there == {name for name in theta if ".norm." in name or name[6:] == ".bias"}


def test_the_querys_norm_is_the_supports() -> None:
    assert parse_trial({"method": "protomaml", "model": {"name": "conv4"}}).model.norm == "support"
    method, (task,) = protomaml(), IMAGES.tasks(1)
    alone = predict(method, (*task[:2], task[2][:1], task[3][:1]))
    torch.testing.assert_close(predict(method, task)[:1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["sgd", "alfa"])
def test_evaluation_is_clean(rule: str) -> None:
    episodic.assert_evaluation_is_clean(protomaml(rule=rule), IMAGES.tasks(3))


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "alfa"}, {"adapt_norm": True}, {"adapt_norm": True, "model": {"norm": "batch"}}]
)
@pytest.mark.parametrize("order", ["first", "second"])
def test_batched_tasks_are_looped_tasks(order: str, settings: dict[str, Any]) -> None:
    episodic.assert_batched_is_looped(protomaml(order=order, **settings), IMAGES.tasks(3))
