"""Specifications: what they say, of each kind, and what does not fit in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from metadataset.written import write_spec

from raymeta.errors import UserError
from raymeta.problems.metadataset.spec import Spec, read_spec


def spec(folder: Path, counts: list[int], about: dict[str, Any], kind: str, **changes: Any) -> Spec:
    folder.mkdir(exist_ok=True)
    write_spec(folder, counts, about, kind)
    file = folder / "dataset_spec.json"
    data = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    file.write_text(json.dumps(data))
    return read_spec(file)


PLAIN = {"classes_per_split": {"TRAIN": 2, "VALID": 1, "TEST": 2}}
LEVELS = {
    "superclasses_per_split": {"TRAIN": 2, "VALID": 0, "TEST": 1},
    "classes_per_superclass": {"0": 2, "1": 1, "2": 3},
}


def node(name: str, *children: str) -> dict[str, Any]:
    return {"wn_id": name, "words": name, "children_ids": list(children), "parents_ids": []}


GRAPHS = {
    # n4 has two parents: it is below n1 once.
    "TRAIN": [node("n1", "n2", "n3"), node("n2", "n4", "n5"), node("n3", "n4"), node("n4"), node("n5")],
    "VALID": [node("m1", "m2"), node("m2")],
    "TEST": [node("t1")],
}
NAMES = {"0": "n4", "1": "n5", "2": "m2", "3": "t1"}
DAG = {"split_subgraphs": GRAPHS, "class_names": NAMES}


def test_classes_of_the_splits_are_contiguous(tmp_path: Path) -> None:
    found = spec(tmp_path, [3, 4, 5, 6, 7], PLAIN, "DatasetSpecification")
    assert found.kind == "even"
    assert found.splits == {"train": [0, 1], "validation": [2], "test": [3, 4]}
    assert found.images == [3, 4, 5, 6, 7]
    assert found.file(3) == tmp_path / "3.tfrecords"


def test_characters_are_those_of_their_alphabets(tmp_path: Path) -> None:
    found = spec(tmp_path, [20] * 6, LEVELS, "BiLevelDatasetSpecification")
    assert found.kind == "alphabets"
    assert found.splits == {"train": [0, 1, 2], "validation": [], "test": [3, 4, 5]}
    assert found.groups == {"train": [[0, 1], [2]], "validation": [], "test": [[3, 4, 5]]}


def test_leaves_of_a_split_are_its_classes_and_each_is_below_a_node_once(tmp_path: Path) -> None:
    found = spec(tmp_path, [5, 6, 7, 8], DAG, "HierarchicalDatasetSpecification", images_per_class={"n4": 5, "n1": 11})
    assert found.kind == "nodes"
    assert found.splits == {"train": [0, 1], "validation": [2], "test": [3]}
    assert found.groups == {"train": [[0, 1], [0, 1], [0]], "validation": [[2]], "test": []}
    assert found.images == [5, None, None, None]  # those of inner nodes are not classes'
    (tmp_path / "num_leaf_images.json").write_text(json.dumps({"n4": 5, "n5": 6, "m2": 7, "t1": 8}))
    assert read_spec(tmp_path / "dataset_spec.json").images == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"__class__": "Specification"}, "__class__: found 'Specification': did you mean 'DatasetSpecification'?"),
        ({"file_pattern": "{}_{}.tfrecords"}, "file_pattern: found '{}_{}.tfrecords': did you mean '{}.tfrecords'?"),
        ({"class_names": None}, "the key 'class_names' is missing"),
        ({"classes_per_split": {"TRAIN": 5}}, "the key 'VALID' is missing"),
        (
            {"classes_per_split": {"TRAIN": 2, "VALID": 1, "TEST": 1}},
            "its splits have 4 classes, but class_names has 5",
        ),
        ({"images_per_class": {"0": 3}}, "images_per_class: '1' is missing, of 5 from '0' on"),
        ({"images_per_class": {str(n): 3 for n in range(6)}}, "images_per_class: found 6, but there are 5 classes"),
        ({"images_per_class": [3]}, "images_per_class: '0' is missing"),
        ({"classes_per_split": 5}, "not a specification of Meta-Dataset: "),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_the_file(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        spec(tmp_path, [3] * 5, PLAIN, "DatasetSpecification", **changes)
    assert str(refused.value).startswith(f"{tmp_path}/dataset_spec.json: {sentence}")


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        ([node("n1", "n2")], "'n2' is a child in split_subgraphs, but no node of the split"),
        ([node("n1", "n2"), node("n2", "n1")], "'n1' is below itself in split_subgraphs"),
        ([node("n1", "n9"), node("n9")], "the leaf 'n9' is in split_subgraphs, but not in class_names"),
    ],
)
def test_a_graph_that_is_none_is_refused(tmp_path: Path, graph: Any, sentence: str) -> None:
    about = {"split_subgraphs": {**GRAPHS, "TRAIN": graph}, "class_names": NAMES}
    with pytest.raises(UserError) as refused:
        spec(tmp_path, [5] * 4, about, "HierarchicalDatasetSpecification")
    assert str(refused.value).endswith(f"dataset_spec.json: {sentence}")


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset_spec.json: cannot be read: No such file"):
        read_spec(tmp_path / "dataset_spec.json")
    (tmp_path / "dataset_spec.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset_spec.json: not a JSON file: "):
        read_spec(tmp_path / "dataset_spec.json")
