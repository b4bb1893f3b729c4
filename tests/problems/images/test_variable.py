"""Meta-Dataset's sampler: what it draws is within its bounds and its formulas', and every learner can train on it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images.test_episodes import read
from reference import same_tasks

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import predictions
from raymeta.problem import Tasks, parse_task
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask, MetaDatasetConfig
from raymeta.problems.images.variable import VariableEpisodes, support_counts
from raymeta.schema import check, merge
from raymeta.testing import checks, small_trial
from raymeta.training.trainer import Trainer

SMALL = {"sampler": "metadataset", "metadataset": {"min_ways": 2, "max_ways": 4, "max_queries": 3, "max_support": 12}}


def bank(traced: Any, split: str = "train", seed: int = 0, sizes: Any = None, **task: Any) -> VariableEpisodes:
    dataset = traced(check(ImagesTask, {"sampler": "metadataset", **task}, "task"))
    if sizes is not None:
        dataset.store.sizes = np.array(sizes)
    found: VariableEpisodes = dataset.bank(split, seed, final=split == "test")
    return found


def ways_of(episode: Tasks) -> int:
    """Classes of the one episode, each of which has support images."""
    return len(counts(episode.support.y))


def counts(y: torch.Tensor) -> list[int]:
    return torch.bincount(y[0]).tolist()


def test_an_episode_is_within_the_bounds_and_has_no_image_twice(traced: Any) -> None:
    drawn, ways, shapes = bank(traced), [], set()
    for number in range(120):
        episode = drawn.draw(number, 1)
        support, query = counts(episode.support.y), counts(episode.query.y)
        ways.append(ways_of(episode))
        shapes.add(tuple(support))
        assert len(query) == ways_of(episode)
        assert set(query) == {10}  # half of 20
        assert all(1 <= shots <= 10 for shots in support)
        (of, image, _), (of_query, query_image, _) = read(episode.support.x[0]), read(episode.query.x[0])
        by_label = dict(zip(episode.support.y[0].tolist(), of.tolist(), strict=True))
        assert len(set(by_label.values())) == ways_of(episode)
        assert [by_label[label] for label in episode.support.y[0].tolist()] == of.tolist()
        assert [by_label[label] for label in episode.query.y[0].tolist()] == of_query.tolist()
        used = [
            *zip(of.tolist(), image.tolist(), strict=True),
            *zip(of_query.tolist(), query_image.tolist(), strict=True),
        ]
        assert len(set(used)) == len(used)
        assert episode.support.y[0].tolist() == sorted(episode.support.y[0].tolist())
    # 13 training classes: 5 to 13 ways, evenly
    assert set(ways) == set(range(5, 14))
    assert abs(np.bincount(ways)[5:] - 120 / 9).max() < 5 * (120 / 9) ** 0.5
    assert sum(len(set(shape)) > 1 for shape in shapes) > 60  # classes are unbalanced


@settings(max_examples=100, deadline=None)
@given(data=st.data(), ways=st.integers(2, 20), beta=st.floats(0, 1, exclude_max=True))
def test_support_counts_are_the_papers_formulas(data: st.DataObject, ways: int, beta: float) -> None:
    numbers = st.lists(st.integers(2, 400), min_size=ways, max_size=ways)
    sizes = np.array(data.draw(numbers))
    alphas = np.array(data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=ways, max_size=ways)))
    queries = min(10, int(sizes.min()) // 2)
    left = sizes - queries
    found = support_counts(sizes, left, beta, alphas, MetaDatasetConfig()).tolist()
    whole = min(500, sum(math.floor(beta * min(100, int(one)) + 1) for one in left))
    weight = [
        math.exp(math.log(0.5) + (math.log(2) - math.log(0.5)) * a) * int(c) for a, c in zip(alphas, sizes, strict=True)
    ]
    for k, w, one in zip(found, weight, left.tolist(), strict=True):
        share = w / sum(weight) * (whole - ways)
        near = {min(math.floor(share + slack) + 1, one) for slack in (-1e-9, 0, 1e-9)}  # a floor's edge is rounding's
        assert k in near
        assert 1 <= k <= one
    assert sum(found) <= whole


def test_without_imbalance_equal_classes_get_equal_shots() -> None:
    bounds, sizes = MetaDatasetConfig(imbalance=1.0), np.full(6, 20)
    assert len(set(support_counts(sizes, sizes - 10, 0.7, np.linspace(0, 0.9, 6), bounds).tolist())) == 1


def test_the_smallest_class_of_an_episode_says_how_many_queries(traced: Any) -> None:
    drawn = bank(traced, sizes=[3, *[20] * 22], metadataset={"min_ways": 2, "max_ways": 3})
    seen = {}
    for number in range(80):
        episode = drawn.draw(number, 1)
        small = 0 in read(episode.support.x[0])[0].tolist()
        seen.setdefault(small, set()).update(counts(episode.query.y))
    assert seen == {True: {1}, False: {10}}


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 10**6), others=st.lists(st.integers(0, 10**6), max_size=3))
def test_an_episode_is_a_function_of_its_number(traced: Any, number: int, others: list[int]) -> None:
    used = bank(traced)
    for other in others:
        used.draw(other, 1)
    assert same_tasks(used.draw(number, 1), bank(traced).draw(number, 1))


def test_other_seeds_and_splits_are_other_episodes(traced: Any) -> None:
    drawn = [
        bank(traced, split, seed).draw(0, 1).query.x for split in ("train", "validation", "test") for seed in (0, 1)
    ]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 6


def test_the_stream_is_pinned(traced: Any) -> None:
    """A change here changes every score of this sampler that was ever compared."""
    episode = bank(traced).draw(7, 1)
    of, image, _ = read(episode.query.x[0])
    assert counts(episode.support.y) == [4, 9, 4, 10, 7, 9, 9, 5, 4, 10, 10, 5]
    assert of[::10].tolist() == [7, 4, 1, 9, 10, 11, 0, 5, 6, 2, 8, 12]
    assert image[:4].tolist() == [10, 8, 7, 3]


def test_turns_are_per_class_and_each_turn_may_be_a_class(traced: Any) -> None:
    for rotations in ("always", "classes"):
        drawn = bank(traced, rotations=rotations)
        quarters = set()
        for number in range(8):
            episode = drawn.draw(number, 1)
            turned = [
                {(y, k) for y, k in zip(y[0].tolist(), read(x[0])[2].tolist(), strict=True)}
                for x, y in ((episode.support.x, episode.support.y), (episode.query.x, episode.query.y))
            ]
            assert turned[0] == turned[1]
            assert len(turned[0]) == ways_of(episode)
            quarters |= {k for _, k in turned[0]}
        assert quarters == {0, 1, 2, 3}
    assert max(ways_of(drawn.draw(number, 1)) for number in range(40)) > 13  # 52 classes


def test_several_at_once_are_refused(traced: Any) -> None:
    with pytest.raises(ValueError, match="2 episodes of different shapes were asked for at once: take them one by one"):
        bank(traced).draw(0, 2)


@pytest.mark.parametrize(("task", "sizes", "message"), [
    ({"metadataset": {"min_ways": 14}}, None, "task.metadataset.min_ways: found 14, but the train split of traced "
     "(standard) has 13 classes"),
    ({}, [20, 1, *[20] * 21], "task.sampler: metadataset needs two images of a class, one each for support and query, "
     "but class 'class 1' in the train split of traced (standard) has 1"),
    ({"metadataset": {"min_ways": 6, "max_ways": 5}}, None, "task: metadataset: expected min_ways (6) <= max_ways (5) "
     "<= max_support (500)"),
    ({"labels": "fixed"}, None, "task: labels: found 'fixed', but sampler metadataset draws the ways; allowed: "
     "shuffled"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_sentence(traced: Any, task: dict[str, Any], sizes: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        bank(traced, sizes=sizes, **task)
    assert str(caught.value) == message


def trial(spec: str, **more: Any) -> Any:
    return small_trial(spec, config=merge({"task": SMALL}, more))


@pytest.mark.parametrize("spec", ["maml", "anil", "protonet", "matchingnet", "relationnet", "protomaml"])
def test_a_task_has_as_many_outputs_as_ways(glyphs: ImageDataset, spec: str) -> None:
    trainer = Trainer(trial(spec))
    drawn = trainer.problem.bank("validation", 0)
    shapes = set()
    for number in range(4):
        episode = drawn.draw(number, 1)
        with torch.no_grad():
            outputs = predictions(trainer.learner, episode, False)
        assert outputs.shape == (1, episode.query.y.shape[1], ways_of(episode))
        shapes.add(outputs.shape)
    assert len(shapes) > 1
    assert trainer.validate()["val_accuracy"] > 0


def test_outputs_that_a_task_does_not_use_get_no_gradient(glyphs: ImageDataset) -> None:
    trainer = Trainer(trial("maml"))
    drawn, number = trainer.problem.bank("train", 0), 0
    while ways_of(drawn.draw(number, 1)) != 2:
        number += 1
    trainer.accumulate(drawn.draw(number, 1))
    gradient = trainer.learner.model.head.weight.grad
    assert gradient.shape[0] == 4
    assert (gradient[:2].abs().sum(1) > 0).all()
    assert (gradient[2:] == 0).all()


def test_an_outer_step_weighs_its_tasks_alike_whatever_their_shapes(glyphs: ImageDataset) -> None:
    trainer = Trainer(trial("maml+dropgrad", outer={"tasks_per_step": 3}))
    loss = trainer.outer_gradient()
    together = {n: p.grad.clone() for n, p in trainer.learner.named_parameters() if p.grad is not None}
    losses, sums = [], {name: torch.zeros_like(gradient) for name, gradient in together.items()}
    for first in range(3):
        trainer.learner.zero_grad()
        losses.append(trainer.accumulate(trainer.problem.bank("train", 0).draw(first, 1), first))
        for name, parameter in trainer.learner.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad
    assert loss == pytest.approx(sum(losses) / 3)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sums[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("spec", "more", "message"), [
    ("maml+taml", {"regularizers": {"taml": {"measure": "theil"}}}, "task.sampler: found 'metadataset', but taml "
     "compares the tasks of an outer step, which must then be of one shape; allowed: fixed"),
    ("maml+metamix", {}, "regularizers.metamix.shuffle: found 0.5, but it pairs the images of classes, which differ in "
     "size in glyphs-metadataset; allowed: 0"),
    ("maml", {"engine": {"tasks": "vmap"}}, "engine.tasks: found 'vmap', but glyphs-metadataset has tasks of "
     "different shapes; allowed: auto, loop"),
])  # fmt: skip
def test_what_needs_tasks_of_one_shape_is_refused(glyphs: ImageDataset, spec: str, more: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Trainer(trial(spec, **more))
    assert str(caught.value) == message


def test_a_curve_has_no_classes_to_draw() -> None:
    with pytest.raises(UserError, match=r"^config: unknown key 'task\.sampler', allowed: .*shots$"):
        parse_trial({"method": "maml", "task": {"problem": "sinusoid", "sampler": "metadataset"}})
    with pytest.raises(
        UserError, match=r"^--task sinusoid-metadataset: expected sinusoid-<shots>s, as in sinusoid-10s$"
    ):
        parse_task("sinusoid-metadataset")


def test_it_is_named_on_the_command_line_and_shapes_are_not() -> None:
    from raymeta.study.plan.plan import make_config

    config = make_config("maml", "glyphs-metadataset", words=["task.metadataset.max_ways=20"])
    assert (config.task.sampler, config.task.metadataset.max_ways, config.task.name) == (
        "metadataset", 20, "glyphs-metadataset",
    )  # fmt: skip
    assert parse_trial(config.as_dict()) == config
    for task, words in (("glyphs-5w1s", ["task.sampler=metadataset"]), ("glyphs-metadataset", ["task.ways=3"])):
        with pytest.raises(UserError, match=r"^task\.ways: it was given, but sampler metadataset draws it, within the"):
            make_config("maml", task, words=words)


def few_and_all(*quick: str, others: tuple[str, ...]) -> list[Any]:
    """Every check of the conformance suite for some compositions; of the others in the slow suite only."""
    cases = [(spec, one) for spec in (*quick, *others) for one in checks(spec)]
    marks: dict[bool, Any] = {True: pytest.mark.slow, False: ()}
    return [pytest.param(s, one, marks=marks[s in others], id=f"{s}-{one.__name__}") for s, one in cases]


@pytest.mark.parametrize(("spec", "one"), few_and_all("maml", "protonet", others=(
    "alfa", "anil", "boil", "cavia", "cxgrad", "l2f", "mamlpp", "matchingnet", "metasgd", "modgrad", "protomaml",
    "relationnet", "maml+aug", "maml+dropgrad", "maml+dropout", "maml+maxup", "maml+metadropout", "maml+metamix",
    "maml+mgaug", "maml+mr", "maml+taml", "maml+taskaug", "protonet+maxup", "anil+metadropout",
)))  # fmt: skip
def test_learners_conform(glyphs: ImageDataset, spec: str, one: Callable[[Any], None]) -> None:
    own = {"regularizers": {"metamix": {"shuffle": 0.0}}} if "metamix" in spec else {}
    one(trial(spec, outer={"tasks_per_step": 1}, **own))
