"""The landscape against the closed form of a quadratic loss."""

import pytest
import torch
from analyses.conftest import subject
from torch import Tensor

from raymeta.analyses.landscape import Landscape, LandscapeConfig, along
from raymeta.errors import UserError
from raymeta.inner import Step
from raymeta.models import Weights

RATES = [0.05, 0.1, 0.4]


def test_on_a_quadratic_loss_it_is_the_closed_form() -> None:
    """Ls = w'Hw / 2 - b'w: h = Hw - b, and h(w - a h) - h(w) = -a H h."""
    generator = torch.Generator().manual_seed(0)
    root, b, w = (torch.randn(5, *more, generator=generator, dtype=torch.float64) for more in ([5], [], []))
    hessian = root @ root.t()

    def loss(weights: Weights) -> Tensor:
        own = torch.cat([weights["a"], weights["b"]])
        return own @ hessian @ own / 2 - b @ own

    h = hessian @ w - b
    step = Step(0, loss, {"a": w[:2], "b": w[2:]}, {"a": h[:2], "b": h[2:]})
    rows = along(step, RATES)
    assert [row["rate"] for row in rows] == RATES
    length, change = h.norm(), (hessian @ h).norm()
    for row in rows:
        rate = row["rate"]
        assert row["ratio"] == pytest.approx(float(change / length), rel=1e-12)  # the same for every rate
        assert row["change"] == pytest.approx(float(rate * change), rel=1e-12)
        value = loss({"a": w[:2], "b": w[2:]}) - rate * length**2 + rate**2 / 2 * h @ hessian @ h
        assert row["loss"] == pytest.approx(float(value), rel=1e-10)


def test_it_starts_where_the_inner_loop_is() -> None:
    """At alpha, which is the second rate, the loss of a step is that at the start of the next one."""
    looked = subject("maml", "images", maml={"inner_lr": 0.1, "inner_steps": 2})
    rows = Landscape(LandscapeConfig(tasks=1, points=4)).measure(looked)
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    assert [row["rate"] for row in rows] == pytest.approx([0.05, 0.1, 0.15, 0.2] * 2)
    (case,) = looked.cases(1)
    first, second = case.inner_steps()
    with torch.no_grad():
        assert rows[1]["loss"] == pytest.approx(float(second.loss(second.weights)), rel=1e-10)
        assert rows[1]["loss"] != pytest.approx(float(first.loss(first.weights)), rel=1e-3)


def test_cxgrad_is_looked_at_where_its_weights_are_scaled() -> None:
    """There its gradients are taken: convolutions have the norm gamma."""
    looked = subject("cxgrad", "images")
    (case,) = looked.cases(1)
    for step in case.inner_steps():
        for name in ("block1.weight", "block4.weight"):
            (made,) = looked.learner.generated(None, step).values()  # type: ignore[operator]
            assert float(step.weights[name].norm()) == pytest.approx(float(made[name]))


def test_a_learner_without_a_rate_needs_one() -> None:
    with pytest.raises(UserError, match=r"^landscape.rate: cavia has no inner_lr above 0; say a rate, as in "):
        Landscape(LandscapeConfig(tasks=1)).measure(subject("cavia"))
    assert Landscape(LandscapeConfig(tasks=1, points=1, rate=0.1)).measure(subject("cavia"))
