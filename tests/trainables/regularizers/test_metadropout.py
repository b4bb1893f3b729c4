"""Meta-Dropout against the equations written down once more, with the noise that it drew; its ablations; evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import GLYPHS, Random, Weights, learner, noise_of, small_trial
from torch import Tensor
from unrolled import (
    ALPHA,
    MAML,
    ORDERS,
    Loss,
    assert_same,
    beside_theta,
    expected_gradient,
    hooks_of,
    outer_gradient,
    outer_loss,
    together,
    unroll,
)

from raymeta.engine.noise import Noise
from raymeta.errors import UserError
from raymeta.inner import Context, predictions
from raymeta.learner import Learner
from raymeta.problem import Task
from raymeta.problems.images.dataset import ImageDataset
from raymeta.training.trainer import Trainer

STEPS, WIDTH = 2, 5
NOISES = ["learned", "fixed", "weight", "independent"]
Draw = Callable[[Tensor], Tensor]


def method(noise: str = "learned", order: str = "second", problem: Any = None, **more: Any) -> Learner:
    """MAML with it, in float64; what it learns is moved off its start."""
    made = learner(
        problem or Random((1, 16, 16)),
        model={"name": "conv4", "width": WIDTH, **more.pop("model", {})},
        maml={"inner_lr": ALPHA, "inner_steps": STEPS, "order": order},
        regularizers={"metadropout": {"noise": noise, **more}},
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith("regularizers."):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def context(made: Learner, training: bool = True, seed: int = 0, vectorized: bool = False) -> Context:
    plain = Context(training, vectorized=vectorized)
    return plain.of_task(0, noise_of(seed), hooks_of(made, plain))


def network(x: Tensor, theta: Weights, phi: Weights, noise: str, draw: Draw | None) -> Tensor:
    """One pass, in the textbook order; without `draw` at the means: the query's."""
    h = x
    for layer in ("block1", "block2", "block3", "block4"):
        m = F.conv2d(h, theta[f"{layer}.weight"], theta[f"{layer}.bias"], padding=1)
        mean, deviation = torch.zeros_like(m), torch.ones_like(m)
        if noise == "learned":
            mean = F.conv2d(h, phi[f"weights.{layer}"], phi[f"shifts.{layer}"], padding=1)
        elif noise == "weight":
            deviation = phi[f"weights.{layer}"].expand_as(m)
        elif noise == "independent":
            mean = phi[f"shifts.{layer}"][None, :, None, None].expand_as(m)
        z = mean if draw is None else mean + deviation * draw(m)
        m = m * torch.log1p(torch.exp(z))
        m = F.batch_norm(m, None, None, theta[f"{layer}.norm.weight"], theta[f"{layer}.norm.bias"], training=True)
        h = F.max_pool2d(F.relu(m), 2)
    h = h.flatten(1)
    mu = h @ theta["head.weight"].T + theta["head.bias"]
    if draw is None or noise == "fixed":
        return mu
    raw = phi["shifts.head"] + (h @ phi["weights.head"].T if noise == "learned" else 0)
    return mu + torch.log1p(torch.exp(raw)) * draw(mu)


def slow(noise: str, order: str) -> Loss:
    """The outer loss with the same draws: block after block, then the head."""

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        drawn = noise_of(0)
        phi = {name.removeprefix("regularizers.0."): tensor for name, tensor in own.items()}

        def draw(like: Tensor) -> Tensor:
            return drawn.normal(like)

        def noisy(x: Tensor, weights: Weights, step: int, normaliser: Tensor | None) -> Tensor:
            return network(x, weights, phi, noise, draw)

        path = unroll(noisy, theta, task, MAML, steps=STEPS, order=order)
        return F.cross_entropy(network(task.query.x, path[-1], phi, noise, None), task.query.y)

    return loss


@ORDERS
@pytest.mark.parametrize("noise", NOISES)
def test_the_outer_gradient_is_the_references(noise: str, order: str) -> None:
    made = method(noise, order)
    for task in Random((1, 16, 16)).tasks(2):
        found = outer_gradient(made, [task], context(made))
        assert_same(found, expected_gradient(made, [task], slow(noise, order)))
        own = list(filter(beside_theta, found[1]))
        reached = {name for name in own if float(found[1][name].norm()) > 0}
        through_the_query = {name for name in own if "head" not in name and noise != "weight"}
        assert reached == (set(own) if order == "second" else through_the_query)


def test_its_own_gradient_is_the_central_difference() -> None:
    made, (task,) = method(), Random((1, 16, 16)).tasks(1)
    _, found = outer_gradient(made, [task], context(made))
    generator, errors = torch.Generator().manual_seed(3), []
    for name, parameter in made.named_parameters():
        if not beside_theta(name):
            continue
        direction, start = torch.randn(parameter.shape, generator=generator).double(), parameter.detach().clone()
        values = []
        for sign in (1, -1):
            parameter.data.copy_(start + sign * 1e-6 * direction)
            values.append(float(outer_loss(made, [task], context(made)).detach()))
        parameter.data.copy_(start)
        along = float((found[name] * direction).sum())
        errors.append(abs((values[0] - values[1]) / 2e-6 - along) / abs(along))
    assert len(errors) == 10
    assert max(errors) < 1e-5


def test_none_is_bitwise_the_plain_learner(glyphs: ImageDataset) -> None:
    plain, none, some = (
        Trainer(small_trial(GLYPHS, regularizers=regularizers))
        for regularizers in ({}, {"metadropout": {"noise": "none"}}, {"metadropout": {"eval_samples": 2}})
    )
    metrics = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in (plain, none, some)]
    assert metrics[0] == metrics[1] != metrics[2]
    assert len(list(none.learner.parameters())) == len(list(plain.learner.parameters()))


def test_phi_may_learn_at_another_rate_than_theta(glyphs: ImageDataset) -> None:
    """Adam's first step is its rate, whatever the gradient."""
    trial = small_trial(GLYPHS, regularizers={"metadropout": {"lr_factor": 4.0}}, outer={"lr": 1e-3})
    trainer = Trainer(trial)
    before = {name: p.detach().clone() for name, p in trainer.learner.named_parameters()}
    trainer.outer_update()
    for name, parameter in trainer.learner.named_parameters():
        step = float((parameter.detach() - before[name]).abs().max())
        assert step == pytest.approx(4e-3 if name.startswith("regularizers") else 1e-3, rel=1e-2), name


def test_noise_is_new_for_every_step_layer_task_and_pass() -> None:
    made, seen = method(), list[Tensor]()

    class Watched(Noise):
        def normal(self, like: Tensor) -> Tensor:
            seen.append(super().normal(like))
            return seen[-1]

    for number, task in enumerate(Random((1, 16, 16)).tasks(2)):
        watched = Context(True, noise=noise_of(0, number, Watched), hooks=hooks_of(made))
        made.query_loss(made.adapt(task.support, watched), task.query)
    assert len(seen) == 2 * STEPS * 5  # tasks, steps, four blocks and the head; the query draws none
    assert len({tuple(draw.flatten()[:6].tolist()) for draw in seen}) == len(seen)


@pytest.mark.parametrize("noise", ["learned", "none"])
def test_evaluation_averages_its_samples_and_the_query_has_no_noise(noise: str) -> None:
    made, (task,) = method(noise, eval_samples=3), Random((1, 16, 16)).tasks(1)
    passes = []
    plain = made.model.forward

    def forward(*arguments: Any) -> Tensor:
        passes.append(arguments[2].query)
        return plain(*arguments)

    made.model.forward = forward  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        adapted = made.adapt(task.support, context(made, training=False))
        one, other = (made.predict(adapted, task.query.x) for _ in range(2))
    assert passes == [False] * STEPS * (3 if noise == "learned" else 1) + [True] * 2
    assert torch.equal(one, other)


def test_a_task_is_evaluated_alike_every_time_and_wherever_it_stands() -> None:
    made, tasks = method(eval_samples=2), Random((1, 16, 16)).tasks(3)

    every, second = together(tasks), together(tasks[1:2])
    with torch.no_grad():
        found = predictions(made, every, False, [7, 8, 9])
        assert torch.equal(found, predictions(made, every, False, [7, 8, 9]))
        assert torch.equal(found[1:2], predictions(made, second, False, [8]))
        assert not torch.equal(found[1:2], predictions(made, second, False, [7]))
        torch.testing.assert_close(found, predictions(made, every, True, [7, 8, 9]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sections", "sentence"), [
    (
        {"method": "protonet", "regularizers": {"metadropout": {}}},
        "protonet+metadropout: metadropout needs an inner loop, and protonet has none",
    ),
    (
        {"method": "maml", "model": {"name": "resnet10"}, "regularizers": {"metadropout": {}}},
        "maml+metadropout: metadropout needs convolutions, and model.name resnet10 has none",
    ),
])  # fmt: skip
def test_what_it_cannot_sit_on_is_refused(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        learner(Random((3, 32, 32)), **sections)
    assert str(caught.value) == sentence
