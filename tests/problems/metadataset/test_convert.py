"""Pictures as published become records that are packed to the same pixels."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadataset.written import encoded, picture, write_spec
from PIL import Image
from scipy.io import savemat

from raymeta.api import data
from raymeta.errors import UserError
from raymeta.problem import open_problem, task_section
from raymeta.problems.metadataset.annotated import around
from raymeta.problems.metadataset.records import parse_example, records


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
    published = spec(tmp_path / "specs", "traffic_sign", ["0", "01.speed_limit_30"], [1, 1])
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
    for boxes, sentence in (
        (
            "0000001 3 5 14 16\n\n0000002 1 1 12\n",
            r"images_box.txt, line 3: found '0000002 1 1 12': expected 5 numbers$",
        ),
        ("0000001 3 5 14 16\n", r"images_variant_test.txt names 0000002, but there is no box in images_box.txt$"),
    ):
        (planes / "images_box.txt").write_text(boxes)
        with pytest.raises(UserError, match=sentence):
            data.convert("aircraft", tmp_path, tmp_path / "more", spec=published, quiet=True)


def test_what_is_not_finished_is_not_there(tmp_path: Path, cache: Path) -> None:
    """Neither after a picture that can't be read nor after a process that was killed."""
    raw, out = tmp_path / "raw", tmp_path / "records"
    for split, content in (
        ("train", encoded(picture("mine", 0, 0))),
        ("val", encoded(picture("mine", 1, 0))),
        ("test", b"P"),
    ):
        (raw / split / f"kind of {split}").mkdir(parents=True)
        (raw / split / f"kind of {split}" / "1.png").write_bytes(content)
    with pytest.raises(UserError, match=r"1\.png is not an image that can be read$"):
        data.convert("mine", raw, out, quiet=True)
    assert list(out.iterdir()) == []
    (out / ".mine-unfinished").mkdir()
    (out / ".mine-unfinished" / "7.tfrecords").write_bytes(b"of a killed process")
    (raw / "test" / "kind of test" / "1.png").write_bytes(encoded(picture("mine", 2, 0)))
    data.convert("mine", raw, out, quiet=True)
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert sorted(path.name for path in (out / "mine").iterdir()) == [
        *(f"{n}.tfrecords" for n in range(3)),
        "dataset_spec.json",
    ]


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
        ("ilsvrc_2012", "the raw form of ilsvrc_2012 is not read"),
        ("dtd", "dtd needs --spec: the dtd_dataset_"),
    ):
        with pytest.raises(UserError, match=sentence):
            data.convert(name, tmp_path / "raw", tmp_path / "records", quiet=True)


def saved(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def test_fungi_of_both_lists_by_number_and_name(tmp_path: Path, cache: Path) -> None:
    """Two species of one name; the training and the validation list are taken together, in this order."""
    raw, published = tmp_path / "raw", spec(tmp_path / "specs", "fungi", ["0001.Russula", "0000.Russula"], [2, 1])
    categories = [{"id": number, "name": "Russula"} for number in range(2)]
    for part, (numbers, first) in {"train": ((1, 0), 10), "val": ((1,), 20)}.items():
        names = [f"images/{part}{at}.png" for at in range(len(numbers))]
        for at, (name, number) in enumerate(zip(names, numbers, strict=True)):
            (raw / "images").mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(encoded(picture(part, number, at)))
        saved(raw / f"{part}.json", {
            "categories": categories,
            "images": [{"id": first + at, "file_name": name} for at, name in enumerate(names)],
            "annotations": [{"image_id": first + at, "category_id": number} for at, number in enumerate(numbers)],
        })  # fmt: skip
    data.convert("fungi", raw, tmp_path / "records", spec=published, quiet=True)
    store = packed(tmp_path / "records", "fungi")
    expected = [picture(*one).transpose(2, 0, 1) for one in (("train", 1, 0), ("val", 1, 0), ("train", 0, 1))]
    assert np.array_equal(store.images, expected)
    (raw / "images" / "val0.png").unlink()
    with pytest.raises(UserError, match=r"train.json and val.json name images/val0.png, which is not there$"):
        data.convert("fungi", raw, tmp_path / "b", spec=published, quiet=True)
    saved(raw / "val.json", {"categories": []})
    with pytest.raises(UserError, match=r"train.json and val.json have different categories$"):
        data.convert("fungi", raw, tmp_path / "b", spec=published, quiet=True)
    saved(raw / "val.json", {"categories": categories})
    with pytest.raises(UserError, match=r"train.json and val.json: 'images' is missing, which something else in it"):
        data.convert("fungi", raw, tmp_path / "b", spec=published, quiet=True)
    (raw / "val.json").write_text("[")
    with pytest.raises(UserError, match=r"val.json: not a JSON file: "):
        data.convert("fungi", raw, tmp_path / "b", spec=published, quiet=True)


def test_flowers_by_the_numbers_of_their_labels(tmp_path: Path, cache: Path) -> None:
    raw, labels = tmp_path / "raw", [2, 1, 2]
    (raw / "jpg").mkdir(parents=True)
    contents = [encoded(picture("flowers", label, at), "JPEG") for at, label in enumerate(labels)]
    for at, content in enumerate(contents, start=1):
        (raw / "jpg" / f"image_{at:05d}.jpg").write_bytes(content)
    savemat(raw / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    published = spec(tmp_path / "specs", "vgg_flower", ["002.hard-leaved pocket orchid", "001.pink primrose"], [2, 1])
    data.convert("vgg_flower", raw, tmp_path / "records", spec=published, quiet=True)
    for number, places in ((0, [0, 2]), (1, [1])):
        file = tmp_path / f"records/vgg_flower/{number}.tfrecords"
        found = [parse_example(one.payload)["image"][0] for one in records(file)]
        assert found == [contents[at] for at in places]
    other = spec(tmp_path / "more", "vgg_flower", ["003.canterbury bells", "001.pink primrose"], [2, 1])
    with pytest.raises(UserError, match=r"imagelabels.mat has no class '003': "):
        data.convert("vgg_flower", raw, tmp_path / "b", spec=other, quiet=True)
    (raw / "jpg" / "image_00003.jpg").unlink()
    with pytest.raises(UserError, match=r"imagelabels.mat has 3 labels, but there is no image_00003.jpg$"):
        data.convert("vgg_flower", raw, tmp_path / "b", spec=published, quiet=True)
    (raw / "imagelabels.mat").write_bytes(b"no")
    with pytest.raises(UserError, match=r"imagelabels.mat: not a MATLAB file with the variable 'labels' \("):
        data.convert("vgg_flower", raw, tmp_path / "b", spec=published, quiet=True)


def test_objects_of_coco_are_cut_out_with_a_margin(tmp_path: Path, cache: Path) -> None:
    """Two objects of a picture, one at its edge; by hand: 1.2 times a box of 5x10 at (4, 2.2) is 6x12 at (3.5, 1.2)."""
    raw = tmp_path / "raw"
    (raw / "train2017").mkdir(parents=True)
    content = encoded(picture("coco", 0, 0, 20), "JPEG")
    (raw / "train2017" / "000000000007.jpg").write_bytes(content)
    boxes = [(1, [4, 2.2, 5, 10]), (18, [15.5, 0.5, 4, 6]), (1, [0, 0, 20, 20])]
    found = {
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "images": [{"id": 7}],
        "annotations": [{"image_id": 7, "category_id": number, "bbox": box} for number, box in boxes],
    }
    saved(raw / "annotations" / "instances_train2017.json", found)
    published = spec(tmp_path / "specs", "mscoco", ["dog", "person"], [1, 2])
    data.convert("mscoco", raw, tmp_path / "records", spec=published, quiet=True)
    with Image.open(io.BytesIO(content)) as image:
        whole = np.asarray(image)
    for number, expected in ((0, [whole[0:8, 15:20]]), (1, [whole[1:14, 3:10], whole])):
        for record, pixels in zip(records(tmp_path / f"records/mscoco/{number}.tfrecords"), expected, strict=True):
            with Image.open(io.BytesIO(parse_example(record.payload)["image"][0])) as image:
                assert np.array_equal(np.asarray(image), pixels)
    for annotation, sentence in (
        ({"image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]}, "names 000000000008.jpg, which is not in "),
        ({"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}, "not in COCO's form: "),
        ({"image_id": 7, "category_id": 9, "bbox": [0, 0, 1, 1]}, "9 is missing, which something else in it needs"),
    ):
        saved(raw / "annotations" / "instances_train2017.json", {**found, "annotations": [annotation]})
        with pytest.raises(UserError, match=f"instances_train2017.json:? {sentence}"):
            data.convert("mscoco", raw, tmp_path / "b", spec=published, quiet=True)
    outside = {"image_id": 7, "category_id": 18, "bbox": [30, 0, 2, 2]}
    saved(raw / "annotations" / "instances_train2017.json", {**found, "annotations": [outside]})
    with pytest.raises(UserError, match=r"000000000007.jpg: nothing of it is in the box \("):
        data.convert("mscoco", raw, tmp_path / "c", spec=spec(tmp_path / "x", "mscoco", ["dog"], [1]), quiet=True)


@given(
    st.tuples(st.floats(0, 90), st.floats(0, 60), st.floats(1, 100), st.floats(1, 70)), st.integers(91, 200),
    st.integers(61, 150),
)  # fmt: skip
def test_a_box_made_larger_holds_the_box_and_stays_in_the_picture(box: Any, width: int, height: int) -> None:
    left, top, right, bottom = around(box, width, height)
    assert 0 <= left <= box[0]
    assert 0 <= top <= box[1]
    assert min(box[0] + box[2], width) <= right <= width
    assert min(box[1] + box[3], height) <= bottom <= height
    assert right - left <= 1.2 * box[2] + 2
    assert bottom - top <= 1.2 * box[3] + 2
