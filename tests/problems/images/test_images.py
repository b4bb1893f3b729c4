"""Batches gathered on a device are those gathered in host memory, to the bit; here the device is the CPU."""

from typing import Any

import numpy as np
import pytest
import torch
from reference import same_tasks

from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.images import DeviceImages, HostImages
from raymeta.problems.images.task import ImagesTask
from raymeta.testing import small_trial
from raymeta.training.trainer import Trainer

CPU = torch.device("cpu")


def test_every_value_of_every_channel_is_scaled_to_the_same_bits(traced: Any) -> None:
    store = traced(ImagesTask()).store
    store.mean, store.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8)
    rows, turns = np.arange(40).reshape(2, 5, 4), np.arange(10).reshape(2, 5) % 4
    for turned in (None, turns):
        host = HostImages(images, store.scaled).take(rows, turned)
        assert host.shape == (2, 5, 4, 3, 16, 16)
        assert torch.equal(host, DeviceImages(images, store.scaled, CPU).take(rows, turned))
    assert len(np.unique(images)) == 256


@pytest.mark.parametrize("rotations", ["none", "always", "classes"])
@pytest.mark.parametrize("sampler", ["fixed", "metadataset"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_episodes_are_the_same(traced: Any, split: Any, sampler: Any, rotations: Any) -> None:
    task = ImagesTask(sampler=sampler, rotations=rotations, queries=3)
    there = traced(task)
    there.keep_on(CPU)
    count = 4 if sampler == "fixed" else 1
    assert same_tasks(*(d.bank(split, 3, final=True).draw(5, count) for d in (traced(task), there)))


def test_a_training_is_the_same(glyphs: ImageDataset) -> None:
    trainers = [Trainer(small_trial("protonet", config={"engine": {"images": where}})) for where in ("host", "device")]
    rounds = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in trainers]
    assert rounds[0] == rounds[1]
    assert [isinstance(one._training._images, DeviceImages) for one in trainers] == [False, True]  # type: ignore[attr-defined]


def test_by_default_a_cpu_gathers_from_the_store(glyphs: ImageDataset) -> None:
    trainer = Trainer(small_trial("protonet", config={"engine": {"device": "cpu"}}))
    assert isinstance(trainer._training._images, HostImages)  # type: ignore[attr-defined]


def test_a_gpu_takes_what_is_small_beside_its_free_memory(
    glyphs: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymeta.training.device import DATA_SHARE, keeps_on_device

    trial = small_trial("protonet")
    learner, size = Trainer(trial).learner, glyphs.store.images.nbytes
    found = []
    for free in (size / DATA_SHARE * 0.9, size / DATA_SHARE * 1.1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), 0))
        found.append(keeps_on_device(trial, torch.device("cuda"), learner))
    assert found == [False, True]


@pytest.mark.parametrize(("spec", "kind", "reason"), [
    ("maml+taskaug", "images", "taskaug changes tasks on the CPU"),
    ("maml", "sinusoid", "sinusoid has no images"),
])  # fmt: skip
def test_what_cannot_be_gathered_there_is_one_sentence(glyphs: ImageDataset, spec: str, kind: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        Trainer(small_trial(spec, kind, {"engine": {"images": "device"}}))
    assert str(caught.value) == f"engine.images: found 'device', but {reason}; allowed: auto, host"
