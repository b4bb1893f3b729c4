"""Dropout: what it drops, where, when, and that it is a constant of the gradient."""

from typing import Any, cast

import pytest
import torch
from reference import GLYPHS, SMALL, Random, learner, noise_of
from unrolled import hooks_of

from raymeta.config import parse_trial
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.problems.images.dataset import ImageDataset
from raymeta.training.trainer import Trainer
from trainables.regularizers.dropout import Dropout

MODELS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "conv4": (Random((1, 16, 16)), {"name": "conv4", "width": 4}, 4),
    "resnet10": (Random((3, 32, 32)), {"name": "resnet10", "channels": [4, 4, 4, 4]}, 4),
    "resnet18": (Random((3, 32, 32)), {"name": "resnet18", "channels": [4, 4, 4, 4]}, 8),
    "mlp": (Random((3,), "values"), {"name": "mlp", "hidden": [6, 5]}, 2),
}


def context(made: Learner, seed: int = 0) -> Context:
    return Context(True, noise=noise_of(seed), hooks=hooks_of(made))


@pytest.mark.parametrize("unit", ["element", "channel"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_is_kept_and_how_it_is_scaled(unit: str, rate: float) -> None:
    problem, model, _ = MODELS["conv4"]
    made = learner(problem, model=model, regularizers={"dropout": {"rate": rate, "unit": unit}})
    drop, h = cast(Dropout, made.regularizers[0]), torch.rand(200, 50, 3, 3, dtype=torch.float64) + 1
    found = drop.on_block(h, "block1", context(made).at()) / h
    kept = found != 0
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - rate)))
    whole = kept.flatten(2).all(2) | ~kept.flatten(2).any(2)
    assert bool(whole.all()) is (unit == "channel")
    trials = 200 * 50 * (9 if unit == "element" else 1)
    assert float(kept.double().mean()) == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / trials) ** 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_every_block_is_perturbed_and_every_pass_anew(name: str) -> None:
    problem, model, blocks = MODELS[name]
    made = learner(problem, model=model, maml={"inner_steps": 2}, regularizers={"dropout": {}})
    drop, seen = cast(Dropout, made.regularizers[0]), list[tuple[float, ...]]()
    plain = drop.on_block

    def on_block(h: Any, layer: str, now: Any) -> Any:
        after = plain(torch.ones_like(h), layer, now)
        seen.append(tuple(after.flatten()[:20].tolist()))
        return h * after

    drop.on_block = on_block  # type: ignore[method-assign]
    (task,) = problem.tasks(1)
    made.query_loss(made.adapt(task.support, context(made)), task.query)
    assert len(seen) == 3 * blocks  # two support passes and the query's
    assert len(set(seen)) > 0.9 * len(seen)


@pytest.mark.parametrize("method", ["maml", "anil", "protonet", "relationnet"])
@pytest.mark.parametrize("tasks", ["loop", "vmap"])
def test_rate_0_is_the_plain_learner_and_evaluation_never_drops(method: str, tasks: str, glyphs: ImageDataset) -> None:
    small = {key: value for key, value in {**SMALL, **GLYPHS}.items() if key != "maml"}

    def trial(regularizers: dict[str, Any]) -> Trainer:
        return Trainer(
            parse_trial({**small, "method": method, "regularizers": regularizers, "engine": {"tasks": tasks}})
        )

    plain, zero, some = (trial(r) for r in ({}, {"dropout": {"rate": 0.0}}, {"dropout": {"rate": 0.5}}))
    assert plain.validate() == some.validate()
    metrics = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in (plain, zero, some)]
    # ANIL computes a task's features at every step then, and not once for all: rounding.
    assert metrics[1] == (pytest.approx(metrics[0], rel=1e-5) if method == "anil" else metrics[0])
    assert metrics[2] != pytest.approx(metrics[0], rel=1e-3)
