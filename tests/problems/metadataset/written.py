"""Small data sets of Meta-Dataset's form, their records written by the package tfrecord, which raymeta does not use."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tfrecord.writer import TFRecordWriter

THEIRS = ("TRAIN", "VALID", "TEST")


def picture(source: str, number: int, image: int, side: int = 12) -> Any:
    """An image of its own, uint8 [side, side, 3]: losslessly encoded, so that it can be found again."""
    seed = [*source.encode(), number, image]
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def encoded(pixels: Any, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def write_class(folder: Path, number: int, count: int, *, source: str | None = None, side: int = 12) -> None:
    writer = TFRecordWriter(str(folder / f"{number}.tfrecords"))
    for image in range(count):
        content = encoded(picture(source or folder.name, number, image, side))
        writer.write({"image": (content, "byte"), "label": (number, "int")})
    writer.close()


def plain(root: Path, name: str, classes: Sequence[int], counts: Sequence[int], *, side: int = 12) -> Path:
    """A data set whose splits have so many classes, and whose classes so many images."""
    folder = root / name
    folder.mkdir(parents=True)
    for number, count in enumerate(counts):
        write_class(folder, number, count, side=side)
    write_spec(folder, counts, {"classes_per_split": dict(zip(THEIRS, classes, strict=True))}, "DatasetSpecification")
    return folder


def alphabets(root: Path, name: str, per_split: Sequence[Sequence[int]], count: int) -> Path:
    """A data set of two levels: characters of every alphabet of each split."""
    folder = root / name
    folder.mkdir(parents=True)
    sizes = [size for own in per_split for size in own]
    for number in range(sum(sizes)):
        write_class(folder, number, count)
    about = {
        "superclasses_per_split": {split: len(own) for split, own in zip(THEIRS, per_split, strict=True)},
        "classes_per_superclass": {str(number): size for number, size in enumerate(sizes)},
    }
    write_spec(folder, [count] * sum(sizes), about, "BiLevelDatasetSpecification")
    return folder


def hierarchy(
    root: Path, name: str, graphs: Mapping[str, Mapping[str, Sequence[str]]], counts: Mapping[str, int]
) -> Path:
    """A data set of a hierarchy: for every split nodes with their children; leaves, with counts, are its classes."""
    folder = root / name
    folder.mkdir(parents=True)
    leaves = [[node for node, children in graphs[split].items() if not children] for split in THEIRS]
    names = [leaf for own in leaves for leaf in sorted(own)]
    for number, leaf in enumerate(names):
        write_class(folder, number, counts[leaf])
    nodes = {
        split: [
            {"wn_id": node, "words": node, "children_ids": list(own), "parents_ids": []} for node, own in graph.items()
        ]
        for split, graph in graphs.items()
    }
    about = {"split_subgraphs": nodes, "class_names": {str(number): leaf for number, leaf in enumerate(names)}}
    write_spec(folder, [counts[leaf] for leaf in names], about, "HierarchicalDatasetSpecification")
    (folder / f"{name}_num_leaf_images.json").write_text(json.dumps(dict(counts)))
    return folder


def write_spec(folder: Path, counts: Sequence[int], about: Mapping[str, Any], kind: str) -> None:
    names = {str(number): f"class{number}" for number in range(len(counts))}
    spec = {
        "name": folder.name, "class_names": names, "path": "/elsewhere", "file_pattern": "{}.tfrecords",
        "images_per_class": {str(number): count for number, count in enumerate(counts)}, **about, "__class__": kind,
    }  # fmt: skip
    (folder / "dataset_spec.json").write_text(json.dumps(spec))
