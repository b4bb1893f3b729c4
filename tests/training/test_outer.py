"""The outer update against its equations, tensor by tensor; step sizes over the budget; what is refused."""

from typing import Any

import pytest
import torch
from reference import CURVES, small_trial
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.config.sections import OuterConfig
from raymeta.errors import UserError
from raymeta.training.outer import rate
from raymeta.training.trainer import Trainer


def updates(**outer: Any) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Parameters before the first outer update and after each of four, and the gradients that these followed."""
    trainer = Trainer(small_trial(CURVES, outer=outer))
    trainer.learner.double()
    path, gradients = [[p.detach().clone() for p in trainer.learner.parameters()]], list[list[Tensor]]()
    step = trainer.update.optimizer.step

    def noted() -> None:
        gradients.append([p.grad.clone() for p in trainer.learner.parameters() if p.grad is not None])
        step()

    trainer.update.optimizer.step = noted  # type: ignore[method-assign, assignment]
    bank = trainer.tasks_of_step
    trainer.tasks_of_step = lambda *a, **k: bank(*a, **k).map(lambda t: t.double())  # type: ignore[method-assign]
    for _ in range(4):
        trainer.outer_update()
        path.append([p.detach().clone() for p in trainer.learner.parameters()])
    return path, gradients


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd(momentum: float, nesterov: bool, decay: float) -> None:
    if nesterov and not momentum:
        with pytest.raises(UserError, match=r"^config: outer: nesterov: found true, but momentum is 0$"):
            parse_trial({"method": "maml", "outer": {"optimizer": "sgd", "nesterov": True}})
        return
    lr = 0.05
    path, gradients = updates(optimizer="sgd", lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    for place, first in enumerate(path[0]):
        w, v = first, torch.zeros_like(first)
        for t, g in enumerate(gradients):
            slope = g[place] + decay * w
            v = momentum * v + slope
            w = w - lr * (slope + momentum * v if nesterov else v)
            torch.testing.assert_close(path[t + 1][place], w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam(decay: float) -> None:
    """Kingma and Ba's, its weight decay a part of the gradient."""
    lr = 0.01
    path, gradients = updates(lr=lr, weight_decay=decay)
    for place, first in enumerate(path[0]):
        w, m, s = first, torch.zeros_like(first), torch.zeros_like(first)
        for t, g in enumerate(gradients, 1):
            slope = g[place] + decay * w
            m, s = 0.9 * m + 0.1 * slope, 0.999 * s + 0.001 * slope**2
            w = w - lr * (m / (1 - 0.9**t)) / (torch.sqrt(s / (1 - 0.999**t)) + 1e-8)
            torch.testing.assert_close(path[t][place], w, rtol=1e-10, atol=1e-12)


def rates(steps: int, **outer: Any) -> list[float]:
    config = OuterConfig(lr=0.1, **outer)
    return [rate(config, step / steps) for step in range(steps)]


def test_steps() -> None:
    """Meta-MaxUp's: epochs 0, 20, 40 and 50 of 60."""
    found = rates(60, schedule="step", milestones=[20 / 60, 40 / 60, 50 / 60], factors=[0.06, 0.012, 0.0024])
    assert found == pytest.approx([0.1] * 20 + [0.006] * 20 + [0.0012] * 10 + [0.00024] * 10, rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "every", "decay"), [(10, 0.3, 0.5), (75, 1 / 15, 0.5), (60, 5 / 60, 0.9), (7, 1.0, 0.1)]
)
def test_stairs(steps: int, every: float, decay: float) -> None:
    """Each as long as the share says, whatever its quotient rounds to."""
    long = round(every * steps)
    found = rates(steps, schedule="exponential", every=every, decay=decay)
    assert found == pytest.approx([0.1 * decay ** (step // long) for step in range(steps)], rel=1e-12)


def test_a_trial_goes_on_in_the_middle_of_its_momentum_and_schedule(tmp_path: Any) -> None:
    outer = {
        "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "lr": 0.01, "schedule": "step",
        "milestones": [0.5], "factors": [0.1],
    }  # fmt: skip
    whole, halved = (Trainer(small_trial(CURVES, outer=outer)) for _ in range(2))
    while not whole.done:
        whole.round()
    halved.round()
    halved.save(tmp_path / "checkpoint.pt")
    again = Trainer(small_trial(CURVES, outer=outer))
    again.load(tmp_path / "checkpoint.pt")
    while not again.done:
        again.round()
    pairs = zip(whole.learner.parameters(), again.learner.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert whole.update.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize(("outer", "sentence"), [
    ({"momentum": 0.9}, "outer: momentum and nesterov are settings of optimizer sgd, and it is adam"),
    ({"schedule": "step"}, "outer: schedule: found step with 0 milestones and 0 factors; step needs as many of both, "
        "one or more, and no other schedule has any"),
    ({"schedule": "step", "milestones": [0.5], "factors": [0.5, 0.1]}, "outer: schedule: found step with 1 milestones "
        "and 2 factors; step needs as many of both, one or more, and no other schedule has any"),
    ({"milestones": [0.5], "factors": [0.5]}, "outer: schedule: found constant with 1 milestones and 1 factors; step "
        "needs as many of both, one or more, and no other schedule has any"),
    ({"schedule": "step", "milestones": [0.5, 0.2], "factors": [0.5, 0.1]}, "outer: milestones: found [0.5, 0.2], "
        "which do not rise"),
    ({"schedule": "step", "milestones": [0.5], "factors": [-0.5]}, "outer.factors.0: found -0.5: input should be "
        "greater than 0"),
    ({"added": {"milestones": [0.5], "factors": [0]}}, "outer.added.factors.0: found 0: input should be greater "
        "than 0"),
    ({"optimizer": "sdg"}, "outer.optimizer: found 'sdg': not a value of this key, did you mean 'sgd'? (allowed: adam, "
        "ppo, sgd, trpo)"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(outer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_trial({"method": "maml", "outer": outer})
    assert str(refused.value) == f"config: {sentence}"
