"""Pictures as published become records that are packed to the same pixels."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metadataset.written import encoded, picture, write_spec
from PIL import Image

from raymeta.api import data
from raymeta.errors import UserError
from raymeta.problem import open_problem, task_section


def spec(folder: Path, name: str, classes: list[str], counts: list[int]) -> Path:
    """A specification as Meta-Dataset publishes it: all classes but the last for training."""
    (folder / name).mkdir(parents=True)
    per_split = {"TRAIN": len(classes) - 1, "VALID": 0, "TEST": 1}
    about = {"classes_per_split": per_split, "class_names": {str(n): one for n, one in enumerate(classes)}}
    write_spec(folder / name, counts, about, "DatasetSpecification")
    return folder / name / "dataset_spec.json"


def packed(root: Path, name: str, size: int = 12) -> Any:
    task = {"problem": "metadataset", "sources": [name], "tests": [name], "size": size}
    problem = open_problem(task_section(task))
    problem.prepare(root)
    return problem.sources[0].store  # type: ignore[attr-defined]


def test_folders_of_classes_in_the_order_of_the_specification(tmp_path: Path, cache: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "records"
    classes = ["zigzag", "banded", "dotted"]
    for number, name in enumerate(classes):
        (raw / "images" / name).mkdir(parents=True)
        for image in range(2):
            (raw / "images" / name / f"{name}_{image}.png").write_bytes(encoded(picture("dtd", number, image)))
    published = spec(tmp_path / "specs", "dtd", classes, [2, 2, 2])
    data.convert("dtd", raw, out, spec=published, quiet=True)
    store = packed(out, "dtd")
    assert store.class_names == classes
    assert store.classes("train").tolist() == [0, 1]
    expected = [picture("dtd", number, image).transpose(2, 0, 1) for number in range(3) for image in range(2)]
    assert np.array_equal(store.images, expected)
    with pytest.raises(UserError, match=r"records/dtd: it is there already$"):
        data.convert("dtd", raw, out, spec=published, quiet=True)
    with pytest.raises(UserError, match=r"class 'zigzag' has 2 images, dataset_spec.json says 3$"):
        data.convert("dtd", raw, tmp_path / "b", spec=spec(tmp_path / "more", "dtd", classes, [3, 2, 2]), quiet=True)
    with pytest.raises(UserError, match=r"no folder 'stripy' of pictures: allowed: banded, dotted, zigzag$"):
        data.convert("dtd", raw, tmp_path / "c", spec=spec(tmp_path / "x", "dtd", ["stripy", "a"], [2, 2]), quiet=True)


def test_traffic_signs_by_number_and_other_kinds_of_pictures_as_png(tmp_path: Path, cache: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(2):
        (raw / "Images" / f"{number:05d}").mkdir(parents=True)
        Image.fromarray(picture("signs", number, 0)).save(raw / "Images" / f"{number:05d}" / "00000_00000.ppm")
    published = spec(tmp_path / "specs", "traffic_sign", ["0", "1"], [1, 1])
    data.convert("traffic_sign", raw, tmp_path / "records", spec=published, quiet=True)
    task = {"problem": "metadataset", "sources": ["mine"], "tests": ["traffic_sign"], "size": 12}
    problem = open_problem(task_section(task))
    problem._sources["traffic_sign"].prepare(tmp_path / "records")  # type: ignore[attr-defined]
    images = problem._sources["traffic_sign"].store.images  # type: ignore[attr-defined]
    assert np.array_equal(images, [picture("signs", number, 0).transpose(2, 0, 1) for number in range(2)])


def test_drawings_and_boxes(tmp_path: Path, cache: Path) -> None:
    drawings = np.random.default_rng(0).integers(0, 256, (3, 144)).astype(np.uint8)
    np.save(tmp_path / "cat.npy", drawings)
    np.save(tmp_path / "dog.npy", drawings[:2])
    published = spec(tmp_path / "specs", "quickdraw", ["cat", "dog"], [3, 2])
    data.convert("quickdraw", tmp_path, tmp_path / "records", spec=published, quiet=True)
    store = packed(tmp_path / "records", "quickdraw")
    assert np.array_equal(store.images[:3, 0], drawings.reshape(3, 12, 12))

    planes = tmp_path / "fgvc-aircraft-2013b" / "data"
    (planes / "images").mkdir(parents=True)
    content = encoded(picture("planes", 0, 0, 20), "JPEG")
    for number in ("0000001", "0000002"):
        (planes / "images" / f"{number}.jpg").write_bytes(content)
    (planes / "images_box.txt").write_text("0000001 3 5 14 16\n0000002 1 1 12 12\n")
    (planes / "images_variant_train.txt").write_text("0000001 A340-300\n")
    (planes / "images_variant_test.txt").write_text("0000002 F-16A/B\n")
    published = spec(tmp_path / "specs", "aircraft", ["F-16A/B", "A340-300"], [1, 1])
    data.convert("aircraft", tmp_path, tmp_path / "records", spec=published, quiet=True)
    with Image.open(io.BytesIO(content)) as image:
        whole = np.asarray(image)
    images = packed(tmp_path / "records", "aircraft").images
    assert np.array_equal(images[0], whole[:12, :12].transpose(2, 0, 1))
    assert np.array_equal(images[1], whole[4:16, 2:14].transpose(2, 0, 1))


def test_a_data_set_of_ones_own_has_the_split_of_its_folders(tmp_path: Path, cache: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")):
        (tmp_path / "raw" / split / name).mkdir(parents=True)
        (tmp_path / "raw" / split / name / "1.png").write_bytes(encoded(picture("mine", ord(name), 0)))
    folder = data.convert("mine", tmp_path / "raw", tmp_path / "records", quiet=True)
    assert json.loads((folder / "dataset_spec.json").read_text())["classes_per_split"] == {
        "TRAIN": 2,
        "VALID": 1,
        "TEST": 1,
    }
    store = packed(tmp_path / "records", "mine")
    assert store.class_names == ["a", "b", "c", "d"]
    for name, sentence in (
        ("fungi", "the raw form of fungi is not read"),
        ("dtd", "dtd needs --spec: the dtd_dataset_"),
    ):
        with pytest.raises(UserError, match=sentence):
            data.convert(name, tmp_path / "raw", tmp_path / "records", quiet=True)
