"""What an episode is made of: see `Traced` for how classes, images and turns are read off its pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import GLYPHS, joined, same_tasks, small_trial

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import Tasks
from raymeta.problems.images.episodes import ImageEpisodes
from raymeta.problems.images.task import ImagesTask
from raymeta.training.trainer import Trainer

PINNED_CLASSES, PINNED_IMAGES = [10, 4, 12, 1, 6], [5, 9, 18, 16, 11]


def draw(traced: Any, first: int, count: int, split: str = "train", seed: int = 0, **task: Any) -> Tasks:
    batch: Tasks = traced(ImagesTask(**task)).bank(split, seed, final=split == "test").draw(first, count)
    return batch


def read(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class, image number and quarter turns (counter-clockwise) of images [..., 1, 2, 2]."""
    pixels = (x * 255).round().numpy().astype(int)[..., 0, :, :]
    out = np.empty((3, *pixels.shape[:-2]), int)
    for place in np.ndindex(pixels.shape[:-2]):
        quarter = next(k for k in range(4) if np.rot90(pixels[place], -k)[1, 0] == 201)
        (out[0][place], out[1][place]), _ = np.rot90(pixels[place], -quarter)
        out[2][place] = quarter
    return out[0], out[1], out[2]


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), turned=st.booleans())
def test_batching_changes_nothing(traced: Any, first: int, cuts: list[int], turned: bool) -> None:
    task = ImagesTask(queries=3, rotations="always" if turned else "none")
    whole = traced(task).bank("train", 3).draw(first, sum(cuts))
    bank = traced(task).bank("train", 3)
    starts = [first + sum(cuts[:i]) for i in range(len(cuts))]
    parts = [bank.draw(start, count) for start, count in reversed(list(zip(starts, cuts, strict=True)))][::-1]
    assert same_tasks(whole, joined(*parts))


def test_seed_split_and_number_make_the_episode(traced: Any) -> None:
    drawn = [
        draw(traced, i, 1, split, seed).support.x
        for i in (0, 1)
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == len(drawn)


def test_stream_is_the_one_of_the_first_release(traced: Any) -> None:
    """A change here changes every validation score that was ever compared."""
    classes, images, _ = read(draw(traced, 7, 1, queries=1).support.x[0])
    assert classes.tolist() == PINNED_CLASSES
    assert images.tolist() == PINNED_IMAGES


@settings(max_examples=25, deadline=None)
@given(ways=st.integers(2, 5), shots=st.integers(1, 4), queries=st.integers(1, 16), split=st.sampled_from(
    ["train", "validation", "test"]))  # fmt: skip
def test_an_episode_is_ways_classes_with_support_and_query_apart(
    traced: Any, ways: int, shots: int, queries: int, split: str
) -> None:
    episodes = draw(traced, 11, 3, split, ways=ways, shots=shots, queries=queries)
    assert episodes.size == 3
    assert episodes.support.x.shape == (3, ways * shots, 1, 2, 2)
    assert episodes.support.x.dtype == torch.float32
    assert episodes.query.y.shape == (3, ways * queries)
    assert episodes.query.y.dtype == torch.int64
    allowed = {"train": range(13), "validation": range(13, 18), "test": range(18, 23)}[split]
    for i in range(3):
        (support_x, support_y), (query_x, query_y) = episodes.task(i)
        assert support_y.tolist() == [label for label in range(ways) for _ in range(shots)]
        assert query_y.tolist() == [label for label in range(ways) for _ in range(queries)]
        (support_class, support_image, _), (query_class, query_image, _) = read(support_x), read(query_x)
        by_label = dict(zip(support_y.tolist(), support_class.tolist(), strict=True))
        assert len(set(by_label.values())) == ways
        assert set(by_label.values()) <= set(allowed)
        assert support_class.tolist() == [by_label[label] for label in support_y.tolist()]
        assert query_class.tolist() == [by_label[label] for label in query_y.tolist()]
        used = list(zip([*support_class, *query_class], [*support_image, *query_image], strict=True))
        assert len(set(used)) == ways * (shots + queries)


def test_classes_labels_and_images_are_drawn_evenly(traced: Any) -> None:
    episodes = draw(traced, 0, 4000, ways=3, queries=1)
    classes, images, _ = read(episodes.support.x[:, :, :, :, :])
    for label in range(3):
        counts = np.bincount(classes[:, label], minlength=13)
        assert abs(counts - 4000 / 13).max() < 5 * (4000 / 13) ** 0.5
    assert abs(np.bincount(images.ravel(), minlength=20) - 600).max() < 5 * 600**0.5


def test_eval_queries_count_outside_training_only(traced: Any) -> None:
    task = {"queries": 2, "eval_queries": 4}
    assert draw(traced, 0, 1, "train", **task).query.y.shape == (1, 10)
    assert draw(traced, 0, 1, "validation", **task).query.y.shape == (1, 20)


@pytest.mark.parametrize(("rotations", "split", "turned"), [
    ("none", "train", False), ("train", "train", True), ("train", "validation", False), ("always", "validation", True),
])  # fmt: skip
def test_one_turn_per_class_and_episode(traced: Any, rotations: str, split: str, turned: bool) -> None:
    episodes = draw(traced, 0, 200, split, shots=2, queries=3, rotations=rotations)
    support, query = read(episodes.support.x)[2].reshape(200, 5, 2), read(episodes.query.x)[2].reshape(200, 5, 3)
    assert (support == support[..., :1]).all()
    assert (query == support[..., :1]).all()
    counts = np.bincount(support[..., 0].ravel(), minlength=4)
    assert (abs(counts - 250) < 70).all() if turned else counts.tolist() == [1000, 0, 0, 0]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_turn_is_a_class_of_its_own(traced: Any, split: str) -> None:
    there = {"train": range(13), "validation": range(13, 18), "test": range(18, 23)}[split]
    episodes = draw(traced, 0, 600, split, ways=6, shots=2, queries=3, rotations="classes")
    of_support, _, turned = (values.reshape(600, 6, 2) for values in read(episodes.support.x))
    of_query, _, query_turned = (values.reshape(600, 6, 3) for values in read(episodes.query.x))
    classes = of_support * 4 + turned
    assert (classes == classes[..., :1]).all()
    assert (of_query * 4 + query_turned == classes[..., :1]).all()
    drawn = classes[..., 0]
    assert all(len(set(task)) == 6 for task in drawn.tolist())
    assert any(len(set(task)) < 6 for task in of_support[..., 0].tolist())  # several turns of one
    counts = np.bincount(drawn.ravel() - 4 * there[0], minlength=4 * len(there))
    expected = 3600 / (4 * len(there))
    assert len(counts) == 4 * len(there)
    assert abs(counts - expected).max() < 5 * expected**0.5


def test_fixed_labels_are_of_turned_classes_too(traced: Any) -> None:
    label_of: dict[int, set[int]] = {}
    episodes = draw(traced, 0, 600, queries=1, labels="fixed", rotations="classes")
    of, _, turned = read(episodes.support.x)
    for label, one in zip(episodes.support.y.ravel().tolist(), (4 * of + turned).ravel().tolist(), strict=True):
        label_of.setdefault(one, set()).add(label)
    assert sorted(label_of) == list(range(52))
    assert all(len(labels) == 1 for labels in label_of.values())


def test_turns_leave_the_draw_as_it_is(traced: Any) -> None:
    plain, turned = (draw(traced, 0, 5, rotations=rotations).query.x for rotations in ("none", "always"))
    assert (np.stack(read(plain)[:2]) == np.stack(read(turned)[:2])).all()
    assert not torch.equal(plain, turned)


def test_fixed_labels_are_one_partition_for_all_seeds(traced: Any) -> None:
    label_of: dict[int, set[int]] = {}
    for seed in (0, 1):
        episodes = draw(traced, 0, 400, seed=seed, queries=1, labels="fixed")
        for label, one in zip(episodes.support.y.ravel().tolist(), read(episodes.support.x)[0].ravel(), strict=True):
            label_of.setdefault(int(one), set()).add(label)
    assert sorted(label_of) == list(range(13))
    assert all(len(labels) == 1 for labels in label_of.values())
    assert sorted(np.bincount([labels.pop() for labels in label_of.values()]).tolist()) == [2, 2, 3, 3, 3]


def test_fixed_labels_leave_evaluation_ordinary(traced: Any) -> None:
    assert same_tasks(draw(traced, 0, 9, "validation", labels="fixed"), draw(traced, 0, 9, "validation"))


def test_fewer_training_classes_are_a_part_of_more_and_evaluation_is_ordinary(traced: Any) -> None:
    def seen(wanted: int | None, seed: int = 0) -> set[int]:
        return set(read(draw(traced, 0, 200, seed=seed, train_classes=wanted).support.x)[0].ravel().tolist())

    few, more = seen(6), seen(9)
    assert (len(few), len(more), len(seen(None))) == (6, 9, 13)
    assert few < more
    assert seen(6, seed=5) == few
    assert same_tasks(draw(traced, 0, 9, "validation", train_classes=6), draw(traced, 0, 9, "validation"))


@settings(max_examples=25, deadline=None)
@given(
    tasks=st.integers(1, 5),
    first=st.integers(0, 10**6),
    labels=st.sampled_from(["shuffled", "fixed"]),
    rotations=st.sampled_from(["none", "train", "classes"]),
)
def test_tasks_of_an_outer_step_share_classes_labels_and_turns_but_no_draw_of_images(
    traced: Any, tasks: int, first: int, labels: str, rotations: str
) -> None:
    """Those of the step's first task; in which batches they are drawn has no say, and images are as without sharing."""
    task = {"queries": 3, "shots": 2, "labels": labels, "rotations": rotations}
    bank = traced(ImagesTask(**task, share_classes=True)).training_bank(3, tasks)
    found = bank.draw(first, 7)
    assert same_tasks(found, joined(*(bank.draw(first + i, 1) for i in range(7))))
    for i in range(7):
        number = first + i
        lead = draw(traced, number - number % tasks, 1, seed=3, **task)
        own = draw(traced, number, 1, seed=3, **task)
        for part, of_lead, of_own in zip(found, lead, own, strict=True):
            (classes, images, turns), expected = read(part.x[i]), read(of_lead.x[0])
            assert (classes == expected[0]).all()
            assert (turns == expected[2]).all()
            assert (images == read(of_own.x[0])[1]).all()
            assert torch.equal(part.y[i], of_lead.y[0])


def test_steps_draw_their_classes_evenly_and_evaluation_shares_none(traced: Any) -> None:
    task = ImagesTask(ways=3, queries=1, share_classes=True)
    classes = read(traced(task).training_bank(0, 4).draw(0, 4000).support.x)[0].reshape(1000, 4, 3)
    assert (classes == classes[:, :1]).all()
    for label in range(3):
        counts = np.bincount(classes[:, 0, label], minlength=13)
        assert abs(counts - 1000 / 13).max() < 5 * (1000 / 13) ** 0.5
    for split in ("validation", "test"):
        assert same_tasks(draw(traced, 0, 9, split, share_classes=True), draw(traced, 0, 9, split))


def test_a_sampler_that_draws_the_ways_shares_no_classes() -> None:
    with pytest.raises(UserError) as caught:
        parse_trial({"method": "maml", "task": {"sampler": "metadataset", "share_classes": True}})
    assert str(caught.value) == (
        "config: task: share_classes: found true, but sampler metadataset draws classes task by task; allowed: false"
    )


def test_a_trainer_draws_the_classes_of_a_step_once(glyphs: Any) -> None:
    """Whatever is drawn at once: every task's support set is of one draw of classes, steps of others."""

    def centres(**task: Any) -> torch.Tensor:
        outer = {"tasks_per_step": 3}
        made = Trainer(small_trial(GLYPHS, task={"ways": 3, "shots": 10, "queries": 2, **task}, outer=outer))
        found = []
        for made.outer_step in range(4):
            x = made.tasks_of_step().support.x
            found.append(x.unflatten(1, (3, 10)).mean(2).flatten(2))
        return torch.stack(found)  # [steps, tasks, ways, pixels]

    shared, own = centres(share_classes=True), centres()
    assert torch.equal(shared[:, 0], own[:, 0])
    between = (shared[:, :1] - shared[:, 1:]).norm(dim=-1).max()
    steps = (shared[0, 0] - shared[1:, 0]).norm(dim=-1)
    assert between > 0, "images are the same, too"
    assert float(between) < float(steps.median())
    assert float((own[:, :1] - own[:, 1:]).norm(dim=-1).median()) > float(between)


def test_pixels_are_scaled_and_standardised(traced: Any) -> None:
    class Standardised(traced):  # type: ignore[misc]
        mean, std = (0.5,), (0.25,)

    plain = draw(traced, 0, 2).query.x
    assert set((plain * 255).unique().round().int().tolist()) <= {*range(23), 201, 202}
    assert torch.allclose(draw(Standardised, 0, 2).query.x, (plain - 0.5) / 0.25)


def test_classes_of_different_sizes_give_only_their_own_images(traced: Any) -> None:
    store = traced(ImagesTask()).store
    store.sizes = store.sizes.copy()
    store.sizes[:13] = np.arange(4, 17)
    bank = ImageEpisodes(store, ImagesTask(queries=3), "train", 0)
    classes, images, _ = read(bank.draw(0, 300).query.x)
    assert (images < classes + 4).all()
    assert all((images[classes == one] == one + 3).any() for one in range(13))


@pytest.mark.parametrize(("split", "task", "message"), [
    ("validation", {"ways": 6}, "task.ways: found 6, but the validation split of traced (standard) has 5 classes"),
    ("train", {"shots": 6}, "task: 6 shots and 15 queries are 21 images per class, but class 'class 0' in the train "
     "split of traced (standard) has 20"),
    ("train", {"train_classes": 14}, "task.train_classes: found 14, but the train split of traced (standard) has 13"),
    ("train", {"ways": 53, "rotations": "classes"}, "task.ways: found 53, but the train split of traced (standard) has "
     "52 classes"),
    ("train", {"train_classes": 4}, "task.ways: found 5, but the train split of traced (standard) has 4 classes"),
])  # fmt: skip
def test_too_few_classes_or_images_are_one_sentence(traced: Any, split: Any, task: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        traced(ImagesTask(**task)).bank(split, 0)
    assert str(caught.value) == message
