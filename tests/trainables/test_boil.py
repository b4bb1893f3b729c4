"""BOIL against an unrolled loop and finite differences, and against MAML whose body alone adapts."""

from typing import Any

import pytest
import torch
from models.test_resnet import resnet12
from reference import GLYPHS, Random, learner, small_trial
from unrolled import (
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
    assert_same,
    descent,
    finite_difference_error,
    no_norm,
    outer_gradient,
    unroll,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.schema import merge
from raymeta.training.trainer import Trainer


def body(name: str) -> bool:
    return not name.startswith("head.")


@ORDERS
@pytest.mark.parametrize(
    ("case", "norm", "adapt_norm"),
    [
        (IMAGES, "batch", True),
        (IMAGES, "batch", False),
        (IMAGES, "support", True),
        (IMAGES, "per_step", False),
        (VECTORS, "batch", True),
    ],
)
def test_outer_gradient_is_the_unrolled_loops(case: Case, norm: str, adapt_norm: bool, order: str) -> None:
    model = {"norm": norm} if case.images else None
    method, tasks = case.learner("boil", model, order=order, adapt_norm=adapt_norm), case.tasks(2)

    def adapted(name: str) -> bool:
        return body(name) and (adapt_norm or no_norm(name))

    def loss(theta: Any, own: Any, task: Any) -> Any:
        return unrolled_loss(case.network, theta, task, adapted=adapted, order=order, norm=norm)

    assert_gradient(method, tasks, loss)


def test_outer_gradient_is_the_finite_difference() -> None:
    assert finite_difference_error(VECTORS.learner("boil"), VECTORS.tasks(2)) < 1e-7


@ORDERS
@BOTH
def test_it_is_maml_whose_body_alone_adapts(case: Case, order: str) -> None:
    method, tasks = case.learner("boil", order=order), case.tasks(2)
    maml = case.maml(method, order=order, adapt_norm=True)
    maml.adapted = [name for name in maml.adapted if body(name)]  # type: ignore[assignment, union-attr]
    assert_same(outer_gradient(method, tasks), outer_gradient(maml, tasks), error=1e-12, loss=1e-12)


@pytest.mark.parametrize("adapt_norm", [False, True])
def test_the_head_stays_and_the_body_moves(adapt_norm: bool) -> None:
    method, (task,) = IMAGES.learner("boil", adapt_norm=adapt_norm), IMAGES.tasks(1)
    before = {name: weight.clone() for name, weight in method.model.weights().items()}
    adapted = method.adapt(task.support, TRAINING).weights
    # A convolution's bias has no gradient under batch norm, but for rounding.
    moved = {name for name, weight in adapted.items() if float((weight - before[name]).detach().abs().max()) > 1e-9}
    expected = {name for name in before if body(name) and name[6:] != ".bias"}
    assert moved == {name for name in expected if adapt_norm or no_norm(name)}
    assert torch.equal(adapted["head.weight"], before["head.weight"])
    assert torch.equal(adapted["head.bias"], before["head.bias"])


def test_the_head_learns_in_the_outer_loop_and_second_order_terms_cross_it() -> None:
    tasks = IMAGES.tasks(2)
    first, second = (outer_gradient(IMAGES.learner("boil", order=order), tasks)[1] for order in ("first", "second"))
    for name in ("model.head.weight", "model.head.bias"):
        assert float(first[name].norm()) > 1e-3
    assert float((first["model.head.weight"] - second["model.head.weight"]).norm()) > 1e-3


def test_defaults_are_one_step_of_a_half_with_the_norm() -> None:
    method = build_learner(parse_trial({"method": "boil"}), IMAGES.problem).double()
    (task,) = IMAGES.tasks(1)
    theta = {name: weight.detach().clone().requires_grad_() for name, weight in method.model.weights().items()}
    path = unroll(IMAGES.network, theta, task, descent(lambda step, name: 0.5), steps=1, adapted=body)
    adapted = method.adapt(task.support, TRAINING).weights
    for name, weight in path[-1].items():
        torch.testing.assert_close(adapted[name], weight, rtol=1e-8, atol=1e-10)


def test_its_resnet12_is_its_authors_with_the_laws_of_the_variant() -> None:
    for given, variant in (({}, "b"), ({"variant": "a"}, "a")):
        model = parse_trial({"method": "boil", "model": {"name": "resnet12", **given}}).model
        assert (model.variant, model.init) == (variant, type(model.init)())


@ORDERS
@BOTH
def test_tasks_batched_are_tasks_looped_over(case: Case, order: str) -> None:
    assert_batched_is_looped(case.learner("boil", order=order), case.tasks(3))


@ORDERS
@pytest.mark.parametrize("adapt_shortcuts", [False, True])
@pytest.mark.parametrize("plain", [0, 1])
def test_shortcuts_of_a_resnet_learn_but_adapt_by_key_only(order: str, adapt_shortcuts: bool, plain: int) -> None:
    """With their weights of theta in every pass, as the authors' code has it."""
    problem = Random((3, 16, 16))
    model = {"name": "resnet12", "variant": "b", "channels": [3, 4, 5, 6], "plain_blocks": plain}
    own = {"inner_lr": 0.125, "inner_steps": 2, "order": order, "adapt_shortcuts": adapt_shortcuts}
    method, tasks = learner(problem, method="boil", model=model, boil=own), problem.tasks(1)

    def adapted(name: str) -> bool:
        return body(name) and (adapt_shortcuts or ".shortcut." not in name)

    def loss(theta: Any, own: Any, task: Any) -> Any:
        return unrolled_loss(resnet12("b", plain=plain), theta, task, adapted=adapted, order=order, steps=2)

    assert_gradient(method, tasks, loss)
    shortcuts = [gradient for name, gradient in outer_gradient(method, tasks)[1].items() if ".shortcut." in name]
    assert len(shortcuts) == 3 * (4 - plain)
    assert all(float(gradient.norm()) > 1e-6 for gradient in shortcuts)


def centre(method: Learner) -> None:
    """In place, as the authors do."""
    with torch.no_grad():
        head = method.model.weights()["head.weight"]
        head -= head.mean(0)


@ORDERS
def test_a_centred_head_has_the_gradient_of_one_that_was_centred_in_place(order: str) -> None:
    made, plain = (IMAGES.learner("boil", order=order, centering=centering) for centering in (True, False))
    tasks, rows = IMAGES.tasks(2), made.model.weights()["head.weight"]
    with torch.no_grad():
        for method in (made, plain):
            method.model.weights()["head.weight"].add_(torch.arange(rows.shape[1]) / 10)
    before = rows.detach().clone()
    found, uncentred = outer_gradient(made, tasks), outer_gradient(plain, tasks)
    assert torch.equal(rows, before)
    centre(plain)
    assert_same(found, outer_gradient(plain, tasks), error=1e-10, loss=1e-12)
    assert_same(found, uncentred, error=1e-8, loss=1e-10)  # all logits of an image shift alike
    logits = [method.predict(method.adapt(tasks[0].support, EVALUATION), tasks[0].query.x) for method in (made, plain)]
    torch.testing.assert_close(*logits)


def test_training_with_a_centred_head_is_centring_it_before_every_outer_step(glyphs: object) -> None:
    """In float64: Adam gives the mean of the rows a drift, which takes no part."""
    made, plain = (
        Trainer(small_trial(merge(GLYPHS, {"maml": {"inner_steps": 1, "centering": centering}}), "boil"))
        for centering in (True, False)
    )
    for trainer in (made, plain):
        trainer.learner.double()
    for step in range(4):
        tasks = made.tasks_of_step().map(lambda part: part.double() if part.is_floating_point() else part)
        centre(plain.learner)
        losses = []
        for trainer in (made, plain):
            trainer.update.begin(step)
            losses.append(float(trainer.accumulate(tasks)))
            trainer.update.step()
            trainer.outer_step += 1
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    drifted = made.learner.model.weights()["head.weight"].detach().mean(0)
    assert float(drifted.norm()) > 1e-3
    for trainer in (made, plain):
        centre(trainer.learner)
    ours, theirs = (trainer.learner.model.weights() for trainer in (made, plain))
    for name in ours.keys() - {f"block{number}.bias" for number in range(1, 5)}:  # of which nothing depends
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9)


def test_a_head_of_values_is_not_centred() -> None:
    with pytest.raises(UserError) as caught:
        VECTORS.learner("boil", centering=True)
    assert str(caught.value) == (
        "boil.centering: found true, but it is for logits, and random has values; allowed: false"
    )


def test_a_fixed_head_is_a_constant_of_the_same_gradient() -> None:
    made, plain, tasks = IMAGES.learner("boil", outer_fix=True), IMAGES.learner("boil"), IMAGES.tasks(2)
    (loss, found), (expected_loss, expected) = (outer_gradient(method, tasks) for method in (made, plain))
    assert expected.keys() - found.keys() == {"model.head.weight", "model.head.bias"}
    assert_same((loss, found), (expected_loss, {name: expected[name] for name in found}), error=1e-12, loss=1e-12)


def test_evaluation_only_predicts() -> None:
    assert_evaluation_only_predicts(IMAGES.learner("boil"), IMAGES.tasks(3))


def test_per_step_norm_with_an_adapted_norm_is_refused() -> None:
    config = parse_trial({"method": "boil", "model": {"name": "conv4", "norm": "per_step"}})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES.problem)
    assert str(caught.value) == (
        "boil adapts the norm's scales and shifts here, but with model.norm per_step they are learned per step"
    )
