"""MAML against a slow reference, finite differences and closed forms; what adapts; what a task knows of others."""

from typing import Any

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import GLYPHS, Random, learner, small_trial
from torch import Tensor
from unrolled import (
    ALPHA,
    EVALUATION,
    ORDERS,
    TRAINING,
    assert_evaluation_only_predicts,
    assert_gradient,
    everything,
    expected_gradient,
    finite_difference_error,
    learned,
    no_norm,
    outer_gradient,
    relative_error,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner
from raymeta.problem import Task
from raymeta.schema import merge
from raymeta.training.trainer import Trainer

HEAD = {"head.weight", "head.bias"}


def conv4(shape: tuple[int, ...] = (1, 16, 16), *, model: dict[str, Any] | None = None, **maml: Any) -> Learner:
    return learner(
        Random(shape),
        model={"name": "conv4", "width": 8, **(model or {})},
        maml={"inner_lr": ALPHA, "inner_steps": 3, **maml},
    )


def mlp(**maml: Any) -> Learner:
    problem = Random((4,), "values")
    return learner(problem, model={"name": "mlp", "hidden": [7, 5]}, maml={"inner_lr": ALPHA, "inner_steps": 3, **maml})


@ORDERS
@pytest.mark.parametrize(
    ("shape", "model", "adapt_norm"),
    [
        ((1, 16, 16), {}, False),
        ((3, 16, 16), {}, True),
        ((1, 28, 28), {"activation": "leaky_relu"}, False),
        ((3, 20, 16), {"conv_bias": False, "norm_eps": 1e-3}, True),
        ((1, 16, 16), {"activation": "leaky_relu", "conv_bias": False, "init": "fan_out"}, False),
    ],
)
def test_outer_gradient_of_conv4_is_the_references(
    order: str, shape: tuple[int, ...], model: dict[str, Any], adapt_norm: bool
) -> None:
    method, tasks = conv4(shape, model=model, order=order, adapt_norm=adapt_norm), Random(shape).tasks(2)
    network = reference.conv4(slope=0.01 if "activation" in model else 0.0, eps=model.get("norm_eps", 1e-5))

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(network, theta, task, order=order, adapted=everything if adapt_norm else no_norm)

    assert_gradient(method, tasks, loss)


@ORDERS
def test_outer_gradient_of_mlp_is_the_references(order: str) -> None:
    method, tasks = mlp(order=order), Random((4,), "values").tasks(3)
    assert_gradient(method, tasks, lambda theta, own, task: unrolled_loss(reference.mlp, theta, task, order=order))


def test_rows_of_per_step_norm_are_used_step_by_step() -> None:
    method, tasks = conv4(model={"norm": "per_step"}), Random((1, 16, 16)).tasks(2)
    assert_gradient(method, tasks, lambda theta, own, task: unrolled_loss(reference.conv4(), theta, task))
    _, found = outer_gradient(method, tasks)
    for name in method.model.norm_names():  # three inner steps, the query with the last one's: every row has a use
        assert (found[f"model.{name}"].abs().sum(1) > 0).all()


def test_per_step_norm_with_equal_rows_is_batch_norm() -> None:
    batch, per_step = conv4(), conv4(model={"norm": "per_step"})
    state = batch.state_dict()
    norm = {f"model.{name}" for name in batch.model.norm_names()}
    per_step.load_state_dict({name: t.expand(3, -1) if name in norm else t for name, t in state.items()})
    tasks = Random((1, 16, 16)).tasks(2)
    expected_loss, expected = outer_gradient(batch, tasks)
    loss, found = outer_gradient(per_step, tasks)
    assert loss == expected_loss
    together = {name: g.sum(0) if name in norm else g for name, g in found.items()}
    assert relative_error(together, expected, floor=1) < 1e-12


def test_second_order_gradient_is_the_finite_difference() -> None:
    method, tasks = mlp(), Random((4,), "values").tasks(2)
    assert finite_difference_error(method, tasks) < 1e-8


@ORDERS
@settings(max_examples=15)
@given(steps=st.integers(0, 6), seed=st.integers(0, 1000))
def test_linear_head_has_the_closed_form(order: str, steps: int, seed: int) -> None:
    """Only the head adapts, and the support loss is quadratic in it."""
    method = mlp(order=order, inner_steps=steps)
    method.adapted = ["head.weight", "head.bias"]  # type: ignore[assignment]
    (task,) = Random((4,), "values").tasks(1, ways=4, shots=5, seed=seed)
    (support_x, support_y), (query_x, query_y) = task
    weights = method.model.weights()

    def features(x: Tensor) -> Tensor:
        identity = {**weights, "head.weight": torch.eye(5).double(), "head.bias": torch.zeros(5).double()}
        return torch.cat([reference.mlp(x, identity), torch.ones(len(x), 1)], 1).detach()

    phi, psi = features(support_x), features(query_x)
    hessian = 2 / len(phi) * phi.T @ phi
    power = torch.linalg.matrix_power(torch.eye(6).double() - ALPHA * hessian, steps)
    theta = torch.cat([weights["head.weight"], weights["head.bias"][:, None]], 1).detach().T
    best = torch.linalg.pinv(phi) @ support_y
    final = best + power @ (theta - best)
    at_final = 2 / len(psi) * psi.T @ (psi @ final - query_y)
    expected = (power @ at_final if order == "second" else at_final).squeeze(1)

    _, found = outer_gradient(method, [task])
    adapted = method.adapt(task.support, TRAINING).weights
    torch.testing.assert_close(adapted["head.weight"].detach(), final[:5].T, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        torch.cat([found["model.head.weight"][0], found["model.head.bias"]]), expected, rtol=1e-8, atol=1e-10
    )


def test_first_order_is_the_plain_gradient_at_the_adapted_weights() -> None:
    method, (task,) = conv4(order="first"), Random((1, 16, 16)).tasks(1)
    adapted = method.adapt(task.support, TRAINING)
    there = conv4(order="first", inner_steps=0)
    there.model.load_state_dict({name: weight.detach() for name, weight in adapted.weights.items()})
    assert relative_error(outer_gradient(method, [task])[1], outer_gradient(there, [task])[1], floor=1) < 1e-12


@ORDERS
@pytest.mark.parametrize("vectorized", [False, True])
def test_a_zero_head_is_a_constant_of_the_outer_gradient(order: str, vectorized: bool) -> None:
    """Whatever the model's own head is: it has no part in anything."""
    method, tasks = conv4(order=order, zero_head=True), Random((1, 16, 16)).tasks(2)

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        start = theta | {name: torch.zeros_like(w).requires_grad_() for name, w in theta.items() if name in HEAD}
        return unrolled_loss(reference.conv4(), start, task, order=order, adapted=no_norm)

    expected_loss, expected = expected_gradient(method, tasks, loss)
    assert all(name not in learned(method) for name in (f"model.{name}" for name in HEAD))
    found_loss, found = outer_gradient(method, tasks, Context(True, vectorized=vectorized))
    assert found.keys() == {name for name in expected if name.removeprefix("model.") not in HEAD}
    assert found_loss == pytest.approx(expected_loss, rel=1e-10)
    assert relative_error(found, {name: expected[name] for name in found}) < 1e-8


@pytest.mark.parametrize("context", [TRAINING, EVALUATION])
def test_the_first_step_of_a_zero_head_moves_the_head_alone_and_has_a_closed_form(context: Context) -> None:
    """W = alpha * mean of (onehot(y) - 1/N) f(x), b = alpha * mean of (onehot(y) - 1/N), 0 for balanced classes."""
    method, (task,) = conv4(zero_head=True, inner_steps=1, eval_steps=1), Random((1, 16, 16)).tasks(1)
    theta = {name: weight.detach().clone() for name, weight in method.model.weights().items()}
    adapted = method.adapt(task.support, context).weights
    for name in theta.keys() - HEAD:
        assert torch.equal(adapted[name], theta[name])
    features = reference.maps(task.support.x, theta).flatten(1)
    pull = torch.nn.functional.one_hot(task.support.y, 3).double() - 1 / 3
    torch.testing.assert_close(adapted["head.weight"].detach(), ALPHA * pull.T @ features / len(features))
    torch.testing.assert_close(adapted["head.bias"].detach(), torch.zeros(3).double(), rtol=0, atol=1e-15)
    further = conv4(zero_head=True, inner_steps=2, eval_steps=2).adapt(task.support, context).weights
    assert not torch.equal(further["block1.weight"], theta["block1.weight"])


def test_a_head_that_starts_from_zeros_is_learned_and_a_zero_head_is_not(glyphs: object) -> None:
    """So `model.init.head: zeros` is the same for the first outer step only."""
    first, later = [], []
    for sections in ({"maml": {"zero_head": True}}, {"model": {"init": {"head": "zeros"}}}):
        made = Trainer(small_trial(merge(GLYPHS, {"maml": {"order": "first"}}, sections)))
        first.append(float(made.outer_update()))
        later.append(float(made.outer_update()))
        head = {name for name in learned(made.learner) if "head" in name}
        assert len(head) == (0 if "maml" in sections else 2)
    assert first[0] == first[1]
    assert later[0] != later[1]


def test_orders_differ_where_the_loss_is_curved_and_agree_without_adaptation() -> None:
    tasks = Random((1, 16, 16)).tasks(1)

    def apart(**maml: Any) -> float:
        first, second = (outer_gradient(conv4(order=order, **maml), tasks)[1] for order in ("first", "second"))
        return relative_error(first, second, floor=1)

    assert apart() > 1e-3
    assert apart(inner_lr=0.0) == 0
    assert apart(inner_steps=0) == 0


def test_no_steps_is_the_plain_network() -> None:
    method, (task,) = conv4(inner_steps=0), Random((1, 16, 16)).tasks(1)
    expected = reference.conv4()(task.query.x, method.model.weights(), 0, None)
    torch.testing.assert_close(method.predict(method.adapt(task.support, TRAINING), task.query.x), expected)


@pytest.mark.parametrize("adapt_norm", [False, True])
def test_what_adapts_and_what_does_not(adapt_norm: bool) -> None:
    method, (task,) = conv4(adapt_norm=adapt_norm), Random((1, 16, 16)).tasks(1)
    before = {name: weight.clone() for name, weight in method.model.weights().items()}
    adapted = method.adapt(task.support, TRAINING).weights
    # A convolution's bias has no gradient under batch norm, but for rounding.
    moved = {name for name, weight in adapted.items() if float((weight - before[name]).detach().abs().max()) > 1e-9}
    assert moved == {name for name in before if (adapt_norm or no_norm(name)) and name[6:] != ".bias"}
    for name, weight in method.model.weights().items():
        assert torch.equal(weight, before[name]), "adapt changed the method itself"


@pytest.mark.parametrize("norm", ["batch", "support", "running", "per_step"])
def test_evaluation_only_predicts(norm: str) -> None:
    assert_evaluation_only_predicts(conv4(model={"norm": norm}), Random((1, 16, 16)).tasks(8))


def test_eval_steps_count_in_evaluation_only() -> None:
    (task,) = Random((1, 16, 16)).tasks(1)

    def head(context: Context, **maml: Any) -> Tensor:
        return conv4(**maml).adapt(task.support, context).weights["head.weight"].detach()

    two, five = head(TRAINING, inner_steps=2), head(TRAINING, inner_steps=5)
    assert torch.equal(head(TRAINING, inner_steps=2, eval_steps=5), two)
    assert torch.equal(head(EVALUATION, inner_steps=2), two)
    assert torch.equal(head(EVALUATION, inner_steps=2, eval_steps=5), five)
    assert torch.equal(head(EVALUATION, inner_steps=2, eval_steps=0), head(TRAINING, inner_steps=0))


def test_support_norm_predicts_a_query_alone() -> None:
    method, (task,) = conv4(model={"norm": "support"}), Random((1, 16, 16)).tasks(1)
    batch = conv4()
    for learner_, independent in ((method, True), (batch, False)):
        adapted = learner_.adapt(task.support, EVALUATION)
        whole, part = learner_.predict(adapted, task.query.x), learner_.predict(adapted, task.query.x[:4])
        assert torch.allclose(whole[:4], part, rtol=1e-9, atol=1e-12) is independent


@ORDERS
def test_support_norm_is_differentiated_through_the_supports_statistics(order: str) -> None:
    method, tasks = conv4(model={"norm": "support"}, order=order), Random((1, 16, 16)).tasks(2)

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(reference.conv4(), theta, task, order=order, norm="support")

    assert_gradient(method, tasks, loss)


def test_running_norm_trains_like_batch_norm_and_evaluates_with_its_averages() -> None:
    running, batch, tasks = conv4(model={"norm": "running"}), conv4(), Random((1, 16, 16)).tasks(2)
    assert relative_error(outer_gradient(running, tasks)[1], outer_gradient(batch, tasks)[1], floor=1) < 1e-12
    averages = {name: buffer.clone() for name, buffer in running.named_buffers() if "running" in name}
    assert len(averages) == 8
    assert all(float((a - (1 if "var" in name else 0)).abs().min()) > 0 for name, a in averages.items())
    with torch.no_grad():
        adapted = running.adapt(tasks[0].support, EVALUATION)
        whole, part = running.predict(adapted, tasks[0].query.x), running.predict(adapted, tasks[0].query.x[:1])
    torch.testing.assert_close(whole[:1], part, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(buffer, averages[name]) for name, buffer in running.named_buffers() if name in averages)


@pytest.mark.parametrize(
    ("maml", "sentence"),
    [
        (
            {"adapt_norm": True},
            "maml adapts the norm's scales and shifts here, but with model.norm per_step they are learned per step",
        ),
        ({"inner_steps": 0}, "maml.inner_steps: found 0, but model.norm per_step has a row for each of them"),
        (
            {"inner_steps": 2, "eval_steps": 3},
            "maml.eval_steps: found 3, but model.norm per_step has only inner_steps (2) rows",
        ),
    ],
)
def test_settings_that_per_step_norm_cannot_follow_are_refused(maml: dict[str, Any], sentence: str) -> None:
    config = parse_trial({"method": "maml", "maml": maml, "model": {"name": "conv4", "norm": "per_step"}})
    with pytest.raises(UserError) as caught:
        build_learner(config, Random((1, 16, 16)))
    assert str(caught.value) == sentence


def test_initial_weights_are_the_seeds() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(torch.seed() % 1000)  # the global state has no say
        return build_learner(parse_trial({"method": "maml", "seed": seed}), Random((1, 16, 16))).state_dict()

    one, again, other = build(1), build(1), build(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["model.head.weight"], other["model.head.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_learner(parse_trial({"method": "maml"}), Random((1, 16, 16)))
    assert torch.equal(torch.get_rng_state(), before)
