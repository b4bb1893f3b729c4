"""Returns, the baseline and advantages against sums written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from raymeta.errors import UserError
from raymeta.problems.rl.advantages import advantages, baseline, discounted, normalised, weights
from raymeta.problems.rl.gaussian import divergence, entropy, log_probability
from raymeta.problems.rl.trajectories import Steps, policy_gradient, surrogate

VALID = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def rewards(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(VALID.shape) * VALID


def test_returns_of_a_hand_made_episode() -> None:
    assert discounted(np.array([[1.0, 2.0, 4.0]]), 0.5).tolist() == [[3.0, 4.0, 4.0]]


def test_advantages_of_a_hand_made_episode() -> None:
    """D = (1 + .5*2 - 3, 2 + .5*4 - 2, 4 - 4) = (-1, 2, 0); with gamma lambda = 1/4 they add up from the end."""
    found = advantages(np.array([[1.0, 2.0, 4.0]]), np.array([[3.0, 2.0, 4.0]]), np.ones((1, 3)), 0.5, 0.5)
    assert found.tolist() == [[-0.5, 2.0, 0.0]]


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_the_sum_over_what_is_ahead(seed: int, gamma: float, lam: float) -> None:
    r, values = rewards(seed), rewards(seed + 1)
    found = advantages(r, values, VALID, gamma, lam)
    for e, row in enumerate(VALID):
        length = int(row.sum())
        for t in range(length):
            ahead = [values[e, k + 1] if k + 1 < length else 0.0 for k in range(length)]
            deltas = [r[e, k] + gamma * ahead[k] - values[e, k] for k in range(length)]
            expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert found[e, t] == pytest.approx(expected, abs=1e-12)
        assert not found[e, length:].any()
    ones = advantages(r, values, VALID, gamma, 1.0)
    np.testing.assert_allclose(ones, (discounted(r, gamma) - values) * VALID, atol=1e-12)
    assert advantages(r, values, VALID, gamma, lam)[2, 0] == r[2, 0] - values[2, 0]  # of one step: A = r - V


def test_padding_changes_nothing() -> None:
    r, values = rewards(), rewards(1)
    longer = [np.pad(part, ((0, 0), (0, 3))) for part in (r, values, VALID)]
    found = normalised(advantages(*longer, 0.9, 0.8), longer[2])
    np.testing.assert_array_equal(found[:, 4:], 0)
    np.testing.assert_allclose(found[:, :4], normalised(advantages(r, values, VALID, 0.9, 0.8), VALID), atol=1e-14)
    observations = np.random.default_rng(2).standard_normal((3, 4, 2)) * VALID[..., None]
    padded = np.pad(observations, ((0, 0), (0, 3), (0, 0)))
    plain = baseline(observations, r, VALID, 0.9)
    np.testing.assert_allclose(baseline(padded, longer[0], longer[2], 0.9)[:, :4], plain, atol=1e-12)


def test_short_trajectories_weigh_as_long_ones() -> None:
    assert weights(VALID).sum(1) == pytest.approx([1 / 3] * 3)
    found = normalised(rewards(), VALID)
    per_trajectory = [row[valid > 0] for row, valid in zip(found, VALID, strict=True)]
    assert np.mean([row.mean() for row in per_trajectory]) == pytest.approx(0, abs=1e-12)
    assert np.mean([(row**2).mean() for row in per_trajectory]) == pytest.approx(1, abs=1e-6)


def test_the_baseline_finds_values_that_are_linear_in_its_features() -> None:
    """With gamma = 0 returns are rewards: a polynomial of the observation and of time is found but for the ridge."""
    rng = np.random.default_rng(3)
    o, valid = rng.standard_normal((20, 30, 2)), np.ones((20, 30))
    time = np.arange(30) / 100
    r = 2 * o[..., 0] - o[..., 1] ** 2 + 5 * time**3 - time + 0.5
    np.testing.assert_allclose(baseline(o, r, valid, 0.0), r, atol=2e-3)


def test_what_is_not_finite_is_one_sentence() -> None:
    bad = rewards()
    bad[0, 1] = np.nan
    with pytest.raises(UserError, match=r"^the linear baseline has no finite solution"):
        baseline(np.zeros((3, 4, 2)), bad, VALID, 0.9)


def test_gaussians_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old, actions = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (6, 6, 3))

    def theirs(outputs: torch.Tensor) -> Independent:
        mean, deviation = outputs.chunk(2, -1)
        return Independent(Normal(mean, deviation.exp()), 1)

    torch.testing.assert_close(log_probability(new, actions), theirs(new).log_prob(actions))
    torch.testing.assert_close(divergence(new, old), kl_divergence(theirs(new), theirs(old)))
    torch.testing.assert_close(entropy(new), theirs(new).entropy())
    narrow = torch.tensor([[0.0, -50.0]], dtype=torch.float64)
    assert float(log_probability(narrow, torch.zeros(1, 1, dtype=torch.float64))) == pytest.approx(
        6 * np.log(10) - 0.5 * np.log(2 * np.pi)
    )


def test_the_surrogate_s_gradient_is_reinforce_s_at_the_policy_that_acted() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(9, 4, generator=generator, dtype=torch.float64).requires_grad_()
    columns = (torch.randn(9, *shape, generator=generator, dtype=torch.float64) for shape in ((2,), (), (), ()))
    actions, worth, weight, reward = columns
    y = Steps(actions, outputs.detach(), worth, weight.abs(), reward).y
    found, expected = (torch.autograd.grad(loss(outputs, y), outputs)[0] for loss in (surrogate, policy_gradient))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
