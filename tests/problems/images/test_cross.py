"""Tests on another data set: its pixels against filters written out, what is opened when, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import dataset
from reference import Random, same_tasks

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.finals import runs as finals
from raymeta.finals.folders import folder_of
from raymeta.problem import Split, Tasks, TestSplitClosed
from raymeta.problems.images.cross import fitted
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, build_store
from raymeta.problems.uniforms import Uniforms
from raymeta.training.trainer import Trainer

SMALL = {"ways": 3, "shots": 2, "queries": 4, "eval_queries": 5}
MEAN, STD = (np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def pack(made: ImageDataset, counts: tuple[int, int, int], per_class: int = 8) -> ImageDataset:
    """A store of noise in place of the published images; the first pixel of an image is its class."""
    total = sum(counts)
    images = np.random.default_rng(7).integers(0, 256, (total * per_class, *made.input_shape), np.uint8)
    ends = np.cumsum((0, *counts)).tolist()
    splits = {name: range(ends[i], ends[i + 1]) for i, name in enumerate(("train", "validation", "test"))}
    content = Packed(
        images, [f"class {i}" for i in range(total)], [per_class] * total, dict.fromkeys(made.splits, splits)
    )
    build_store(made.folder, made._about(), lambda scratch: content, rebuild=False)
    return made


@pytest.fixture
def stores(cache: Path) -> None:
    """Small miniImageNet (colour, 84x84), CIFAR-FS (colour, 32x32) and Omniglot (grey, 28x28)."""
    pack(dataset("miniimagenet"), (6, 4, 5))
    pack(dataset("cifarfs"), (5, 3, 4))
    pack(dataset("omniglot"), (5, 3, 4))


def across(other: str | None, **task: Any) -> ImageDataset:
    return dataset("miniimagenet", test_dataset=other, **{**SMALL, **task})


def batch(made: ImageDataset, split: Split, first: int = 0, count: int = 3) -> Tasks:
    return made.bank(split, 0, final=split == "test").draw(first, count)


def triangle(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resampled along an axis by a triangle as wide as a pixel of the smaller image: the definition, in float64."""
    before = pixels.shape[axis]
    step = before / length
    width = max(step, 1.0)
    centres = (np.arange(length) + 0.5) * step
    weights = np.maximum(0, 1 - abs(np.arange(before) + 0.5 - centres[:, None]) / width)
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, pixels.astype(float), (1, axis)), 0, axis)


@given(
    channels=st.sampled_from([1, 3]), size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 99),
)  # fmt: skip
def test_resizing_is_the_triangle_filter_and_grey_is_replicated(
    channels: int, size: tuple[int, int], to: tuple[int, int], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, channels, *size), np.uint8)
    found = fitted(pixels, (3, *to))
    assert (found.shape, found.dtype) == ((2, 3, 3, *to), np.uint8)
    expected = triangle(triangle(pixels, to[1], -1), to[0], -2)
    assert abs(found - np.broadcast_to(expected, found.shape)).max() <= 1.01  # Pillow rounds after each axis
    if size == to:
        assert (found == pixels).all()


@pytest.mark.parametrize("other", ["cifarfs", "omniglot"])
def test_a_test_task_is_the_other_test_split_as_the_trained_models_see_it(other: str, stores: None) -> None:
    there = dataset(other, **SMALL, rotations="none")
    raw = batch(there, "test")  # the other's own episodes: same seed rule, so same classes, images and labels
    found = batch(across(other), "test")
    assert found.support.x.shape == (3, 6, 3, 84, 84)
    assert found.query.x.shape == (3, 15, 3, 84, 84)
    assert torch.equal(found.support.y, raw.support.y)
    assert torch.equal(found.query.y, raw.query.y)
    for x, theirs in ((found.support.x, raw.support.x), (found.query.x, raw.query.x)):
        small = there.store.pixels(theirs.numpy())
        large = triangle(triangle(small, 84, -1), 84, -2) / 255
        assert abs(x.numpy() - (large - MEAN) / STD).max() <= 1.01 / 255 / STD.min()
        # They are images of the other's test classes, of none else.
        of_test = np.concatenate([there.store.images[there.store.starts[c] :][:8] for c in there.store.classes("test")])
        known = {image.tobytes() for image in of_test}
        assert all(image.tobytes() in known for image in small.reshape(-1, *small.shape[2:]))


def test_training_and_validation_are_as_without(stores: None) -> None:
    for split in ("train", "validation"):
        assert same_tasks(batch(across("cifarfs"), split), batch(across(None), split))
    assert across("cifarfs").fingerprint == across(None).fingerprint


def test_rotations_are_the_tasks(stores: None) -> None:
    plain, turned = (batch(across("omniglot", rotations=r), "test", count=20).query.x for r in ("none", "always"))
    turns = (Uniforms("omniglot", "finn", "test", 0).rows(0, 20, 3) * 4).astype(int)
    for task, way in np.ndindex(turns.shape):
        for query in range(5 * way, 5 * way + 5):
            upright = torch.rot90(plain[task, query], int(turns[task, way]), (-2, -1))
            assert (turned[task, query] - upright).abs().max() <= 1.01 / 255 / STD.min()  # Pillow's rounding


def test_only_a_final_run_opens_it(stores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        "raymeta.problems.images.store.Store.classes",
        lambda store, split: opened.append(split) or store._classes[split],
    )
    made = across("cifarfs")
    with pytest.raises(TestSplitClosed):
        made.bank("test", 0)
    made.bank("train", 0)
    made.bank("validation", 0)
    assert opened == ["train", "validation"]
    made.bank("test", 0, final=True)
    assert opened[2:] == ["test"]


def trial(other: str | None, **task: Any) -> TrialConfig:
    return parse_trial(
        {
            "method": "maml", "maml": {"inner_steps": 1}, "model": {"name": "conv4", "width": 4},
            "task": {"dataset": "miniimagenet", **SMALL, "test_dataset": other, **task},
            "outer": {"tasks_per_step": 2}, "engine": {"device": "cpu"},
            "budget": {"outer_steps": 2, "validate_every": 1, "validation_tasks": 3, "test_tasks": 6},
        }
    )  # fmt: skip


def test_selection_is_on_the_own_data_set_and_the_test_on_the_other(stores: None) -> None:
    runs = [Trainer(trial(other)) for other in (None, "cifarfs")]
    for run in runs:
        while not run.done:
            run.round()
    plain, crossed = ([{k: v for k, v in entry.items() if k != "seconds"} for entry in run.rounds] for run in runs)
    assert plain == crossed
    score, _ = runs[1].test()
    bank = across("cifarfs").bank("test", 0, final=True)
    assert runs[1].best is not None
    expected = runs[1].evaluate(bank, 6, [runs[1].best["weights"]])
    assert torch.equal(score.values, expected.values)
    assert not torch.equal(score.values, runs[0].test()[0].values)


WRONG: dict[str, tuple[str, str | None, dict[str, Any], str]] = {
    "another problem's data": ("miniimagenet", "noise", {}, "'noise', which is not made of images"),
    "another problem": ("miniimagenet", "sinusoid", {}, "unknown data set 'sinusoid': allowed: cifarfs"),
    "unknown": ("miniimagenet", "cifarfz", {}, "unknown data set 'cifarfz': did you mean 'cifarfs'?"),
    "itself": ("miniimagenet", "miniimagenet", {}, "which is the task's own data set: leave it out"),
    "a folder": ("miniimagenet", "folder", {}, "only data sets without task.source can be tested on"),
    "colour for grey": ("omniglot", "cifarfs", {}, "whose images are colour: models of omniglot take grey ones"),
    "the same images": ("cifarfs", "fc100", {}, "'fc100', whose images are those of cifarfs"),
    "not ready": ("miniimagenet", "cub", {}, "run `raymeta data prepare cub`"),
    "ways": (
        "miniimagenet", "cifarfs", {"ways": 4, "queries": 1, "shots": 9},
        "9 shots and 5 queries are 14 images per class, but class 'class 8' in the test split of cifarfs",
    ),
    "classes": (
        "miniimagenet", "cifarfs", {"ways": 5}, "task.ways: found 5, but the test split of cifarfs (cifar-fs) has 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_sentence_before_any_training(case: str, stores: None, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    name, other, task, message = WRONG[case]
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    monkeypatch.setitem(registry._classes, ("dataset", "noise"), Random)
    with pytest.raises(UserError) as caught:
        finals.final({"maml": trial(other, dataset=name, **task)}, [0])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "studies").exists()


def test_a_problem_without_images_is_tested_on_no_other_data() -> None:
    with pytest.raises(UserError, match=r"^config: unknown key 'task\.test_dataset', allowed: .*shots$"):
        parse_trial({"method": "maml", "task": {"problem": "sinusoid", "test_dataset": "cifarfs"}})


@pytest.mark.ray
def test_a_whole_final_run(stores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    # Ray keeps a process's first mode for the process's whole life, and the clusters of other tests have no token:
    # their nodes could not call this process, which owns what it puts into the object store.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    config = trial("omniglot", queries=2)
    (table,), problems, _ = finals.final({"maml": config}, [0], slots=1)
    assert problems == []
    alone = Trainer(config)
    while not alone.done:
        alone.round()
    assert table.seeds[0].values == pytest.approx(alone.test()[0].values.tolist())
    kept = json.loads((table.folder / "table.json").read_text())
    assert kept["task"]["test_dataset"] == "omniglot"
    assert folder_of("maml", config) != folder_of("maml", trial(None, queries=2))
