"""TAML against one graph of all tasks, whose measure is differentiated as it stands; the measures; where it is off."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import GLYPHS, Network, Random, Weights, conv4, learner, maps, means, small_trial
from torch import Tensor
from unrolled import ALPHA, MAML, ORDERS, assert_same, expected_gradient, query_loss, relative_error, together, unroll

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.problem import Task, Tasks
from raymeta.testing import conformance, outer_gradient
from raymeta.training.trainer import Trainer
from trainables.regularizers.taml import TAMLConfig, entropy, inequality, with_slopes

INEQUALITIES = ["theil", "generalised_entropy", "atkinson", "gini", "log_variance"]
MEASURES = ["entropy_maximisation", "entropy_reduction", *INEQUALITIES]
WEIGHT, STEPS, TASKS = 3.0, 2, 3
IMAGES = {"model": {"name": "conv4", "width": 4}, "task": GLYPHS["task"], "maml": {"inner_steps": STEPS}}
LOSSES = st.lists(st.floats(0.01, 10), min_size=2, max_size=6)
Start = Callable[[Weights, Weights, Task], tuple[Network, Weights]]  # (theta, other learned tensors, task)

pytestmark = pytest.mark.usefixtures("glyphs")


def trainer(regularizers: dict[str, Any], method: str = "maml", **sections: Any) -> Trainer:
    """In float64, all weights off their regular start."""
    made = Trainer(small_trial(IMAGES, method, regularizers=regularizers, **sections))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.learner.double().parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def taml(measure: str, weight: float = WEIGHT, **others: Any) -> dict[str, Any]:
    return {"taml": {"measure": measure, "weight": weight, **others}}


def tasks() -> list[Task]:
    return Random((1, 28, 28)).tasks(TASKS)


def episodes() -> Tasks:
    return together(tasks())


def unequal(losses: list[Tensor], measure: str, exponent: float = 2.0, epsilon: float = 1.0) -> Tensor:
    """The measure, from the specification's formulas."""
    count, mean = len(losses), torch.stack(losses).mean()
    if measure == "atkinson" and epsilon != 1:
        powers = sum((x ** (1 - epsilon) for x in losses), torch.zeros(())) / count
        return 1 - powers ** (1 / (1 - epsilon)) / mean
    if measure == "theil":
        return sum(((x / mean) * torch.log(x / mean) for x in losses), torch.zeros(())) / count
    if measure == "generalised_entropy":
        a = exponent
        return sum((((x / mean) ** a - 1) / (a * (a - 1)) for x in losses), torch.zeros(())) / count
    if measure == "atkinson":
        return 1 - math.prod(losses, start=torch.ones(())) ** (1 / count) / mean
    if measure == "gini":
        return sum((abs(x - y) for x in losses for y in losses), torch.zeros(())) / (2 * count**2 * mean)
    assert measure == "log_variance"
    return torch.stack(losses).log().var(correction=0)


def uncertainty(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy().mean()


def penalty(
    measure: str,
    tasks: list[Task],
    start: list[tuple[Network, Weights]],
    norm: str = "batch",
    of: str = "support",
    **others: float,
) -> Tensor:
    """Of the initial model of every task; the part of `entropy_reduction` at theta_S is left out."""
    pairs = [(Task(t.support, t.support if of == "support" else t.query), s) for t, s in zip(tasks, start, strict=True)]
    if measure in INEQUALITIES:
        losses = [query_loss(network, weights, task, norm=norm) for task, (network, weights) in pairs]
        return unequal(losses, measure, **others)
    return -torch.stack(
        [uncertainty(network(task.query.x, weights, 0, None)) for task, (network, weights) in pairs]
    ).mean()


@ORDERS
@pytest.mark.parametrize(
    ("measure", "others"),
    [
        *((measure, {"of": of}) for measure in MEASURES for of in ("support", "query")),
        ("generalised_entropy", {"exponent": -0.5}),
        ("generalised_entropy", {"exponent": 3.0, "of": "query"}),
        ("atkinson", {"epsilon": 0.5}),
        ("atkinson", {"epsilon": 2.0, "of": "query"}),
    ],
)
def test_the_gradient_of_an_outer_step_is_that_of_one_graph_of_all_its_tasks(
    measure: str, others: dict[str, Any], order: str
) -> None:
    made, network = trainer(taml(measure, **others), maml={"order": order, "inner_lr": ALPHA}), conv4()

    def whole(theta: Weights, own: Weights, tasks: Any) -> Tensor:
        ends = [unroll(network, theta, task, MAML, steps=STEPS, order=order)[-1] for task in tasks]
        losses = [query_loss(network, end, task) for end, task in zip(ends, tasks, strict=True)]
        term = penalty(measure, tasks, [(network, theta)] * TASKS, **others)
        if measure == "entropy_reduction":
            after = [uncertainty(network(task.query.x, end, 0, None)) for end, task in zip(ends, tasks, strict=True)]
            term = term + torch.stack(after).mean()
        return torch.stack(losses).mean() + WEIGHT * term

    expected = expected_gradient(made.learner, [tasks()], whole)  # type: ignore[list-item]
    for vectorized in (False, True):
        assert_same(outer_gradient(made, episodes(), vectorized=vectorized), expected)
    plain = trainer({}, maml={"order": order, "inner_lr": ALPHA})
    assert relative_error(outer_gradient(plain, episodes())[1], expected[1]) > 1e-2  # the term matters


def theta_itself(theta: Weights, own: Weights, task: Task) -> tuple[Network, Weights]:
    return conv4(), theta


def zero_context(theta: Weights, own: Weights, task: Task) -> tuple[Network, Weights]:
    return conv4(film=(3, *own["film.bias"].chunk(2))), theta


def prototypes(theta: Weights, own: Weights, task: Task) -> tuple[Network, Weights]:
    centres = means(maps(task.support.x, theta).flatten(1), task.support.y)
    return conv4(), {**theta, "head.weight": 2 * centres, "head.bias": -(centres**2).sum(1)}


@pytest.mark.parametrize(
    ("method", "others", "start", "reduction", "measure"),
    [
        ("mamlpp", {}, theta_itself, "mean", "gini"),
        ("metasgd", {}, theta_itself, "sum", "entropy_maximisation"),
        ("cavia", {}, zero_context, "sum", "theil"),
        ("protomaml", {}, prototypes, "mean", "atkinson"),
        ("maml", {"dropout": {"rate": 0.3}}, theta_itself, "mean", "log_variance"),
    ],
)
def test_it_adds_the_gradient_of_the_learners_initial_model(
    method: str, others: dict[str, Any], start: Start, reduction: str, measure: str
) -> None:
    """That model is the same whatever other regularizers there are."""
    outer, norm = {"outer": {"reduction": reduction}}, "support" if method == "protomaml" else "batch"
    made, plain = trainer({**others, **taml(measure)}, method, **outer), trainer(others, method, **outer)

    def term(theta: Weights, own: Weights, tasks: Any) -> Tensor:
        return WEIGHT * penalty(measure, tasks, [start(theta, own, task) for task in tasks], norm)

    added_loss, added = expected_gradient(made.learner, [tasks()], term)  # type: ignore[list-item]
    loss, gradient = outer_gradient(plain, episodes())
    factor = TASKS if reduction == "sum" else 1
    expected = loss + added_loss, {name: gradient[name] + factor * tensor for name, tensor in added.items()}
    assert relative_error(gradient, expected[1]) > 1e-2
    for vectorized in (False, True):
        assert_same(outer_gradient(made, episodes(), vectorized=vectorized), expected)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("theil", (math.log(0.5) / 2 + 1.5 * math.log(1.5)) / 2),
        ("generalised_entropy", 1 / 8),
        ("atkinson", 1 - math.sqrt(3) / 2),
        ("gini", 1 / 4),
        ("log_variance", math.log(3) ** 2 / 4),
    ],
)
def test_inequality_of_1_and_3(measure: str, expected: float) -> None:
    assert float(inequality(torch.tensor([1.0, 3.0]).double(), measure)) == pytest.approx(expected, rel=1e-12)


PARAMETERS = [  # of the measures that have one
    *((measure, {}) for measure in INEQUALITIES),
    *(("generalised_entropy", {"exponent": exponent}) for exponent in (-1.0, 0.5, 3.0)),
    *(("atkinson", {"epsilon": epsilon}) for epsilon in (0.5, 2.0)),
]


@pytest.mark.parametrize(("measure", "others"), PARAMETERS)
@given(values=LOSSES, factor=st.floats(0.01, 100))
def test_inequality_is_its_formula_and_has_no_scale(
    measure: str, others: dict[str, float], values: list[float], factor: float
) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    found = float(inequality(losses, measure, **others))
    assert found == pytest.approx(float(unequal(list(losses), measure, **others)), rel=1e-8, abs=1e-12)
    assert float(inequality(factor * losses, measure, **others)) == pytest.approx(found, rel=1e-8, abs=1e-12)
    assert float(inequality(losses[:1].expand(len(values)), measure, **others)) == pytest.approx(0, abs=1e-12)
    if max(values) > 1.01 * min(values):
        assert found > 1e-6
    assert found > -1e-12


@pytest.mark.parametrize(
    ("measure", "others", "expected"),
    [
        ("generalised_entropy", {"exponent": -1.0}, 1 / 6),  # ratios 1/2 and 3/2: (mean of 2 and 2/3, less 1) / 2
        ("atkinson", {"epsilon": 0.5}, 1 / 2 - math.sqrt(3) / 4),  # 1 - ((1 + sqrt 3) / 2)^2 / 2
        ("atkinson", {"epsilon": 2.0}, 1 / 4),  # 1 - harmonic mean 3/2 / 2
        ("atkinson", {"epsilon": 0.0}, 0.0),
    ],
)
def test_parameters_of_1_and_3(measure: str, others: dict[str, float], expected: float) -> None:
    found = float(inequality(torch.tensor([1.0, 3.0]).double(), measure, **others))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_limits_of_the_parameters_are_other_measures() -> None:
    losses = torch.tensor([0.3, 1.0, 2.5]).double()
    near = inequality(losses, "generalised_entropy", exponent=1 + 1e-6)
    assert float(near) == pytest.approx(float(inequality(losses, "theil")), rel=1e-5)
    near = inequality(losses, "atkinson", epsilon=1 + 1e-6)
    assert float(near) == pytest.approx(float(inequality(losses, "atkinson")), rel=1e-5)


@pytest.mark.parametrize("distance", [1e-3, -1e-5, 1e-7, 1e-12])
def test_float32_holds_near_what_divides_by_0(distance: float) -> None:
    """Values and derivatives, against the limits (and the first term of the distance) in float64."""
    losses = torch.tensor([0.3, 1.0, 2.5, 0.9])

    def near(measure: str, **others: float) -> tuple[Tensor, Tensor]:
        return with_slopes(losses, TAMLConfig(measure=measure, **others))

    def limit(measure: str) -> tuple[Tensor, Tensor]:
        found = with_slopes(losses.double(), TAMLConfig(measure=measure))
        return found[0].float(), found[1].float()

    tolerance = {"rtol": 1e-5 + 3 * abs(distance), "atol": 1e-6 + 3 * abs(distance)}
    torch.testing.assert_close(near("generalised_entropy", exponent=1 + distance), limit("theil"), **tolerance)
    torch.testing.assert_close(near("atkinson", epsilon=1 + distance), limit("atkinson"), **tolerance)
    found = near("generalised_entropy", exponent=distance)[0]
    torch.testing.assert_close(found, -(losses / losses.mean()).log().mean(), **tolerance)


def test_a_large_epsilon_is_the_smallest_loss() -> None:
    found, slopes = with_slopes(torch.tensor([1e-3, 1.0, 2.0]), TAMLConfig(measure="atkinson", epsilon=60))
    assert float(found) == pytest.approx(1 - 1e-3 / 1.0003333 * 3 ** (1 / 59), rel=1e-5)
    assert bool(slopes.isfinite().all())


@pytest.mark.parametrize("exponent", [0, 1])
def test_exponents_that_would_divide_by_0_are_refused(exponent: int) -> None:
    with pytest.raises(UserError) as caught:
        parse_trial({"method": "maml", "regularizers": taml("generalised_entropy", exponent=exponent)})
    assert str(caught.value) == (
        f"config: regularizers.taml.exponent: found {exponent}.0: a (a - 1) divides; allowed: other numbers (the limit "
        "at 1 is theil's)"
    )


def test_entropy_is_that_of_the_softmax() -> None:
    logits = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(entropy(logits)) == pytest.approx(float(uncertainty(logits)), rel=1e-12)
    assert float(entropy(torch.full((4, 5), 2.0).double())) == pytest.approx(math.log(5), rel=1e-12)
    assert float(entropy(1000 * torch.eye(5).double())) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("measure", ["entropy_reduction", "gini"])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_weight_0_is_the_plain_learner_and_evaluation_is_always(measure: str, engine: str) -> None:
    plain, zero, some = (
        Trainer(small_trial(GLYPHS, regularizers=regularizers, engine={"tasks": engine}))
        for regularizers in ({}, taml(measure, 0.0), taml(measure))
    )
    assert plain.validate() == some.validate()
    metrics = [{k: v for k, v in each.round().items() if k != "seconds"} for each in (plain, zero, some)]
    assert metrics[0] == metrics[1] != metrics[2]


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_that_compare_tasks_refuse_outer_steps_of_one(measure: str) -> None:
    config = parse_trial({"method": "maml", "outer": {"tasks_per_step": 1}, "regularizers": taml(measure)})
    if measure not in INEQUALITIES:
        build_learner(config, Random((1, 16, 16)))
        return
    with pytest.raises(UserError) as caught:
        build_learner(config, Random((1, 16, 16)))
    assert str(caught.value) == (
        "outer.tasks_per_step: found 1, but taml compares the tasks of an outer step: at least 2 are needed"
    )


def test_a_learner_without_an_inner_loop_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        learner(Random((1, 16, 16)), method="protonet", regularizers={"taml": {}})
    assert str(caught.value) == "protonet+taml: taml needs an inner loop, and protonet has none"


test_taml_conforms = conformance("maml+taml")
test_inequality_conforms = conformance("maml+dropgrad+taml", config={"regularizers": taml("gini")})
