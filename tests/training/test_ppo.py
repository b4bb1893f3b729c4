"""PPO as an outer step: what it follows, and that several steps are one outer step."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from problems.rl.made import NOISE, SMALL, flat, learned, trained

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problems.rl.trajectories import Steps, surrogate
from raymeta.schema import merge
from raymeta.training.trainer import Trainer

PPO: dict[str, Any] = {"outer": {"optimizer": "ppo", "lr": 0.01}}


def test_it_does_not_pay_for_moving_far() -> None:
    """Steps of ratios 1.5, 1.5, 0.5, 0.5 and 1.1 with advantages 1, -1, 1, -1 and 2; a clip of 0.2 cuts two of them."""
    ratios, worth = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]).double(), torch.tensor([1.0, -1, 1, -1, 2]).double()
    zeros, weights = torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.2, dtype=torch.float64)
    # For deviation 1, mean 0 and action 1: log pi(a) of mean m, less that of mean 0, is m - m^2 / 2.
    means = (1 - (1 - 2 * ratios.log()).sqrt()).requires_grad_()
    y = Steps(torch.ones(5, 1).double(), torch.stack([zeros, zeros], 1), worth, weights, zeros).y
    outputs = torch.stack([means, zeros], 1)
    assert float(surrogate(outputs, y)) == pytest.approx(-0.2 * (1.5 - 1.5 + 0.5 - 0.5 + 2.2))
    loss = surrogate(outputs, y, 0.2)
    assert float(loss) == pytest.approx(-0.2 * (1.2 - 1.5 + 0.5 - 0.8 + 2.2))
    (slope,) = torch.autograd.grad(loss, means)
    assert (slope == 0).tolist() == [True, False, False, True, False]


def test_one_step_is_adam_s() -> None:
    """At the sampling policy nothing is clipped; after it, it follows the same trajectories on."""
    once, adam, thrice = (
        trained(NOISE, own)
        for own in (
            merge(PPO, {"outer": {"gradient_steps": 1}}),
            {"outer": {"optimizer": "adam", "lr": 0.01}},
            merge(PPO, {"outer": {"gradient_steps": 3}}),
        )
    )
    start = learned(once)
    losses = [float(trainer.outer_update()) for trainer in (once, adam, thrice)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert losses[0] == losses[2]
    torch.testing.assert_close(learned(once), learned(adam), rtol=0, atol=1e-9)
    far = [float((learned(trainer) - start).norm()) for trainer in (once, thrice)]
    assert far[1] > 1.5 * far[0]


def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = parse_trial(merge(SMALL, NOISE, PPO))
    whole, first, again = Trainer(config), Trainer(config), Trainer(config)
    while not whole.done:
        whole.round()
    first.round()
    first.save(tmp_path / "checkpoint.pt")
    again.load(tmp_path / "checkpoint.pt")
    while not again.done:
        again.round()
    ours, theirs = (flat(list(trainer.update.learned.values())) for trainer in (whole, again))
    assert torch.equal(ours, theirs)
    assert math.isfinite(float(ours.sum()))


def test_without_a_policy_it_is_refused() -> None:
    config = {"method": "maml", "task": {"problem": "sinusoid"}, "model": {"name": "mlp"}}
    with pytest.raises(UserError, match=r"^outer.optimizer: found 'ppo', but sinusoid has no policy"):
        Trainer(parse_trial({**config, "outer": {"optimizer": "ppo"}}))
