"""Norm balls and attacks against closed forms, a quadratic programme and what must hold of any of them."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor, nn

from raymeta.engine.attacks import NORMS, Norm, diameter, direction, drawn, fgsm, in_ball, in_box, length, pgd
from raymeta.engine.attacks import with_gradient as gradient_of

CASES = {"seed": st.integers(0, 2**31), "norm": st.sampled_from(NORMS), "radius": st.floats(0, 20)}


def some(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_programme(v: Tensor, radius: float) -> Any:
    """The nearest point of the l1 ball: min ||p - q - v||^2 over p, q >= 0 with sum(p + q) <= radius."""
    n, target = len(v), v.numpy()

    def value(z: Any) -> Any:
        off = z[:n] - z[n:] - target
        return off @ off, 2 * np.concatenate([off, -off])

    ball = LinearConstraint(np.ones(2 * n), -np.inf, radius)
    start = np.full(2 * n, radius / (4 * n))
    options = {"ftol": 1e-13, "maxiter": 500}
    found = minimize(value, start, jac=True, bounds=[(0, None)] * 2 * n, constraints=[ball], method="SLSQP",
                     options=options)  # fmt: skip
    return found.x[:n] - found.x[n:]


@given(seed=st.integers(0, 2**31), size=st.integers(1, 8), radius=st.floats(0.1, 12))
def test_the_l1_projection_is_the_solution_of_the_quadratic_programme(seed: int, size: int, radius: float) -> None:
    v = some(seed, 1, size)
    found = in_ball(v, "l1", radius)[0].numpy()
    assert found == pytest.approx(by_programme(v[0], radius), abs=2e-5)


def test_the_l1_projection_of_an_example_by_hand() -> None:
    found = in_ball(torch.tensor([[3.0, -1.0, 0.5], [0.5, 0.5, -0.5]]), "l1", 2.0)
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.5, -0.5]]))
    assert not in_ball(torch.tensor([[3.0, -1.0, 0.5]]), "l1", 0.0).any()


@given(**CASES)
def test_projections_are_inside_idempotent_and_bring_no_two_further_apart(seed: int, norm: Norm, radius: float) -> None:
    a, b = some(seed, 4, 1, 3, 3), some(seed + 1, 4, 1, 3, 3)
    near_a, near_b = in_ball(a, norm, radius), in_ball(b, norm, radius)
    assert (length(near_a, norm) <= radius + 1e-12).all()
    torch.testing.assert_close(in_ball(near_a, norm, radius), near_a, rtol=1e-12, atol=1e-12)
    inside = length(a, norm) <= radius - 1e-12
    assert torch.equal(near_a[inside], a[inside])
    apart = (near_a - near_b).flatten(1).norm(dim=1)
    assert (apart <= (a - b).flatten(1).norm(dim=1) + 1e-12).all()


@given(**CASES)
def test_what_is_drawn_is_in_ball_and_box(seed: int, norm: Norm, radius: float) -> None:
    pixels, generator = picture(seed, 3, 1, 4, 4), torch.Generator().manual_seed(seed)
    for inside in (False, True):
        change = drawn(pixels, norm, radius, generator, inside=inside)
        assert (length(change, norm) <= radius + 1e-12).all()
        assert ((pixels + change >= -1e-12) & (pixels + change <= 1 + 1e-12)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_draws_fill_the_ball_evenly(norm: Norm) -> None:
    """In the plane a ball of half the radius has a quarter of the area, and every quadrant a quarter."""
    middle = torch.full((20_000, 2), 0.5, dtype=torch.float64)
    inside = drawn(middle, norm, 0.4, torch.Generator().manual_seed(0), inside=True)
    surface = drawn(middle, norm, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(length(surface, norm), torch.full((20_000,), 0.4, dtype=torch.float64))
    assert float((length(inside, norm) < 0.2).double().mean()) == pytest.approx(0.25, abs=0.015)
    for change in (inside, surface):
        assert float(((change > 0).all(1)).double().mean()) == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_of_a_linear_model_all_attacks_but_l1s_steps_find_the_closed_form(norm: Norm, dual: float) -> None:
    """Two classes, margin m = w.x: the worst change makes it m - radius ||w||_dual; the box does not bind here."""
    w, radius = some(0, 1, 16), 0.3
    pixels = torch.full((5, 16), 0.5, dtype=torch.float64) + 0.1 * (picture(1, 5, 16) - 0.5)

    def loss(change: Tensor) -> Tensor:
        return -((pixels + change) @ w.T).sum()

    worst = (pixels @ w.T).sum(1) - radius * torch.linalg.vector_norm(w, dual)
    quick = fgsm(gradient_of(loss, torch.zeros_like(pixels))[1], pixels, norm, radius)
    torch.testing.assert_close(((pixels + quick) @ w.T).sum(1), worst)
    slow = pgd(loss, pixels, norm, radius, steps=20)
    torch.testing.assert_close(((pixels + slow) @ w.T).sum(1), worst, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**31), radius=st.floats(0, 8))
def test_fgsm_in_l1_is_the_best_of_a_linear_loss_in_ball_and_box(seed: int, radius: float) -> None:
    """As good as 200 random changes of the same ball and box, and as the linear programme's bound by its dual."""
    pixels, gradient = picture(seed, 1, 9), some(seed, 1, 9)
    change = fgsm(gradient, pixels, "l1", radius)
    assert float(length(change, "l1")) <= radius + 1e-12
    assert torch.equal(in_box(change, pixels), change)
    # The dual: min over s >= 0 of s radius + sum of (|g| - s)+ room, attained at s = 0 or one of the |g|.
    room = torch.where(gradient > 0, 1 - pixels, pixels)
    candidates = [0.0, *gradient.abs()[0].tolist()]
    dual = min(s * radius + float(((gradient.abs() - s).clamp(min=0) * room).sum()) for s in candidates)
    assert float((gradient * change).sum()) == pytest.approx(dual, rel=1e-9, abs=1e-12)


def net() -> tuple[Any, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)).double()
    labels, pixels = torch.arange(8) % 4, picture(3, 8, 1, 6, 6)
    return lambda change: nn.functional.cross_entropy(body(pixels + change), labels), pixels


@pytest.mark.parametrize("norm", NORMS)
def test_more_effort_is_never_worse(norm: Norm) -> None:
    loss, pixels = net()
    gradient = gradient_of(loss, torch.zeros_like(pixels))[1]
    radii = [share * diameter(36, norm) for share in (0.02, 0.05, 0.1)]
    for radius in radii:
        quick = float(loss(fgsm(gradient, pixels, norm, radius)))
        more = [float(loss(pgd(loss, pixels, norm, radius, steps=steps))) for steps in (5, 20, 80)]
        assert quick <= more[1] + 1e-9
        assert all(high >= low - 0.01 for low, high in pairwise(more))
        starts = [
            float(
                loss(pgd(loss, pixels, norm, radius, steps=5, restarts=k, generator=torch.Generator().manual_seed(1)))
            )
            for k in (0, 1, 3)
        ]
        assert starts == sorted(starts)
    found = pgd(loss, pixels, norm, radii[-1], steps=20)
    assert (length(found, norm) <= radii[-1] * (1 + 1e-9)).all()
    assert torch.equal(in_box(found, pixels), found)


def test_no_gradient_is_no_move() -> None:
    pixels, nothing = picture(0, 2, 1, 3, 3), torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    for norm in NORMS:
        assert not direction(nothing, pixels, norm).any()
        assert not fgsm(nothing, pixels, norm, 1.0).any()


def test_a_step_in_l1_leaves_out_pixels_at_the_wall() -> None:
    pixels = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
    found = direction(torch.tensor([[9.0, 2.0, -8.0, 1.0]]), pixels, "l1")
    assert found.tolist() == [[0, 1, 0, 0]]
