"""The problem on records that an independent writer wrote: packed, drawn, learned and tested on as any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metadataset.written import alphabets, encoded, hierarchy, picture, plain, write_class
from PIL import Image
from reference import same_tasks
from tfrecord.writer import TFRecordWriter

from raymeta.api import data
from raymeta.errors import UserError
from raymeta.problem import open_problem, parse_task, task_section
from raymeta.problems.metadataset.problem import MetaDataset
from raymeta.problems.metadataset.source import resized
from raymeta.testing import small_trial
from raymeta.training.trainer import Trainer

SMALL = {"size": 12, "bounds": {"min_ways": 2, "max_ways": 4, "max_queries": 2, "max_support": 12}}
GRAPHS = {
    "TRAIN": {"n1": ["n2", "n3"], "n2": [], "n3": []},
    "VALID": {"m1": ["m2", "m3"], "m2": [], "m3": []},
    "TEST": {"t1": ["t2", "t3"], "t2": [], "t3": []},
}


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    """Three data sets, one of each kind."""
    folder = tmp_path / "records"
    plain(folder, "aircraft", (3, 2, 2), [5, 6, 7, 5, 5, 6, 4])
    alphabets(folder, "omniglot", [[3, 2], [2], [2, 3]], 4)
    hierarchy(folder, "trees", GRAPHS, {"n2": 6, "n3": 5, "m2": 5, "m3": 5, "t2": 5, "t3": 30})
    return folder


def opened(*sources: str, **more: Any) -> MetaDataset:
    task = {"problem": "metadataset", **SMALL, "sources": list(sources), "tests": list(sources), **more}
    found = open_problem(task_section(task))
    assert isinstance(found, MetaDataset)
    return found


def test_packed_images_are_those_that_were_written(root: Path) -> None:
    problem = opened("aircraft", "omniglot", "trees")
    assert not problem.ready
    problem.prepare(root)
    assert problem.ready
    for source in problem.sources:
        store = source.store
        for number, (start, size) in enumerate(zip(store.starts, store.sizes, strict=True)):
            expected = [picture(source.source, number, image).transpose(2, 0, 1) for image in range(size)]
            assert np.array_equal(store.images[start : start + size], expected)
        x = torch.from_numpy(store.scaled(np.array([[[[0, 255]]] * 3], np.uint8)))
        assert x.unique().tolist() == [-1, 1]
    assert problem.sources[0].remarks["found"].startswith("3/2/2 classes, 38 images, NOT as published: 70/15/15")
    assert problem.sources[2].remarks["found"] == "2/2/2 classes, 56 images, which is none of the benchmark's ten"
    again = opened("aircraft", "omniglot", "trees")
    assert again.fingerprint == problem.fingerprint
    assert opened("omniglot").fingerprint != problem.fingerprint


def test_images_of_other_sizes_are_resized_corner_on_corner() -> None:
    """By the definition: pixel i of n is at i (m - 1) / (n - 1), between two of m."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    found = resized(pixels, 12)
    for row, column in ((0, 0), (0, 11), (11, 0), (11, 11), (5, 7), (3, 10)):
        y, x = row * 8 / 11, column * 4 / 11
        y0, x0 = min(int(y), 7), min(int(x), 3)
        a, b = y - y0, x - x0
        four = pixels[y0 : y0 + 2, x0 : x0 + 2].astype(float)
        expected = (1 - a) * ((1 - b) * four[0, 0] + b * four[0, 1]) + a * ((1 - b) * four[1, 0] + b * four[1, 1])
        assert np.abs(found[row, column] - expected).max() <= 0.5 + 1e-3


def test_a_class_is_capped_by_a_fixed_draw_and_its_count_is_kept(tmp_path: Path, cache: Path) -> None:
    folder = plain(tmp_path, "aircraft", (2, 0, 0), [40, 5])
    problem = opened("aircraft", images_per_class=20)
    problem.prepare(folder)
    store = problem.sources[0].store
    assert store.sizes.tolist() == [20, 5]
    assert store.meta["counts"] == [40, 5]
    written = [picture("aircraft", 0, image).tobytes() for image in range(40)]
    kept = [written.index(one.transpose(1, 2, 0).tobytes()) for one in store.images[:20]]
    assert kept == sorted(kept)
    assert len(set(kept)) == 20
    assert kept != list(range(20))
    before = store.fingerprint
    problem.prepare(folder, rebuild=True)
    assert problem.sources[0].store.fingerprint == before


def test_training_draws_sources_and_validation_and_test_take_turns(root: Path) -> None:
    problem = opened("aircraft", "omniglot", "trees")
    problem.prepare(root)
    train = problem.bank("train", 0)
    drawn = [train.source(number) for number in range(300)]  # type: ignore[attr-defined]
    assert all(60 < drawn.count(name) < 140 for name in ("aircraft", "omniglot", "trees"))
    assert problem.parts(4) == ["aircraft", "omniglot", "trees", "aircraft"]
    valid = problem.bank("validation", 0)
    assert [valid.source(number) for number in range(4)] == problem.parts(4)  # type: ignore[attr-defined]
    both, alone = problem.bank("test", 0, final=True), opened("omniglot").bank("test", 0, final=True)
    for number in range(3):
        assert same_tasks(both.draw(3 * number + 1, 1), alone.draw(number, 1))
    # Of the hierarchies classes are of one alphabet, or of one node.
    for number in range(10):
        task = alone.draw(number, 1)
        assert 2 <= int(task.support.y.max()) + 1 <= 3


def test_test_only_and_missing_data_sets_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^task: sources: found 'mscoco', which has no training classes"):
        opened("mscoco")
    with pytest.raises(UserError, match=r"found 'Omni Glot': "):
        opened("Omni Glot")
    with pytest.raises(UserError, match=r"images_per_class: found 10, but an episode may need 13 of a class"):
        opened("omniglot", images_per_class=10)
    problem = opened("aircraft", tests=["aircraft", "fungi"])
    problem.prepare(root)
    with pytest.raises(UserError, match=r"^task.tests: fungi is not prepared: raymeta data prepare metadataset "):
        problem.bank("test", 0, final=True)
    only = opened("late")
    only.prepare(plain(tmp_path, "late", (0, 0, 2), [5, 5]))
    with pytest.raises(UserError, match=r"^metadataset: no classes for train are in late$"):
        only.bank("train", 0)
    with pytest.raises(UserError, match=r"records: no folder dtd with a dataset_spec.json is in it$"):
        opened("dtd").prepare(root)
    with pytest.raises(UserError, match=r"neither it nor a folder in it has a dataset_spec.json$"):
        opened("dtd").prepare(tmp_path / "cache")


def test_of_another_size_than_is_packed_it_says_which_is(root: Path) -> None:
    opened("aircraft").prepare(root)
    with pytest.raises(UserError, match=r"^metadataset:aircraft can't be downloaded by raymeta \(it is packed in 12 "):
        opened("aircraft", size=28).prepare()
    with pytest.raises(UserError, match=r"^metadataset:dtd can't be downloaded by raymeta: make its records "):
        opened("dtd").prepare()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        opened("aircraft").prepare(folder)
    return str(refused.value).removeprefix(f"{folder}")


def test_damage_and_what_does_not_fit_is_one_sentence_with_file_and_byte(tmp_path: Path, cache: Path) -> None:
    folder = plain(tmp_path, "aircraft", (2, 1, 0), [4, 4, 4])
    file = folder / "1.tfrecords"
    whole = file.read_bytes()
    file.rename(folder / "one.tfrecords")
    assert refusal(folder) == ": records are missing: 1.tfrecords"
    write_class(folder, 1, 4)
    assert refusal(folder) == ": one.tfrecords: of no class: dataset_spec.json has classes 0 to 2"
    (folder / "one.tfrecords").unlink()
    write_class(folder, 1, 3)
    assert refusal(folder).endswith(" after 3 records, 4 are expected by dataset_spec.json")
    assert refusal(folder).startswith("/1.tfrecords: ends at byte ")
    file.write_bytes(whole[:-7])
    assert "/1.tfrecords: the record at byte " in refusal(folder)
    assert " is cut off: " in refusal(folder)
    damaged = bytearray(whole)
    damaged[60] ^= 1
    file.write_bytes(damaged)
    assert refusal(folder) == "/1.tfrecords: the record at byte 0 has a payload whose checksum is wrong"
    (folder / "2.tfrecords").rename(file)
    write_class(folder, 2, 4)
    assert refusal(folder) == "/1.tfrecords: the record at byte 0 has the label 2, in the file of class 1"
    for features, sentence in (
        ({"image": (b"no picture", "byte"), "label": (1, "int")}, "is not an image that can be read"),
        ({"label": (1, "int")}, "has no feature 'image'"),
        ({"image": (b"", "byte"), "label": ([1, 1], "int")}, "is no Example with an image and a label ("),
        ({"image": (3, "int"), "label": (1, "int")}, "has an image that is not of bytes, or a label that is no whole"),
    ):
        writer = TFRecordWriter(str(file))
        for _ in range(4):
            writer.write(features)
        writer.close()
        assert refusal(folder).startswith(f"/1.tfrecords: the record at byte 0 {sentence}")


def test_the_task_that_a_user_types() -> None:
    assert parse_task("metadataset") == {"problem": "metadataset"}
    found = parse_task("metadataset:omniglot,cu_birds")
    assert found == {"problem": "metadataset", "sources": ["omniglot", "cu_birds"]}
    assert task_section(found).name == "metadataset:omniglot,cu_birds"
    with pytest.raises(UserError, match=r"^--task metadataset:omniglot,: expected metadataset:SOURCE,…, as in "):
        parse_task("metadataset:omniglot,")


def test_data_prepare_says_what_was_found_and_ls_and_check_know_it(root: Path, capsys: Any) -> None:
    found = data.prepare("metadataset", root, quiet=True, size=12)
    assert found["metadataset:omniglot"].startswith(
        "5/2/5 classes, 48 images, NOT as published: 883/81/659 classes, 32,460 images"
    )
    assert found["metadataset:trees"] == "2/2/2 classes, 56 images, which is none of the benchmark's ten"
    assert found["metadataset:fungi"] == "not prepared"
    assert data.datasets()["metadataset:omniglot (size 12)"]["classes"] == {"train": 5, "validation": 2, "test": 5}
    findings = data.check_data("metadataset")
    assert set(findings) == {f"metadataset:{one} (size 12)" for one in ("aircraft", "omniglot", "trees")}
    rows = [one for one in findings["metadataset:omniglot (size 12)"] if not one.ok]
    assert rows
    assert all("classes" in one.what or "images" in one.what for one in rows)


@pytest.mark.parametrize("spec", ["protomaml", "protonet", "maml+dropgrad"])
def test_learners_train_and_are_tested_on_it(root: Path, spec: str) -> None:
    opened("aircraft", "omniglot").prepare(root)
    task = {"problem": "metadataset", **SMALL, "sources": ["aircraft", "omniglot"], "tests": ["aircraft", "omniglot"]}
    trainer = Trainer(small_trial(spec, {"task": task, "model": {"name": "conv4", "width": 4, "pools": 2}}))
    while not trainer.done:
        trainer.round()
    assert not trainer.diverged
    score, _ = trainer.test()
    assert len(score.values) == trainer.config.budget.test_tasks


def test_jpegs_are_read_as_pillow_reads_them(tmp_path: Path, cache: Path) -> None:
    folder = plain(tmp_path, "aircraft", (1, 0, 0), [1])
    content = encoded(picture("x", 0, 0), "JPEG")
    writer = TFRecordWriter(str(folder / "0.tfrecords"))
    writer.write({"image": (content, "byte"), "label": (0, "int")})
    writer.close()
    problem = opened("aircraft")
    problem.prepare(folder)
    import io

    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(problem.sources[0].store.images[0], np.asarray(image).transpose(2, 0, 1))


def test_data_show_draws_one_of_them(root: Path, tmp_path: Path) -> None:
    opened("omniglot", "aircraft").prepare(root)
    path = data.draw_data("metadataset:omniglot", tmp_path / "one.png", size=12)
    with Image.open(path) as drawn:
        assert drawn.width > 300
    with pytest.raises(
        UserError, match=r"^metadataset:omniglot,aircraft: name one of them, as in metadataset:omniglot$"
    ):
        data.draw_data("metadataset:omniglot,aircraft", tmp_path / "two.png", size=12)
