"""`dataset_spec.json`: which classes a data set of Meta-Dataset has, in which split, with how many images.

Class ids are contiguous: those for training, then validation, then the test. A plain data set says how many classes
each split has; one of two levels (Omniglot) how many alphabets, and how many classes each of them; one of a hierarchy
(ImageNet) has a part of WordNet for every split, whose leaves are its classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymeta.errors import UserError, shown, suggest
from raymeta.problem import SPLITS, Split

FILE, LEAVES = "dataset_spec.json", "num_leaf_images.json"
THEIRS: dict[Split, str] = {"train": "TRAIN", "validation": "VALID", "test": "TEST"}
PATTERNS = ("{}.tfrecords",)
KINDS = {
    "DatasetSpecification": "even",
    "BiLevelDatasetSpecification": "alphabets",
    "HierarchicalDatasetSpecification": "nodes",
}


@dataclass(frozen=True)
class Spec:
    """What a specification says.

    Attributes:
        path: of the file.
        name: of the data set.
        kind: how the classes of an episode are drawn: `even`, or of one of `groups`: `alphabets`, `nodes`.
        names: of the classes, by their ids.
        images: of each class; None: the file does not say.
        splits: ids of each split's classes.
        groups: of each split, lists of ids: an alphabet's characters, or the leaves below a node.
    """

    path: Path
    name: str
    kind: str
    names: list[str]
    images: list[int | None]
    splits: dict[Split, list[int]]
    groups: dict[Split, list[list[int]]] = field(default_factory=dict)

    def file(self, number: int) -> Path:
        """The records of a class."""
        return self.path.parent / f"{number}.tfrecords"


def read_spec(path: Path) -> Spec:
    """A specification.

    Args:
        path: of the file.

    Raises:
        UserError: it is not there, no JSON, or what is in it does not fit together.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{shown(path)}: not a JSON file: {error}") from error
    try:
        return _parsed(path, data)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{shown(path)}: the key '{error.args[0]}' is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{shown(path)}: not a specification of Meta-Dataset: {error}") from error


def _parsed(path: Path, data: Mapping[str, Any]) -> Spec:
    if (found := data["__class__"]) not in KINDS:
        raise UserError(f"{shown(path)}: __class__: found '{found}': {suggest(str(found), KINDS)}")
    if (pattern := data["file_pattern"]) not in PATTERNS:
        raise UserError(f"{shown(path)}: file_pattern: found '{pattern}': {suggest(str(pattern), PATTERNS)}")
    kind = KINDS[found]
    names = _by_id(path, data["class_names"], "class_names")
    groups: dict[Split, list[list[int]]] = {}
    if kind == "alphabets":
        sizes = _by_id(path, data["classes_per_superclass"], "classes_per_superclass")
        ids = _in_order(sizes)
        per_split = _in_order([data["superclasses_per_split"][THEIRS[split]] for split in SPLITS])
        groups = {split: [ids[one] for one in own] for split, own in zip(SPLITS, per_split, strict=True)}
        splits = {split: [one for group in own for one in group] for split, own in groups.items()}
    elif kind == "nodes":
        graphs = {split: {node["wn_id"]: node for node in data["split_subgraphs"][THEIRS[split]]} for split in SPLITS}
        numbers = {name: number for number, name in enumerate(names)}
        spans = {split: spans_of(path, graph, numbers) for split, graph in graphs.items()}
        splits = {split: sorted(set().union(*spans[split].values())) for split in SPLITS}
        groups = {
            split: [sorted(span) for node, span in sorted(spans[split].items()) if graphs[split][node]["children_ids"]]
            for split in SPLITS
        }
    else:
        own = _in_order([data["classes_per_split"][THEIRS[split]] for split in SPLITS])
        splits = dict(zip(SPLITS, own, strict=True))
    if sorted(one for own in splits.values() for one in own) != list(range(len(names))):
        there = sum(map(len, splits.values()))
        raise UserError(f"{shown(path)}: its splits have {there:,} classes, but class_names has {len(names):,}")
    return Spec(path, str(data["name"]), kind, [str(one) for one in names], _counts(path, data, names), splits, groups)


def _counts(path: Path, data: Mapping[str, Any], names: Sequence[str]) -> list[int | None]:
    """Images of each class. ImageNet's specification has those of nodes of WordNet, inner ones too, by their ids or by
    numbers of their own; its leaves' are in a file beside it, as Meta-Dataset publishes it, or of its name.
    """
    if KINDS[data["__class__"]] != "nodes":
        return [int(one) for one in _by_id(path, data["images_per_class"], "images_per_class", len(names))]
    for file in (path.with_name(f"{data['name']}_{LEAVES}"), path.with_name(LEAVES)):
        if file.exists():
            leaves = json.loads(file.read_text(encoding="utf-8"))
            return [int(leaves[name]) for name in names]
    own = data["images_per_class"]
    return [int(own[name]) if name in own else None for name in names]


def spans_of(path: Path, graph: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, set[int]]:
    """The ids of the leaves below every node, its own for a leaf: each once, though a node may have several parents.

    Raises:
        UserError: a child is not in the graph, a leaf is no class, or the graph has a circle.
    """
    found: dict[str, set[int]] = {}
    open_: set[str] = set()

    def below(node: str) -> set[int]:
        if node in found:
            return found[node]
        if node not in graph:
            raise UserError(f"{shown(path)}: '{node}' is a child in split_subgraphs, but no node of the split")
        if node in open_:
            raise UserError(f"{shown(path)}: '{node}' is below itself in split_subgraphs")
        open_.add(node)
        children = graph[node]["children_ids"]
        if not children and node not in numbers:
            raise UserError(f"{shown(path)}: the leaf '{node}' is in split_subgraphs, but not in class_names")
        found[node] = set().union(*map(below, children)) if children else {numbers[node]}
        return found[node]

    for node in graph:
        below(node)
    return found


def _by_id(path: Path, given: Mapping[str, Any], key: str, count: int | None = None) -> list[Any]:
    """The values of a mapping whose keys are 0 .. n - 1."""
    wanted = [str(number) for number in range(len(given) if count is None else count)]
    if missing := [one for one in wanted if one not in given]:
        raise UserError(f"{shown(path)}: {key}: '{missing[0]}' is missing, of {len(wanted):,} from '0' on")
    if len(given) > len(wanted):
        raise UserError(f"{shown(path)}: {key}: found {len(given):,}, but there are {len(wanted):,} classes")
    return [given[one] for one in wanted]


def _in_order(sizes: Sequence[int]) -> list[list[int]]:
    """Numbers from 0 on, dealt out in order."""
    ends, end = [], 0
    for size in sizes:
        ends.append(list(range(end, end + int(size))))
        end += int(size)
    return ends
