"""Learners on viewpoints: outer gradients against a slow reference, DropGrad's noise given; what has no meaning."""

from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from reference import learner, small_trial
from scipy.spatial.transform import Rotation
from torch import Tensor
from unrolled import (
    ALPHA,
    ORDERS,
    Rule,
    assert_gradient,
    descent,
    finite_difference_error,
    no_norm,
    together,
    unrolled_loss,
)

from raymeta.api.given import given_task
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner
from raymeta.problem import Examples, Task, open_problem
from raymeta.problems.viewpoint.datasets import Shapes3D
from raymeta.problems.viewpoint.viewpoint import ViewpointTask
from raymeta.training.trainer import Trainer

HEAD = ("head.weight", "head.bias")
VIEWS = {
    "maml": {"inner_lr": 0.02},
    "model": {"name": "conv4", "width": 4, "pools": 3},
    "task": {
        "problem": "viewpoint",
        "dataset": "shapes3d",
        "shots": 4,
        "queries": 3,
        "eval_queries": 5,
        "front": "task",
    },
}


def made(method: str, order: str = "second", **sections: Any) -> Learner:
    model = {"name": "conv4", "width": 5, "pools": 3}
    own = {"inner_lr": ALPHA, "inner_steps": 3, "order": order}
    return learner(open_problem(ViewpointTask()), method=method, model=model, **{method: own}, **sections)


def tasks(count: int = 2) -> list[Task]:
    generator = torch.Generator().manual_seed(3)

    def examples(views: int, seed: int) -> Examples:
        x = torch.rand(views, 3, 24, 24, generator=generator, dtype=torch.float64)
        return Examples(x, torch.from_numpy(Rotation.random(views, random_state=seed).as_matrix()).flatten(1))

    return [Task(examples(4, seed), examples(3, seed + 100)) for seed in range(count)]


NETWORK = reference.conv4(pools=3)


@ORDERS
@pytest.mark.parametrize("method", ["maml", "anil"])
def test_outer_gradients_are_the_references(method: str, order: str) -> None:
    adapted = no_norm if method == "maml" else (lambda name: name in HEAD)

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(NETWORK, theta, task, order=order, adapted=adapted)

    assert_gradient(made(method, order), tasks(), loss)


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_with_dropgrads_noise_given_too(method: str) -> None:
    """G' = g * n with the same n, step by step and tensor by tensor, on both sides."""
    found = made(method, regularizers={"dropgrad": {"rate": 0.2}})
    adapted = no_norm if method == "maml" else (lambda name: name in HEAD)
    names, generator = list(found.adapted), torch.Generator().manual_seed(5)  # type: ignore[arg-type]
    weights = found.model.weights()
    noise = [
        {name: 1 + 0.5 * torch.randn(weights[name].shape, generator=generator, dtype=torch.float64) for name in names}
        for _ in range(3)
    ]
    calls = 0

    def given(gradients: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {name: gradient * noise[(calls - 1) % 3][name] for name, gradient in gradients.items()}

    dropgrad: Any = found.regularizers[0]
    dropgrad.on_inner_gradients = given
    plain = descent(lambda step, name: ALPHA)
    noisy: Rule = lambda step, moving, g: plain(step, moving, {n: g[n] * noise[step][n] for n in g})  # noqa: E731
    drawn = tasks()
    context = Context(training=True, hooks=found.hooks(together(drawn), Context(True), torch.Generator()))

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(NETWORK, theta, task, noisy, adapted=adapted)

    assert_gradient(found, drawn, loss, context)
    assert calls == 6


def test_the_outer_gradient_is_that_of_central_differences() -> None:
    assert finite_difference_error(made("anil"), tasks(1), lambda name: name == "model.head.bias", step=1e-4) < 1e-6


def test_a_short_training_scores_and_resumes_to_the_same_bits(session_cache: Path, tmp_path: Path) -> None:
    Shapes3D(ViewpointTask()).prepare()
    config = small_trial(VIEWS, regularizers={"dropgrad": {"rate": 0.1}})
    whole, half = Trainer(config), Trainer(config)
    rounds = [whole.round() for _ in range(3)]
    assert all(0 <= one["val_acc30"] <= 1 and 0 < one["val_mederr"] <= 180 for one in rounds)
    half.round()
    half.save(tmp_path / "checkpoint.pt")
    again = Trainer(config)
    again.load(tmp_path / "checkpoint.pt")
    for expected in rounds[1:]:
        found = again.round()
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in expected.items() if k != "seconds"
        }
    score, _ = whole.test()
    assert score.also.keys() == {"mederr", "mederr_pooled"}


def test_a_users_rotations_come_back_as_rotations() -> None:
    problem = open_problem(ViewpointTask())
    pictures = torch.randint(0, 255, (3, 30, 20, 3), dtype=torch.uint8).numpy()
    rotations = Rotation.random(3, random_state=0).as_matrix()
    task = given_task(problem, pictures, rotations)
    assert task.x.shape == (3, 3, 24, 24)
    answers = task.answers(problem.answers(2 * task.y + 0.01))
    assert answers.shape == (3, 3, 3)
    assert abs(answers - rotations).max() < 0.05
    assert abs(answers @ answers.transpose(0, 2, 1) - torch.eye(3).numpy()).max() < 1e-5
    with pytest.raises(UserError, match=r"^y: found shape \[3, 4\]: expected \[n, 9\]"):
        given_task(problem, pictures, rotations.reshape(3, 9)[:, :4])


@pytest.mark.parametrize("method", ["anil", "alfa", "boil", "cavia", "l2f", "mamlpp", "metasgd"])
def test_learners_without_classes_have_a_meaning_here(method: str) -> None:
    config = parse_trial({"method": method, "model": {"name": "conv4", "width": 4, "pools": 3}, "task": VIEWS["task"]})
    built = build_learner(config, open_problem(config.task))
    (task,) = tasks(1)
    with torch.no_grad():
        support = Examples(task.support.x.float(), task.support.y.float())
        outputs = built.predict(built.adapt(support, Context(False)), task.query.x.float())
    assert outputs.shape == (3, 9)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("protonet", "protonet needs labels, and viewpoint has none"),
        ("cxgrad", "cxgrad needs labels, and"),
        ("maml+metamix", "maml\\+metamix: metamix needs labels, and"),
        ("maml+taskaug", "maml\\+taskaug: taskaug needs labels, and"),
        (
            "maml+aug",
            r"regularizers\.aug\.crop: found true, but what shapes3d predicts of an image changes with it; allowed: ",
        ),
    ],
)
def test_what_needs_classes_or_unturned_things_is_refused(spec: str, sentence: str) -> None:
    method, *regularizers = spec.split("+")
    config = parse_trial({
        "method": method, "regularizers": {name: {} for name in regularizers}, "task": VIEWS["task"],
        "model": {"name": "conv4", "width": 4, "pools": 3},
    })  # fmt: skip
    with pytest.raises(UserError, match=sentence.replace("viewpoint", "(viewpoint|shapes3d)")):
        build_learner(config, open_problem(config.task))
