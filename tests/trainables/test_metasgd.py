"""Meta-SGD against an unrolled loop and finite differences; MAML where all rates are alpha; how the rates start."""

from typing import Any

import pytest
import torch
from unrolled import (
    ALPHA,
    BOTH,
    EVALUATION,
    IMAGES,
    ORDERS,
    TRAINING,
    VECTORS,
    Case,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    descent,
    everything,
    finite_difference_error,
    no_norm,
    outer_gradient,
    relative_error,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.learner import Learner, build_learner


@BOTH
@pytest.mark.parametrize("adapt_norm", [False, True])
@ORDERS
def test_outer_gradient_is_the_unrolled_loops(order: str, adapt_norm: bool, case: Case) -> None:
    method, tasks = case.learner("metasgd", order=order, adapt_norm=adapt_norm), case.tasks(2)
    adapted = everything if adapt_norm else no_norm

    def loss(theta: Any, own: Any, task: Any) -> Any:
        rates = dict(zip(filter(adapted, theta), own.values(), strict=True))
        assert any(bool((rate < 0).any()) for rate in rates.values())
        rule = descent(lambda step, name: rates[name])
        return unrolled_loss(case.network, theta, task, rule, order=order, adapted=adapted)

    assert_gradient(method, tasks, loss)
    for (name, weight), rate in zip(
        ((n, w) for n, w in method.model.weights().items() if adapted(n)), method.rates, strict=True
    ):
        assert rate.shape == weight.shape, name


def test_outer_gradient_is_the_finite_difference() -> None:
    assert finite_difference_error(VECTORS.learner("metasgd"), VECTORS.tasks(2)) < 1e-7


def alike(case: Case, rate: float, **settings: Any) -> Learner:
    method = case.learner("metasgd", **settings)
    for tensor in method.rates:
        torch.nn.init.constant_(tensor, rate)
    return method


@BOTH
@ORDERS
def test_rates_that_are_all_alpha_are_maml(order: str, case: Case) -> None:
    tasks = case.tasks(2)
    for steps in (1, 2, 3):
        method = alike(case, ALPHA, order=order, inner_steps=steps)
        maml = case.maml(method, order=order, inner_steps=steps)
        one, two = (m.adapt(tasks[0].support, TRAINING).weights for m in (method, maml))
        assert all(torch.equal(one[name], two[name]) for name in two)
    found, expected = outer_gradient(method, tasks)[1], outer_gradient(maml, tasks)[1]
    assert relative_error({name: found[name] for name in expected}, expected) < 1e-12
    rates = [gradient for name, gradient in found.items() if name.startswith("rates")]
    assert len(rates) == len(maml.adapted)
    assert sum(float(gradient.norm()) > 1e-4 for gradient in rates) >= 6  # a convolution's bias has none


def test_every_rate_starts_at_inner_lr() -> None:
    config = parse_trial({"method": "metasgd", "metasgd": {"inner_lr": 0.25}})
    method = build_learner(config, IMAGES.problem)
    assert all(torch.equal(rate, torch.full_like(rate, 0.25)) for rate in method.rates)
    assert all(rate.requires_grad for rate in method.rates)


def test_a_uniform_start_is_the_seeds_and_within_its_bounds() -> None:
    def build(seed: int, start: str = "uniform") -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed() % 1000)  # the global state has no say
        config = parse_trial({"method": "metasgd", "metasgd": {"start": start}, "seed": seed})
        return build_learner(config, IMAGES.problem).state_dict()

    one, again, other, constant = build(1), build(1), build(2), build(1, "constant")
    assert all(torch.equal(one[name], again[name]) for name in one)
    rates, others = (torch.cat([t.flatten() for n, t in b.items() if n.startswith("rates")]) for b in (one, other))
    assert rates.dtype == torch.float32
    assert 0.005 <= float(rates.min()) < 0.0051
    assert 0.0999 < float(rates.max()) <= 0.1 + 1e-7
    assert float(rates.mean()) == pytest.approx(0.0525, abs=1e-3)
    assert not torch.equal(rates, others)
    assert all(torch.equal(one[n], constant[n]) for n in one if n.startswith("model."))


@BOTH
@ORDERS
def test_tasks_batched_are_tasks_looped_over(order: str, case: Case) -> None:
    assert_batched_is_looped(case.learner("metasgd", order=order), case.tasks(3))


def test_evaluation_only_predicts() -> None:
    assert_evaluation_only_predicts(IMAGES.learner("metasgd"), IMAGES.tasks(3))


def test_more_steps_in_evaluation_use_the_same_rates() -> None:
    (task,) = VECTORS.tasks(1)
    short, long = VECTORS.learner("metasgd", inner_steps=2, eval_steps=5), VECTORS.learner("metasgd", inner_steps=5)
    one, two = short.adapt(task.support, EVALUATION).weights, long.adapt(task.support, TRAINING).weights
    assert all(torch.equal(one[name], two[name]) for name in two)
