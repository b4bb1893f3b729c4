"""Adversarial query images: where they are, that they mislead, and that they are constants of the outer gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta.engine.attacks import NORMS, length
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner, task_loss
from raymeta.problem import Examples, Task, Tasks, open_problem
from raymeta.testing import conformance, small_trial

RADII = {"linf": 0.1, "l2": 1.0, "l1": 10.0}


def made(spec: str, **settings: Any) -> tuple[Learner, Tasks]:
    """A learner in float64, its weights moved off their start, and two tasks from noise in [0, 1]."""
    config = small_trial(spec, "images", {"regularizers": {"advquery": settings}} if "advquery" in spec else {})
    learner = build_learner(config, open_problem(config.task)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    ways = learner.problem.outputs
    assert ways is not None

    def examples(each: int) -> Examples:
        y = torch.arange(ways).repeat(2, each)
        return Examples(torch.rand(*y.shape, *learner.problem.input_shape, generator=generator).double(), y)

    return learner, Tasks(examples(1), examples(3))


def changed(learner: Learner, tasks: Tasks, number: int) -> tuple[Task, Task]:
    """A task as it is, and as its query loss is computed of it."""
    context = Context(True, task=number)
    (hooks,) = learner.hooks(tasks, context, torch.Generator().manual_seed(1))
    task = tasks.task(number)
    assert hooks.query is not None
    return task, hooks.query(learner.adapt(task.support, context), task, context)[1]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_images_are_in_ball_and_box_and_mislead_more_than_their_start(norm: Any, steps: int) -> None:
    learner, tasks = made("maml+advquery", norm=norm, radius=RADII[norm], steps=steps)
    before = tasks.support.x.clone()
    for number in range(2):
        task, found = changed(learner, tasks, number)
        change = found.query.x - task.query.x
        assert (length(change, norm) <= RADII[norm] * (1 + 1e-9)).all()
        assert 0 <= float(found.query.x.min()) <= float(found.query.x.max()) <= 1
        assert torch.equal(found.query.y, task.query.y)
        adapted = learner.adapt(task.support, Context(False))
        losses = [float(learner.query_loss(adapted, one.query).detach()) for one in (task, found)]
        assert losses[1] > losses[0]
    assert torch.equal(tasks.support.x, before)


@pytest.mark.parametrize("spec", ["maml", "protonet"])
def test_the_outer_gradient_is_that_of_the_changed_images_as_constants(spec: str) -> None:
    learner, tasks = made(f"{spec}+advquery", radius=0.1)
    plain, _ = made(spec)
    plain.load_state_dict(learner.state_dict())
    for number in range(2):
        _, found = changed(learner, tasks, number)
        hooks = learner.hooks(tasks, context := Context(True, task=number), torch.Generator().manual_seed(1))
        own = task_loss(learner, tasks.task(number), Context(True, task=number, hooks=hooks))
        expected = task_loss(
            plain, Task(tasks.task(number).support, Examples(*map(Tensor.detach, found.query))), context
        )
        assert float(own.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        gradients = [torch.autograd.grad(loss, list(one.parameters()), allow_unused=True)
                     for loss, one in ((own, learner), (expected, plain))]  # fmt: skip
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_start_is_another_in_every_task() -> None:
    learner, tasks = made("maml+advquery", norm="l2", radius=0.5)
    same = Tasks(*(Examples(part.x[:1].expand_as(part.x), part.y) for part in tasks))
    one, other = (changed(learner, same, number)[1].query.x for number in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(one, changed(learner, same, 0)[1].query.x)


def test_a_radius_that_holds_every_image_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^regularizers.advquery.radius: found 1.5, but within 1 in linf there is every"
    ):
        made("maml+advquery", radius=1.5)


test_advquery_conforms = conformance("maml+advquery", config={"maml": {"inner_steps": 2}})
test_advquery_conforms_without_an_inner_loop = conformance("protonet+advquery")
