"""DropGrad's noise: its distribution, what it depends on, and that it is a constant of the outer gradient."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from reference import Random, conv4, learner, noise_of, small_trial
from torch import Tensor
from unrolled import ALPHA, assert_same, descent, everything, expected_gradient, hooks_of, outer_gradient, unrolled_loss

from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.problem import Task
from raymeta.training.trainer import Trainer
from trainables.regularizers.dropgrad import DropGrad

LAYERS = {
    "all": {"block1", "block2", "block3", "block4", "head"},
    "last": {"block4", "head"},
    "head": {"head"},
    "start": {"block1"},
}
CONV1 = ("stem.weight", "stem.norm.weight", "stem.norm.bias")
OF_RESNET18 = {  # the paper's scopes, by hand
    "stem": lambda name: name in CONV1,
    "start": lambda name: name in CONV1 or name.startswith("block1."),
    "last": lambda name: name.startswith(("block4.", "head.")),
    "head": lambda name: name in ("head.weight", "head.bias"),
    "all": lambda name: True,
}


def dropped(**dropgrad: Any) -> Learner:
    return learner(
        Random((1, 16, 16)),
        model={"name": "conv4", "width": 8},
        maml={"inner_lr": ALPHA, "inner_steps": 3, "adapt_norm": True},
        regularizers={"dropgrad": dropgrad},
    )


def regularizer(**dropgrad: Any) -> DropGrad:
    return cast(DropGrad, dropped(**dropgrad).regularizers[0])


def context(seed: int = 0, progress: float = 0.0) -> Context:
    return Context(training=True, progress=progress, noise=noise_of(seed))


def record(method: Learner) -> list[tuple[float, Tensor]]:
    """Ramp and noise of every gradient from now on, in the order in which they are drawn."""
    drop, seen = cast(DropGrad, method.regularizers[0]), list[tuple[float, Tensor]]()
    plain = drop.factor

    def factor(like: Tensor, ramp: float, context: Context) -> Tensor:
        seen.append((ramp, plain(like, ramp, context)))
        return seen[-1][1]

    drop.factor = factor  # type: ignore[method-assign]
    return seen


def trial(dropgrad: dict[str, Any] | None, **sections: Any) -> Trainer:
    """A short training with or without DropGrad."""
    return Trainer(small_trial(regularizers={} if dropgrad is None else {"dropgrad": dropgrad}, **sections))


@pytest.mark.parametrize("kind", ["gaussian", "binary"])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_mean_is_1_and_variance_p_over_1_minus_p(kind: str, rate: float) -> None:
    drop, count = regularizer(noise=kind, rate=rate), 400_000
    factor = drop.factor(torch.zeros(count).double(), 1.0, context())
    variance = rate / (1 - rate)
    assert float(factor.mean()) == pytest.approx(1, abs=5 * (variance / count) ** 0.5)
    assert float(factor.var()) == pytest.approx(variance, rel=0.02)
    if kind == "binary":
        assert sorted(set(factor.tolist())) == pytest.approx([0, 1 / (1 - rate)])
    else:
        fourth = float(((factor - 1) ** 4).mean()) / variance**2
        assert fourth == pytest.approx(3, rel=0.03)  # a Gaussian's kurtosis


@pytest.mark.parametrize("kind", ["gaussian", "binary"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("tasks", ["loop", "vmap"])
def test_rate_0_is_bitwise_the_plain_learner(kind: str, order: str, tasks: str) -> None:
    sections = {"maml": {"order": order}, "engine": {"tasks": tasks}}
    plain, zero, some = trial(None, **sections), *(trial({"rate": r, "noise": kind}, **sections) for r in (0.0, 0.2))
    metrics = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in (plain, zero, some)]
    assert metrics[0] == metrics[1] != metrics[2]
    theirs = zero.learner.model.weights()
    assert all(torch.equal(weight, theirs[name]) for name, weight in plain.learner.model.weights().items())


def test_evaluation_is_the_same_at_any_rate() -> None:
    plain, *others = (trial(dropgrad) for dropgrad in (None, {"rate": 0.1}, {"rate": 0.9, "noise": "binary"}))
    assert [trainer.validate() for trainer in others] == [plain.validate()] * 2


def test_noise_differs_between_steps_tensors_tasks_and_outer_steps() -> None:
    """One task after another, whose every gradient is 1: the weights themselves show the noise."""
    drop = regularizer(rate=0.3)
    ones = {"block1.weight": torch.ones(50), "head.weight": torch.ones(50)}
    found = []
    for task in (0, 1):
        surroundings = Context(training=True, noise=noise_of(0, task))
        for _ in range(2):  # inner steps
            found += drop.on_inner_gradients(ones, surroundings).values()
    assert len({tuple(noise.tolist()) for noise in found}) == 8
    assert all(abs(float(torch.corrcoef(torch.stack([a, found[0]]))[0, 1])) < 0.5 for a in found[1:])


def test_the_trainers_noise_differs_between_tasks_and_outer_steps_and_follows_the_seed() -> None:
    def noises(seed: int) -> list[tuple[float, ...]]:
        trainer = trial({"rate": 0.3}, seed=seed, engine={"tasks": "loop"})
        seen = record(trainer.learner)
        trainer.outer_update()
        trainer.outer_update()
        return [tuple(factor.flatten().tolist()) for _, factor in seen]

    one, again, other = noises(1), noises(1), noises(2)
    assert len(one) == 2 * 3 * 2 * 4  # outer steps, tasks, inner steps, tensors
    assert len(set(one)) == len(one)
    assert one == again
    assert not set(one) & set(other)


@pytest.mark.parametrize("layers", LAYERS)
def test_a_scope_touches_its_layers_only(layers: str) -> None:
    drop, method = regularizer(rate=0.3, layers=layers), dropped()
    ones = {name: torch.ones_like(weight) for name, weight in method.model.weights().items()}
    after = drop.on_inner_gradients(ones, context())
    assert list(after) == list(ones)
    touched = {name for name in ones if not torch.equal(after[name], ones[name])}
    assert touched == {name for name in ones if name.split(".")[0] in LAYERS[layers]}


@pytest.mark.parametrize("layers", OF_RESNET18)
def test_scopes_on_a_resnet_are_the_papers(layers: str) -> None:
    method = learner(
        Random((3, 32, 32)),
        model={"name": "resnet18", "channels": [2, 2, 2, 2]},
        maml={"adapt_norm": True},
        regularizers={"dropgrad": {"rate": 0.3, "layers": layers}},
    )
    drop = cast(DropGrad, method.regularizers[0])
    ones = {name: torch.ones_like(weight) for name, weight in method.model.weights().items()}
    after = drop.on_inner_gradients(ones, context())
    touched = {name for name in ones if not torch.equal(after[name], ones[name])}
    assert touched == {name for name in ones if OF_RESNET18[layers](name)}
    assert layers != "last" or any("shortcut" in name for name in touched)


def test_a_model_without_a_stem_has_no_such_scope() -> None:
    with pytest.raises(UserError) as caught:
        dropped(layers="stem")
    assert str(caught.value) == (
        "regularizers.dropgrad.layers: found 'stem', but the model has none; allowed: all, last, head, start"
    )


@pytest.mark.parametrize("kind", ["gaussian", "binary"])
def test_the_linear_ramp_grows_the_deviation_or_the_rate(kind: str) -> None:
    drop, full = regularizer(rate=0.36, noise=kind, ramp="linear"), regularizer(rate=0.36, noise=kind)
    ones = {"head.weight": torch.ones(200_000).double()}

    def noise(drop: DropGrad, progress: float) -> Tensor:
        return drop.on_inner_gradients(ones, context(progress=progress))["head.weight"]

    assert torch.equal(noise(drop, 0.0), ones["head.weight"])
    assert torch.equal(noise(drop, 1.0), noise(full, 1.0))
    assert torch.equal(noise(full, 0.0), noise(full, 1.0))
    for progress in (0.25, 0.5):
        part = noise(drop, progress)
        if kind == "gaussian":
            torch.testing.assert_close(part - 1, progress * (noise(full, 1.0) - 1))
            assert float(part.std()) == pytest.approx(progress * 0.75, rel=0.01)  # sqrt(0.36 / 0.64)
        else:
            assert float((part == 0).double().mean()) == pytest.approx(progress * 0.36, abs=0.005)
            assert float(part.max()) == pytest.approx(1 / (1 - progress * 0.36))


def test_the_ramp_follows_the_full_budget() -> None:
    trainer = trial({"rate": 0.36, "ramp": "linear"})
    seen = record(trainer.learner)
    while not trainer.done:
        trainer.round()
    ramps = [ramp for ramp, _ in seen]
    assert sorted(set(ramps)) == [i / 5 for i in range(6)]
    assert ramps == sorted(ramps)


@pytest.mark.parametrize("kind", ["gaussian", "binary"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_noise_is_a_constant_of_the_outer_gradient(kind: str, order: str) -> None:
    method = learner(
        Random((1, 16, 16)),
        model={"name": "conv4", "width": 8},
        maml={"inner_lr": ALPHA, "inner_steps": 3, "adapt_norm": True, "order": order},
        regularizers={"dropgrad": {"rate": 0.3, "noise": kind, "layers": "last"}},
    )
    seen = record(method)
    tasks = Random((1, 16, 16)).tasks(1)
    found = outer_gradient(method, tasks, replace(context(), hooks=hooks_of(method)))
    noisy = [name for name in method.model.weights() if name.split(".")[0] in LAYERS["last"]]
    assert len(seen) == 3 * len(noisy)
    table = {(step, name): seen[step * len(noisy) + i][1] for step in range(3) for i, name in enumerate(noisy)}
    rule = descent(lambda step, name: ALPHA * table.get((step, name), 1.0))

    def loss(theta: Any, own: Any, task: Task) -> Tensor:
        return unrolled_loss(conv4(), theta, task, rule, order=order, adapted=everything)

    assert_same(found, expected_gradient(method, tasks, loss))
