"""The inner loop on problems that have a closed form, and noise that is the same looped over and batched."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raymeta.inner import Context, descend, gradients
from raymeta.models import Weights

TRAINING, BATCHED = Context(training=True), Context(training=True, vectorized=True)


def quadratic(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A positive definite H, a vector b, and a start; the loss is w H w / 2 - b w."""
    generator = torch.Generator().manual_seed(seed)
    root, b, start = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((size, size), (size,), (size,))
    )
    return root @ root.T / size + torch.eye(size), b, start


def descent(rate: float) -> Callable[[int, Weights, Weights], Weights]:
    """Plain gradient descent as a rule."""
    return lambda step, weights, gradients: {name: w - rate * gradients[name] for name, w in weights.items()}


@pytest.mark.parametrize("context", [TRAINING, BATCHED], ids=["loop", "vmap"])
@pytest.mark.parametrize("second_order", [True, False])
@settings(max_examples=20)
@given(size=st.integers(1, 6), steps=st.integers(0, 8), alpha=st.floats(0, 0.3), seed=st.integers(0, 999))
def test_a_quadratic_has_the_closed_form(
    context: Context, second_order: bool, size: int, steps: int, alpha: float, seed: int
) -> None:
    """w_S = w* + (I - alpha H)^S (w - w*); the outer gradient has the factor (I - alpha H)^S in second order only."""
    hessian, b, start = quadratic(size, seed)
    target = torch.arange(size).double()
    weights = {"w": start.clone().requires_grad_()}
    final = descend(
        lambda w, step: w["w"] @ hessian @ w["w"] / 2 - b @ w["w"],
        weights,
        ["w"],
        descent(alpha),
        steps=steps,
        second_order=second_order,
        context=context,
    )[-1]["w"]
    (found,) = torch.autograd.grad((final - target).square().sum() / 2, weights["w"])

    power = torch.linalg.matrix_power(torch.eye(size).double() - alpha * hessian, steps)
    best = torch.linalg.solve(hessian, b)
    expected = best + power @ (start - best)
    torch.testing.assert_close(final.detach(), expected, rtol=1e-9, atol=1e-9)
    outer = power @ (expected - target) if second_order else expected - target
    torch.testing.assert_close(found, outer, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context", [TRAINING, BATCHED], ids=["loop", "vmap"])
@pytest.mark.parametrize("second_order", [True, False])
def test_weights_that_do_not_adapt_are_passed_through_and_still_learned(context: Context, second_order: bool) -> None:
    weights = {"moves": torch.tensor(2.0, requires_grad=True), "stays": torch.tensor(3.0, requires_grad=True)}
    final = descend(
        lambda w, step: (w["moves"] * w["stays"]) ** 2 / 2,
        weights,
        ["moves"],
        descent(0.1),
        steps=1,
        second_order=second_order,
        context=context,
    )[-1]
    assert final["stays"] is weights["stays"]
    assert float(final["moves"].detach()) == pytest.approx(2 - 0.1 * 2 * 9)
    (found,) = torch.autograd.grad(final["moves"] * final["stays"], weights["stays"])
    through_the_step = 3 * -0.1 * 2 * 2 * 3  # stays * d moves / d stays
    assert float(found) == pytest.approx(2 - 0.1 * 2 * 9 + (through_the_step if second_order else 0))


def test_loss_and_update_are_told_the_step_and_the_way_is_kept() -> None:
    seen = []

    def update(step: int, weights: Weights, gradients: Weights) -> Weights:
        seen.append((step, {name: float(gradient) for name, gradient in gradients.items()}))
        return {name: weight + 1 for name, weight in weights.items()}

    weights = {name: torch.tensor(1.0, requires_grad=True) for name in "abc"}
    path = descend(
        lambda w, step: (10 * step + 1) * w["a"] + (10 * step + 2) * w["b"] + w["c"],
        weights,
        ["a", "b"],
        update,
        steps=2,
        second_order=False,
        context=TRAINING,
    )
    assert seen == [(0, {"a": 1, "b": 2}), (1, {"a": 11, "b": 12})]
    assert [{name: float(w.detach()) for name, w in step.items()} for step in path] == [
        {"a": 1, "b": 1, "c": 1},
        {"a": 2, "b": 2, "c": 1},
        {"a": 3, "b": 3, "c": 1},
    ]


@pytest.mark.parametrize("context", [TRAINING, BATCHED], ids=["loop", "vmap"])
def test_a_weight_made_from_another_is_a_variable_of_its_own(context: Context) -> None:
    """The inner gradient is partial; the outer one follows where the weight came from."""
    theta = torch.tensor(2.0, requires_grad=True)
    start = {"a": theta, "b": 3 * theta}
    final = descend(
        lambda w, step: w["a"] * w["b"],
        start,
        ["a", "b"],
        descent(0.1),
        steps=1,
        second_order=True,
        context=context,
    )[-1]
    assert [float(final[name].detach()) for name in "ab"] == pytest.approx([2 - 0.1 * 6, 6 - 0.1 * 2])
    (found,) = torch.autograd.grad(final["a"], theta)
    assert float(found) == pytest.approx(1 - 0.1 * 3)


def test_first_order_gradients_are_constants_to_what_the_loss_uses_beside_the_weights() -> None:
    outside, weights = torch.tensor(3.0, requires_grad=True), {"w": torch.tensor(2.0, requires_grad=True)}
    for vectorized in (False, True):
        found = gradients(lambda w: outside * w["w"], weights, second_order=False, vectorized=vectorized)
        assert not found["w"].requires_grad


def test_second_order_is_never_done_in_evaluation() -> None:
    weights = {"w": torch.tensor(2.0, requires_grad=True)}
    final = descend(
        lambda w, step: w["w"] ** 2,
        weights,
        ["w"],
        descent(1.0),
        steps=1,
        second_order=True,
        context=Context(training=False),
    )[-1]
    (found,) = torch.autograd.grad(final["w"], weights["w"])
    assert float(found) == 1


@pytest.mark.parametrize("vectorized", [False, True])
def test_first_order_gradients_are_constants_and_work_without_grad_mode(vectorized: bool) -> None:
    weights = {"w": torch.tensor(3.0, requires_grad=True)}
    with torch.no_grad():
        found = gradients(lambda w: w["w"] ** 2, weights, second_order=False, vectorized=vectorized)
    assert float(found["w"]) == 6
    assert not found["w"].requires_grad
