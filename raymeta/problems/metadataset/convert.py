"""Pictures as their authors publish them, made into the records of Meta-Dataset.

    omniglot       the two archives or folders; validation has the five smallest alphabets of images_background
    aircraft       images_variant_*.txt and images_box.txt in data/: each picture cut to its box
    quickdraw      CLASS.npy, drawings [n, side * side] of 8 bits
    traffic_sign   a folder 00000 ... 00042 for each class
    fungi, vgg_flower, mscoco    what their annotations say (annotated.py)
    any other      a folder for each class, named as the specification names it (dtd, cu_birds)

Which class is for which split, and in which order, a specification says that Meta-Dataset publishes (`--spec`); without
one, of a data set that is none of the ten, what the folders and lists of the pictures say. Files that are JPEG or PNG
are kept byte for byte, others become PNG; Meta-Dataset makes JPEG of those.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raymeta.errors import UserError, shown, suggest
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.datasets.omniglot import PARTS, find
from raymeta.problems.images.layouts.plan import planned, tree_at
from raymeta.problems.images.reading.packing import Progress
from raymeta.problems.images.reading.sources import UNREADABLE
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.metadataset.annotated import fungi, mscoco, vgg_flower
from raymeta.problems.metadataset.published import SOURCES
from raymeta.problems.metadataset.raw import Box, OfClass, Raw, cut, files, kept, png
from raymeta.problems.metadataset.records import example, write_records
from raymeta.problems.metadataset.spec import FILE, THEIRS, read_spec

NOT_READ = "ilsvrc_2012"
HELD_OUT = 5  # alphabets


def convert(name: str, root: Path, out: Path, progress: Progress, spec: Path | None = None) -> Path:
    """Write the records of a data set, and its specification.

    Args:
        name: of the data set: one of the benchmark's, or another.
        root: where its pictures are.
        out: where its folder is made.
        progress: called per class.
        spec: a specification, as Meta-Dataset publishes it.

    Returns:
        The folder.

    Raises:
        UserError: the pictures are not there, damaged, or not those of the specification; or there is a folder already.
    """
    folder = out / name
    if folder.exists():
        raise UserError(f"{shown(folder)}: it is there already")
    if name == NOT_READ:
        raise UserError(
            f"data convert: the raw form of {name} is not read: make its records with Meta-Dataset's scripts; allowed: "
            f"{', '.join(one for one in SOURCES if one != NOT_READ)}, or a name of your own"
        )
    classes, about = _classes(name, root, spec)
    making = out / f".{name}-unfinished"  # of a process that was killed, too
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        every = [one for split in SPLITS for one in classes[split]]
        files = _Files(every)
        for number, one in enumerate(every):
            images = files.of(one) if one.read is None else one.read()
            payloads = (example({"image": image, "label": number}) for image in images)
            write_records(making / f"{number}.tfrecords", payloads)
            progress(number + 1, len(every))
        written = {
            "name": name, **about, "class_names": {str(number): one.name for number, one in enumerate(every)},
            "images_per_class": {str(number): one.images for number, one in enumerate(every)},
            "path": str(folder), "file_pattern": "{}.tfrecords",
        }  # fmt: skip
        (making / FILE).write_text(json.dumps(written, indent=1), encoding="utf-8")
        making.rename(folder)
    except OSError as error:
        raise UserError(f"{shown(folder)}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _classes(name: str, root: Path, spec: Path | None) -> tuple[dict[Split, list[Raw]], dict[str, Any]]:
    """The classes of every split, in order, and what is particular in the specification."""
    if name == "omniglot":
        return _omniglot(root)
    plain = {"__class__": "DatasetSpecification"}
    if spec is None:
        if name in SOURCES:
            raise UserError(f"data convert: {name} needs --spec: the {name}_{FILE} that Meta-Dataset publishes")
        plan = planned(Tree(root))
        assert plan.tree is not None
        classes = {split: [files(plan.tree, one, paths) for one, paths in plan.layout.classes[split].items()]
                   for split in SPLITS}  # fmt: skip
        return classes, {"classes_per_split": _sizes(classes), **plain}
    wanted = read_spec(spec)
    of_class = READERS.get(name, _folders)(root)
    found: dict[Split, list[Raw]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in wanted.splits[split]:
            raw, expected = of_class(wanted.names[number]), wanted.images[number]
            if expected is not None and raw.images != expected:
                raise UserError(
                    f"{shown(root)}: class '{raw.name}' has {raw.images:,} images, {spec.name} says {expected:,}"
                )
            found[split].append(raw)
    return found, {"classes_per_split": _sizes(found), **plain}


def _sizes(classes: Mapping[Split, Sequence[Any]]) -> dict[str, int]:
    return {THEIRS[split]: len(classes[split]) for split in SPLITS}


def _omniglot(root: Path) -> tuple[dict[Split, list[Raw]], dict[str, Any]]:
    alphabets: list[dict[str, list[Raw]]] = []
    for part in find(root, tuple(PARTS)):
        own: dict[str, list[Raw]] = {}
        for place, paths in part.characters.items():
            alphabet, _, character = place.partition("/")
            own.setdefault(alphabet, []).append(files(part.tree, f"{alphabet}-{character}", paths))
        alphabets.append(own)
    background, evaluation = alphabets
    held = sorted(background, key=lambda one: (len(background[one]), one))[:HELD_OUT]
    kept = {one: characters for one, characters in sorted(background.items()) if one not in held}
    by_split = [kept, {one: background[one] for one in held}, dict(sorted(evaluation.items()))]
    named = dict(zip(SPLITS, by_split, strict=True))
    every = [(one, characters) for own in by_split for one, characters in own.items()]
    about = {
        "superclasses_per_split": _sizes({split: list(own) for split, own in named.items()}),
        "classes_per_superclass": {str(number): len(own) for number, (_, own) in enumerate(every)},
        "superclass_names": {str(number): one for number, (one, _) in enumerate(every)},
        "__class__": "BiLevelDatasetSpecification",
    }
    return {split: [raw for characters in own.values() for raw in characters] for split, own in named.items()}, about


def _folders(root: Path, *, numbered: bool = False) -> OfClass:
    """Classes that are folders, by their names or, as traffic signs', by the numbers that these begin with."""
    tree = tree_at(root, [])
    inside: dict[str, list[str]] = {}
    for path in tree.pictures:
        inside.setdefault(path.rpartition("/")[0].rpartition("/")[2], []).append(path)

    def of_class(name: str) -> Raw:
        number = re.match(r"\d+", name) if numbered else None
        folder = f"{int(number[0]):05d}" if number else name
        if folder not in inside:
            raise UserError(f"{shown(tree.source)}: no folder '{folder}' of pictures: {suggest(folder, inside)}")
        return files(tree, name, inside[folder])

    return of_class


def _quickdraw(root: Path) -> OfClass:
    def of_class(name: str) -> Raw:
        path = root / f"{name}.npy"
        try:
            drawings = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{shown(path)}: not a file of drawings: {error}") from error
        side = round(drawings.shape[1] ** 0.5) if drawings.ndim == 2 else 0
        if drawings.dtype != np.uint8 or drawings.shape[1:] != (side**2,):
            raise UserError(f"{shown(path)}: found {drawings.dtype} {list(drawings.shape)}: expected uint8 [n, side²]")
        return Raw(name, len(drawings), lambda: (png(Image.fromarray(one.reshape(side, side))) for one in drawings))

    return of_class


def _aircraft(root: Path) -> OfClass:
    tree = tree_at(root, ["fgvc-aircraft-2013b"])
    paths = {path.rpartition("/")[2]: path for path in tree.paths}
    lists = [name for name in paths if name.startswith("images_variant_") and name.endswith(".txt")]
    lists = [name for name in lists if name != "images_variant_trainval.txt"]
    if not lists or "images_box.txt" not in paths:
        raise UserError(f"{shown(tree.source)}: images_variant_*.txt and images_box.txt are not in it")
    texts = {path.rpartition("/")[2]: text.decode() for path, text in
             tree.read([paths[name] for name in (*lists, "images_box.txt")])}  # fmt: skip
    boxes: dict[str, Box] = {}
    for count, line in enumerate(texts["images_box.txt"].splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 5 or not all(word.isdecimal() for word in words)):
            raise UserError(f"{shown(tree.source)}: images_box.txt, line {count}: found '{line}': expected 5 numbers")
        if words:
            left, top, right, bottom = map(int, words[1:])
            boxes[words[0]] = (left - 1, top - 1, right, bottom)
    classes: dict[str, list[str]] = {}
    for name in lists:
        for line in filter(None, texts[name].splitlines()):
            number, _, variant = line.partition(" ")
            if number not in boxes or f"{number}.jpg" not in paths:
                lacks = "no box in images_box.txt" if number not in boxes else f"no {number}.jpg"
                raise UserError(f"{shown(tree.source)}: {name} names {number}, but there is {lacks}")
            classes.setdefault(variant.strip(), []).append(number)

    def of_class(name: str) -> Raw:
        if name not in classes:
            raise UserError(
                f"{shown(tree.source)}: no variant '{name}' in images_variant_*.txt: {suggest(name, classes)}"
            )
        numbers = sorted(classes[name])

        def read() -> Iterator[bytes]:
            return cut(tree, ((paths[f"{number}.jpg"], lambda *size, own=boxes[number]: own) for number in numbers))

        return Raw(name, len(numbers), read)

    return of_class


READERS: Mapping[str, Callable[[Path], OfClass]] = {
    "aircraft": _aircraft, "quickdraw": _quickdraw, "traffic_sign": partial(_folders, numbered=True), "fungi": fungi,
    "vgg_flower": vgg_flower, "mscoco": mscoco,
}  # fmt: skip


class _Files:
    """The files of all classes, each tree read once from the beginning to the end: an archive is slow to open."""

    def __init__(self, classes: Sequence[Raw]) -> None:
        trees = {id(one.tree): one.tree for one in classes if one.tree is not None}
        self._open = {
            key: tree.read_in_order([path for one in classes if one.tree is tree for path in one.paths])
            for key, tree in trees.items()
        }

    def of(self, raw: Raw) -> Iterator[bytes]:
        """The next class's."""
        assert raw.tree is not None
        for path, content in islice(self._open[id(raw.tree)], raw.images):
            try:
                yield kept(content)
            except (*UNREADABLE, ValueError) as error:
                raise UserError(f"{shown(raw.tree.source)}: {shown(path)} is not an image that can be read") from error
