"""Learners on policies: what the suite asks of each, what adapts, what has no meaning."""

from typing import Any

import pytest
import torch
from problems.rl.made import SMALL, trained

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.testing import conformance
from raymeta.testing.suite import SMALL as CASES
from raymeta.training.trainer import Trainer

POLICIES = {"policies": CASES["policies"]}

test_cavia_conforms = conformance("cavia", problems=POLICIES)
test_others_conform = pytest.mark.slow(
    conformance("maml", "maml+dropgrad", "metasgd", "anil", "alfa", problems=POLICIES)
)


def of(method: str, **settings: Any) -> dict[str, Any]:
    return {key: value for key, value in SMALL.items() if key != "maml"} | {
        "method": method,
        method: {"inner_steps": 2, **settings},
    }


@pytest.mark.parametrize(
    ("method", "settings", "moves"),
    [
        ("anil", {}, {"head.weight", "head.bias", "head.log_deviation"}),
        ("cavia", {"context_size": 3}, {"context"}),
        ("alfa", {}, {"head.weight", "head.bias", "head.log_deviation", "layer1.weight", "layer1.bias"}),
    ],
)
def test_what_adapts_and_an_outer_step_of_trpo(method: str, settings: dict[str, Any], moves: set[str]) -> None:
    """Before the step the ratio is 1 and the divergence 0, whatever adapts; then it moves what is learned."""
    trainer = trained(of(method, **settings), {"outer": {"limit": 0.02}})
    assert set(trainer.learner.adapted) == moves  # type: ignore[arg-type]
    loss, distance = trainer.surface()()
    assert float(distance) == 0
    before = {name: p.detach().clone() for name, p in trainer.update.learned.items()}
    assert float(trainer.outer_update()) < float(loss)
    moved = {name for name, p in trainer.update.learned.items() if not torch.equal(p, before[name])}
    assert {name for name in moved if name.startswith("model.layer1")}


def test_learners_without_a_meaning() -> None:
    """An attenuated policy's gradient is not that of trajectories which another policy made."""
    with pytest.raises(UserError, match=r"^l2f has no meaning for policies, .*: alfa, anil, cavia, maml, metasgd$"):
        Trainer(parse_trial(of("l2f")))
    with pytest.raises(UserError, match=r"^alfa.attenuate: found True, but an attenuated policy has no trajectories"):
        Trainer(parse_trial(of("alfa", attenuate=True)))
