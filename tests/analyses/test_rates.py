"""What learners say they made, against what their inner loop did with it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analyses.conftest import subject
from reference import dense

from raymeta.analyses.rates import Rates
from raymeta.analysis import AnalysisConfig
from raymeta.errors import UserError
from raymeta.inner import Step
from raymeta.models import Weights

Made = dict[str, Weights]
MOVED = ["alfa", "mamlpp", "metasgd"]


def made(spec: str, problem: str = "sinusoid", **config: Any) -> tuple[Any, list[Step], list[Made]]:
    """A learner's weights after every number of steps, its steps, and what it says of them."""
    looked = subject(spec, problem, **config)
    (case,) = looked.cases(1)
    support = case.learner.prepared(case.task.support, case.context())  # type: ignore[operator]
    steps = case.inner_steps(regularized=True)
    with torch.no_grad():
        said = [case.learner.generated(support, step) for step in steps]  # type: ignore[operator]
    return case, steps, said


@pytest.mark.parametrize(("spec", "config"), [*((one, {}) for one in MOVED), ("alfa", {"alfa": {"attenuate": True}})])
def test_a_step_is_made_of_them(spec: str, config: dict[str, Any]) -> None:
    case, steps, said = made(spec, **config)
    for step, kinds in zip(steps, said, strict=True):
        after = case.adapted(step.number + 1).weights
        for name, weight in step.weights.items():
            factor = kinds.get("decay factor", {}).get(name, 1.0)
            moved = factor * weight - kinds["rate"][name] * step.gradients[name]
            torch.testing.assert_close(after[name], moved, rtol=1e-12, atol=1e-14)


def test_alfa_makes_them_by_its_equation() -> None:
    case, steps, said = made("alfa")
    rule = case.learner.rule
    weights = {name: one.detach() for name, one in rule.named_parameters()}
    for step, kinds in zip(steps, said, strict=True):
        seen = [one.mean() for one in step.weights.values()] + [one.mean() for one in step.gradients.values()]
        alpha, omega = dense(weights, "generator.", torch.stack(seen)).chunk(2)
        expected = alpha * rule.rates[:, step.number], 1 - omega * rule.decays[:, step.number]
        for kind, values in zip(("rate", "decay factor"), expected, strict=True):
            torch.testing.assert_close(torch.stack(list(kinds[kind].values())), values.detach())


@pytest.mark.parametrize("spec", ["l2f", "alfa"])
def test_attenuation_is_what_the_inner_loop_starts_with(spec: str) -> None:
    case, steps, said = made(spec, **({"alfa": {"attenuate": True}} if spec == "alfa" else {}))
    assert ["attenuation" in kinds for kinds in said] == [True, False]
    for name, gamma in said[0]["attenuation"].items():
        assert 0 < float(gamma) < 1
        torch.testing.assert_close(steps[0].weights[name], gamma * case.learner.model.weights()[name].detach())


def test_cxgrads_gamma_is_the_norm_that_it_gives_a_convolution() -> None:
    case, steps, said = made("cxgrad", "images")
    for step, kinds in zip(steps, said, strict=True):
        before = case.adapted(step.number).weights
        for name, gamma in kinds["gamma"].items():
            scaled = gamma * before[name].detach() / before[name].detach().norm()
            torch.testing.assert_close(step.weights[name].detach(), scaled)
    nu = -case.learner.numbers.context_lr * _slope(case)  # of the authors' first step, from 0
    gammas = F.softplus(case.learner.generator(nu)).detach()
    torch.testing.assert_close(torch.stack(list(said[0]["gamma"].values())), gammas, rtol=1e-8, atol=1e-10)


def _slope(case: Any) -> torch.Tensor:
    """dLs/dnu at nu = 0, by autograd."""
    learner = case.learner
    support, nu = learner.prepared(case.task.support, case.context()), torch.zeros(100, dtype=torch.float64)
    nu.requires_grad_()
    theta, gamma = learner.model.weights(), F.softplus(learner.generator(nu))
    scaled = {name: g * theta[name] / theta[name].norm() for name, g in zip(learner.scaled, gamma, strict=True)}
    loss = learner.step_loss(support)({**theta, **scaled}, 0)
    return torch.autograd.grad(loss, nu)[0]


def test_of_numbers_for_each_element_mean_spread_and_negative_share_are_noted() -> None:
    looked = subject("metasgd", shake=0.0)
    with torch.no_grad():
        looked.learner.rates[0].copy_(torch.linspace(-1, 3, 8).reshape(looked.learner.rates[0].shape))  # type: ignore[index, union-attr, operator]
    rows = Rates(AnalysisConfig(tasks=1)).measure(looked)
    assert [row["step"] for row in rows[::6]] == [1, 2]
    first = rows[0]
    assert (first["kind"], first["tensor"]) == ("rate", "layer1.weight")
    assert first["value"] == pytest.approx(1.0)
    assert first["spread"] == pytest.approx(float(torch.linspace(-1, 3, 8).std(correction=0)))
    assert first["negative"] == 0.25


@pytest.mark.parametrize(
    ("spec", "config"),
    [("maml", {}), ("mamlpp", {"mamlpp": {"learned_rates": False}}), ("anil", {}), ("cavia", {})],
)
def test_a_learner_that_makes_none_is_refused(spec: str, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^rates: {spec} learns or makes nothing for its inner steps here$"):
        Rates(AnalysisConfig(tasks=1)).measure(subject(spec, **config))
