"""TaskAug: what turns, how often, when, and that a class turns as a whole."""

from typing import Any, cast

import pytest
import torch
from reference import GLYPHS, Random, learner, same_tasks, small_trial
from torch import Tensor

from raymeta.errors import UserError
from raymeta.problem import Examples, Tasks
from raymeta.problems.images.dataset import ImageDataset
from raymeta.training.trainer import Trainer
from trainables.regularizers.taskaug import TaskAug

WAYS, SHOTS, QUERIES = 3, 2, 4


def regularizer(**settings: Any) -> TaskAug:
    return cast(TaskAug, learner(Random((1, 16, 16)), regularizers={"taskaug": settings}).regularizers[0])


def episodes(tasks: int) -> Tasks:
    generator = torch.Generator().manual_seed(0)
    labels = [torch.arange(WAYS).repeat_interleave(count).expand(tasks, -1) for count in (SHOTS, QUERIES)]
    x = [torch.rand(tasks, WAYS * count, 2, 5, 5, generator=generator) for count in (SHOTS, QUERIES)]
    return Tasks(*(Examples(*pair) for pair in zip(x, labels, strict=True)))


def quarters(before: Tensor, after: Tensor) -> Tensor:
    """By how many quarters every image turned, [T, n]; 4 if it is no turn at all."""
    turned = torch.stack([before.rot90(quarter, (-2, -1)) for quarter in range(4)])
    same = (turned == after).flatten(3).all(3)
    assert (same.sum(0) == 1).all(), "an image was changed otherwise"
    return same.int().argmax(0)


def turns(before: Tasks, after: Tasks) -> Tensor:
    """Of every class, [T, N]; support and query alike."""
    support, query = quarters(before.support.x, after.support.x), quarters(before.query.x, after.query.x)
    every = torch.cat([support.view(-1, WAYS, SHOTS), query.view(-1, WAYS, QUERIES)], 2)
    assert (every == every[..., :1]).all()
    assert torch.equal(before.support.y, after.support.y)
    assert torch.equal(before.query.y, after.query.y)
    return every[..., 0]


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_a_class_turns_with_the_rate_and_every_turn_is_as_likely(rate: float) -> None:
    before = episodes(2000)
    found = turns(before, regularizer(rate=rate, ramp=0).on_tasks(before, 0.0, torch.Generator().manual_seed(1)))
    deviation = 1 / (WAYS * 2000) ** 0.5
    for quarter, expected in enumerate([1 - rate, rate / 3, rate / 3, rate / 3]):
        spread = 4.5 * (expected * (1 - expected)) ** 0.5 * deviation
        assert float((found == quarter).double().mean()) == pytest.approx(expected, abs=spread + 1e-12)


def test_the_rate_grows_with_the_budget() -> None:
    before, drop = episodes(1000), regularizer(rate=1.0, ramp=0.5)
    for progress, expected in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        after = drop.on_tasks(before, progress, torch.Generator().manual_seed(2))
        share = float((turns(before, after) > 0).double().mean())
        assert share == pytest.approx(expected, abs=0.05 if 0 < expected < 1 else 0)


def test_episodes_are_not_changed_in_place() -> None:
    before = episodes(3)
    kept = before.map(torch.clone)
    regularizer(rate=1.0, ramp=0).on_tasks(before, 0.0, torch.Generator().manual_seed(3))
    assert same_tasks(before, kept)


def test_the_trainer_turns_other_classes_at_every_step_the_same_for_a_seed(glyphs: ImageDataset) -> None:
    def seen(seed: int) -> list[Tensor]:
        trainer = Trainer(small_trial(GLYPHS, regularizers={"taskaug": {"rate": 0.75, "ramp": 0}}, seed=seed))
        found: list[Tensor] = []
        regularizer = cast(TaskAug, trainer.learner.regularizers[0])
        plain = regularizer.on_tasks

        def on_tasks(before: Tasks, progress: float, generator: torch.Generator) -> Tasks:
            x = torch.rand(3, 3, 1, 5, 5), torch.rand(3, 6, 1, 5, 5)
            ones = Tasks(*(Examples(images, part.y) for images, part in zip(x, before, strict=True)))
            state = generator.get_state()
            found.append(quarters(ones.support.x, plain(ones, progress, generator).support.x))
            generator.set_state(state)
            return plain(before, progress, generator)

        regularizer.on_tasks = on_tasks  # type: ignore[method-assign, assignment]
        for _ in range(4):
            trainer.outer_update()
        return found

    one, again, other = seen(0), seen(0), seen(1)
    assert all(map(torch.equal, one, again))
    assert not all(map(torch.equal, one, other))
    assert len({tuple(turns.flatten().tolist()) for turns in one}) > 1


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match=r"^taskaug turns square images only: found 16x32$"):
        learner(Random((1, 16, 32)), regularizers={"taskaug": {}})
