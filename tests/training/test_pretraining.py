"""Pre-training: plain classification of the training classes, kept once, and where a method starts from."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.training import pretraining
from raymeta.training.pretraining import load_pretrained, pretrained

CPU = torch.device("cpu")
TRAIN, IMAGES = 6, 8


class Stripes(ImageDataset):
    """A class is a place of a bright stripe, under noise; the held-out classes are black."""

    name: ClassVar[str] = "stripes"
    input_shape: ClassVar[tuple[int, ...]] = (1, 16, 16)

    def build(self, root: Path | None, progress: Progress) -> Packed:
        images = np.zeros((TRAIN + 4, IMAGES, 1, 16, 16), np.uint8)
        images[:TRAIN] = np.random.default_rng(0).integers(0, 90, images[:TRAIN].shape)
        for one in range(TRAIN):
            images[one, :, 0, 2 * one : 2 * one + 2] += 100
        split = {"train": range(TRAIN), "validation": range(TRAIN, TRAIN + 2), "test": range(TRAIN + 2, TRAIN + 4)}
        names = [f"class {i}" for i in range(TRAIN + 4)]
        return Packed(images.reshape(-1, 1, 16, 16), names, [IMAGES] * (TRAIN + 4), {"standard": split})


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stripes:
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    data = Stripes(config().task)
    data.prepare()
    return data


def config(method: str = "maml", **pre: Any) -> TrialConfig:
    settings = {"epochs": 2, "batch_size": 8, **pre}
    return reference.parse_trial(
        {"method": method, "model": {"name": "conv4", "width": 4}, "task": {"ways": 2}, "pretraining": settings}
    )


def files(data: Stripes) -> list[Path]:
    return sorted(data.folder.parent.glob("pretrained-*.pt"))


def pixels(data: Stripes, rows: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(data.store.images[rows].astype(np.float32) / 255)


def test_it_is_adam_on_the_cross_entropy_of_all_training_classes(stripes: Stripes) -> None:
    found = pretrained(config(), stripes, CPU)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = pretraining.backbone(config(), stripes.input_shape, TRAIN)
    weights = {name: w.detach().clone().requires_grad_() for name, w in start.weights().items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=1e-3)
    seen = []
    for epoch in range(2):
        order = np.random.Generator(np.random.Philox([0, epoch])).random(TRAIN * IMAGES).argsort()
        for rows in order.reshape(-1, 8):
            outputs = reference.conv4()(pixels(stripes, rows), weights, 0, None)
            optimizer.zero_grad()
            F.cross_entropy(outputs, torch.from_numpy(rows // IMAGES)).backward()
            optimizer.step()
        seen.append(sorted(order))
    assert seen == [list(range(TRAIN * IMAGES))] * 2
    moved = 0.0
    for name, weight in weights.items():
        if name.startswith("block") and name.endswith(".bias") and ".norm." not in name:
            continue  # before a norm: its gradient is rounding, of which Adam makes a whole step
        torch.testing.assert_close(found[name], weight.detach(), rtol=2e-3, atol=2e-4)
        moved = max(moved, float((weight - start.weights()[name]).detach().abs().max()))
    assert moved > 5e-3


def test_it_learns_the_training_classes(stripes: Stripes) -> None:
    weights = pretrained(config(epochs=30, lr=1e-2), stripes, CPU)
    rows = np.arange(TRAIN * IMAGES)
    outputs = reference.conv4()(pixels(stripes, rows), weights, 0, None)
    assert float((outputs.argmax(1).numpy() == rows // IMAGES).mean()) > 0.9


@pytest.mark.parametrize("method", ["maml", "protonet", "mamlpp", "cavia", "l2f"])
def test_the_body_starts_from_it_and_the_rest_as_ever(method: str, stripes: Stripes) -> None:
    wanted = config(method)
    plain, started = build_learner(wanted, stripes), build_learner(wanted, stripes)
    load_pretrained(started.model, wanted, stripes, CPU)
    weights, before = pretrained(wanted, stripes, CPU), plain.state_dict()
    for name, tensor in started.state_dict().items():
        inner = name.removeprefix("model.")
        if name.startswith("model.") and not inner.startswith("head."):
            assert torch.equal(tensor, weights[inner].expand_as(tensor))  # a norm per step: in every row
            assert name.endswith("bias") or not torch.equal(tensor, before[name])
        else:
            assert torch.equal(tensor, before[name])
    assert len(files(stripes)) == 1  # methods share it, those with a norm per step too


def test_it_is_done_once_for_a_data_set_a_backbone_and_its_settings(stripes: Stripes) -> None:
    first = pretrained(config(), stripes, CPU)
    (path,) = files(stripes)
    before = path.stat().st_mtime_ns
    again = pretrained(config("metasgd"), stripes, CPU, lambda done, total: pytest.fail("it is trained again"))
    assert path.stat().st_mtime_ns == before
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    pretrained(config(seed=1), stripes, CPU)
    assert len(files(stripes)) == 2
    pretrained(config("protonet"), stripes, CPU)  # whose `model.init` is another
    assert len(files(stripes)) == 3


def test_a_killed_one_goes_on_from_its_last_epoch(stripes: Stripes) -> None:
    whole = {name: tensor.clone() for name, tensor in pretrained(config(epochs=3), stripes, CPU).items()}
    (path,) = files(stripes)
    path.unlink()
    batches: list[int] = []

    def killed(done: int, total: int) -> None:
        batches.append(done)
        if done == 9:  # in the second of three epochs of six batches
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrained(config(epochs=3), stripes, CPU, killed)
    found = pretrained(config(epochs=3), stripes, CPU, lambda done, total: batches.append(done))
    assert batches == [*range(1, 10), *range(7, 19)]
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_a_damaged_file_is_one_sentence(stripes: Stripes) -> None:
    pretrained(config(), stripes, CPU)
    (path,) = files(stripes)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"pretrained-.*: not a checkpoint, or a damaged one$"):
        pretrained(config(), stripes, CPU)


def test_held_out_classes_are_not_read(stripes: Stripes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = stripes.store.scaled, []

    def watched(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(pixels)
        return whole(pixels)

    monkeypatch.setattr(stripes.store, "scaled", watched)
    pretrained(config(), stripes, CPU)
    assert len(seen) == 12
    assert all(batch.any(axis=(1, 2, 3)).all() for batch in seen)  # the held-out images are black


def test_a_regression_has_no_classes(stripes: Stripes) -> None:
    curves = reference.Random((1,), "regression")
    with pytest.raises(UserError, match=r"^pretraining.epochs: found 2, but random has no classes; allowed: 0$"):
        pretrained(config(), curves, CPU)
