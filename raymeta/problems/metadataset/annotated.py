"""Pictures whose classes stand in a file beside them: Fungi, VGG Flower and MSCOCO, as their authors publish them.

    fungi       train.json and val.json of FGVCx 2018, in COCO's form; Meta-Dataset takes both together
    vgg_flower  jpg/image_00001.jpg, ..., and imagelabels.mat, whose numbers begin the names of the classes
    mscoco      annotations/instances_train2017.json: an object is an image, cut to its box made 1.2 times as large

A class of Fungi is called `0001.name` after its category's number, as several species have one name.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raymeta.errors import UserError, shown, suggest
from raymeta.problems.images.layouts.plan import tree_at
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.metadataset.raw import Box, OfClass, Raw, cut, files

ENLARGED = 1.2  # times, of MSCOCO's boxes


def fungi(root: Path) -> OfClass:
    """Classes of Fungi by their names, `0001.name`."""
    parts = [_json(root, "train.json"), _json(root, "val.json")]
    where = f"{shown(root)}: train.json and val.json"
    with _in_its_form(where):
        if parts[0]["categories"] != parts[1]["categories"]:
            raise UserError(f"{where} have different categories")
        names = {one["id"]: f"{one['id']:04d}.{one['name']}" for one in parts[0]["categories"]}
        places = {one["id"]: one["file_name"] for part in parts for one in part["images"]}
        pairs = [(names[one["category_id"]], places[one["image_id"]]) for part in parts for one in part["annotations"]]
    tree = Tree(root)
    there, by_class = set(tree.paths), dict[str, list[str]]()
    for name, path in pairs:
        if path not in there:
            raise UserError(f"{where} name {shown(path)}, which is not there")
        by_class.setdefault(name, []).append(path)
    return _known(f"{where} have no category", by_class, lambda name: files(tree, name, by_class[name]))


def vgg_flower(root: Path) -> OfClass:
    """Classes of VGG Flower by the number that their names begin with, as in `001.pink primrose`."""
    labels, tree = _labels(root / "imagelabels.mat"), tree_at(root, ["jpg", "102flowers"])
    paths = {path.rpartition("/")[2]: path for path in tree.pictures}
    by_number: dict[str, list[str]] = {}
    for number, label in enumerate(labels, start=1):
        file = f"image_{number:05d}.jpg"
        if file not in paths:
            raise UserError(f"{shown(tree.source)}: imagelabels.mat has {len(labels):,} labels, but there is no {file}")
        by_number.setdefault(f"{label:03d}", []).append(paths[file])

    def raw(name: str) -> Raw:
        return files(tree, name, by_number[name[:3]])

    return _known(f"{shown(root)}: imagelabels.mat has no class", by_number, raw, 3)


def mscoco(root: Path) -> OfClass:
    """Classes of MSCOCO by the names of their categories."""
    name = "instances_train2017.json"
    where = f"{shown(root)}: {name}"
    found = _json(root, f"annotations/{name}" if (root / "annotations" / name).exists() else name)
    tree = tree_at(root, ["train2017"])
    paths = {path.rpartition("/")[2]: path for path in tree.paths}
    objects: dict[str, list[tuple[str, Sequence[float]]]] = {}
    with _in_its_form(where):
        categories = {one["id"]: one["name"] for one in found["categories"]}
        for one in found["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            file = f"{one['image_id']:012d}.jpg"
            if file not in paths:
                raise UserError(f"{where} names {file}, which is not in {shown(tree.source)}")
            objects.setdefault(categories[one["category_id"]], []).append((paths[file], (x, y, width, height)))

    def raw(name: str) -> Raw:
        own = sorted(objects[name], key=lambda one: one[0])  # by picture, which is then opened once
        return Raw(name, len(own), lambda: cut(tree, ((path, partial(around, box)) for path, box in own)))

    return _known(f"{where} has no category", objects, raw)


def around(box: Sequence[float], width: int, height: int) -> Box:
    """The pixels of a box made larger about its centre, as far as they are in the picture.

    Args:
        box: left, top, width, height, in COCO's coordinates: the middle of the first pixel is at 0.5.
        width: of the picture.
        height: of the picture.
    """
    x, y, w, h = box
    x, y = x - (ENLARGED - 1) / 2 * w, y - (ENLARGED - 1) / 2 * h
    right, bottom = x + ENLARGED * w, y + ENLARGED * h
    first = max(round(x - 0.5), 0), max(round(y - 0.5), 0)
    return *first, min(round(right - 0.5) + 1, width), min(round(bottom - 0.5) + 1, height)


def _known(lacks: str, found: Mapping[str, Any], raw: OfClass, letters: int | None = None) -> OfClass:
    """Refuse a class that is not there; `letters` of its name tell it."""

    def of_class(name: str) -> Raw:
        if name[:letters] not in found:
            raise UserError(f"{lacks} '{name[:letters]}': {suggest(name[:letters], found)}")
        return raw(name)

    return of_class


def _json(root: Path, name: str) -> Any:
    try:
        return json.loads((root / name).read_bytes())
    except OSError as error:
        raise UserError(f"{shown(root / name)}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{shown(root / name)}: not a JSON file: {error}") from error


@contextmanager
def _in_its_form(where: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UserError(f"{where}: {error} is missing, which something else in it needs") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not in COCO's form: {error}") from error


def _labels(path: Path) -> list[int]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(io.BytesIO(path.read_bytes()))["labels"]
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    except (KeyError, MatReadError, NotImplementedError, ValueError, TypeError, EOFError, IndexError) as error:
        raise UserError(f"{shown(path)}: not a MATLAB file with the variable 'labels' ({error})") from error
    return [int(label) for label in np.asarray(found).ravel()]
