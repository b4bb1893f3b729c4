"""What would be packed of a tree, before a picture is read; and the lists beside an archive of pictures."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from raymeta.errors import UserError, shown, some
from raymeta.problem import SPLITS
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.lists import is_list
from raymeta.problems.images.layouts.recognise import recognise, summary
from raymeta.problems.images.layouts.words import names_splits
from raymeta.problems.images.reading.files import NO_CLASS, sentence
from raymeta.problems.images.reading.sources import UNREADABLE, reading
from raymeta.problems.images.reading.trees import ARCHIVES, Tree

EXAMPLES = 5


class Plan(NamedTuple):
    """What would be packed.

    Attributes:
        source: the folder, archive or file that it comes from.
        layout: classes and splits.
        tree: of the pictures; None: they are in arrays.
    """

    source: Path
    layout: Layout
    tree: Tree | None

    @property
    def counts(self) -> dict[Any, dict[str, int]]:
        """Images of each class of each split."""
        return {split: {name: len(paths) for name, paths in self.layout.classes[split].items()} for split in SPLITS}

    def about(self) -> dict[str, str]:
        """Two sentences: how classes and splits were recognised, and what is left out."""
        return {"layout": summary(self.layout), "left_out": sentence(self.left()).removeprefix("left out: ")}

    def left(self) -> dict[str, list[str]]:
        """Why -> paths of all that lies there and is not packed."""
        packed = [path for names in self.layout.classes.values() for paths in names.values() for path in paths]
        left = {} if self.tree is None else self.tree.left_out(packed)
        known = {path for paths in self.layout.left.values() for path in paths}
        left[NO_CLASS] = [path for path in left.get(NO_CLASS, ()) if path not in known]
        for kind, paths in self.layout.left.items():
            left[kind] = [*left.get(kind, ()), *paths]
        return {kind: paths for kind, paths in left.items() if paths}

    def shown(self, shape: Sequence[int]) -> dict[str, Any]:
        """All of it as plain data, with some examples.

        Args:
            shape: of a packed image.
        """
        splits = {
            str(split): f"{len(names):,} classes, {sum(map(len, names.values())):,} images ({some(sorted(names))})"
            for split, names in self.layout.classes.items()
        }
        about = self.about()
        return {
            "source": str(self.source),
            "layout": about["layout"],
            **splits,
            "packed_as": list(shape),
            "examples": list(self._examples()),
            "left_out": about["left_out"] or "nothing",
        }

    def _examples(self) -> Iterator[str]:
        """Pictures of different classes, with their sizes."""
        classes = [
            (split, name, paths) for split in SPLITS for name, paths in sorted(self.layout.classes[split].items())
        ]
        step = max(1, len(classes) // EXAMPLES)
        sample = {paths[0]: f"{split} {name}" for split, name, paths in classes[::step][:EXAMPLES]}
        if self.tree is None:
            yield from (f"{path} ({home})" for path, home in sample.items())
            return
        for path, content in sorted(self.tree.read(sample)):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    what = f"{image.width}x{image.height} {image.mode}"
            except (*UNREADABLE, ValueError):
                what = "not an image that can be read"
            yield f"{path} ({sample[path]}, {what})"


def needed(root: Path | None, name: str, source: str, holds: str) -> Path:
    """The root of a data set that can't be downloaded.

    Args:
        root: what the user gave.
        name: the data set's.
        source: what to download, in a phrase.
        holds: what the folder may hold.

    Raises:
        UserError: it is not given, or not there.
    """
    if root is None:
        how = f"get {source} yourself and name by --data-root a folder with {holds}"
        raise UserError(f"{name} can't be downloaded by raymeta: {how}")
    if not root.exists():
        raise UserError(f"{shown(root)}: no such folder")
    return root


def tree_at(root: Path, names: Sequence[str]) -> Tree:
    """The pictures of a folder or an archive of a usual name in a folder, else of the folder, else of its only archive.

    Args:
        root: what the user gave; an archive is taken itself.
        names: usual ones, without an archive's suffix.

    Raises:
        UserError: there is nothing at `root`, or no archive that can be read.
    """
    if not root.exists():
        raise UserError(f"{shown(root)}: no such folder")
    usual = (root / f"{name}{ending}" for name in names for ending in ("", *ARCHIVES))
    tree = Tree(next((path for path in usual if path.exists()), root))
    if root.is_dir() and not tree.pictures:
        archives = [path for path in tree.paths if path.lower().endswith(ARCHIVES)]
        if len(archives) == 1:
            return Tree(tree.source / archives[0])
    return tree


def planned(tree: Tree, *, share: float | None = None, drawn: bool = True, beside: Path | None = None) -> Plan:
    """What the paths and the lists of a tree say.

    Args:
        tree: of the pictures.
        share: see `recognise`.
        drawn: see `recognise`.
        beside: a folder whose lists are read, too.

    Raises:
        UserError: see `recognise`.
    """
    near = {} if beside is None else _lists_in(beside)
    pictures = set(tree.pictures)
    others = [path for path in tree.paths if path not in pictures]
    lists = {path: file for path, file in near.items() if path not in set(others)}

    def read(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = list(paths)
        for path in (path for path in wanted if path in lists):
            with reading(lists[path]):
                yield path, lists[path].read_bytes()
        yield from tree.read(path for path in wanted if path not in lists)

    found = recognise(str(tree.source), tree.pictures, [*others, *lists], read, share=share, drawn=drawn)
    return Plan(tree.source, found, tree)


def _lists_in(folder: Path) -> Mapping[str, Path]:
    """The lists of a folder, and of the folders of lists in it."""
    try:
        inside = [one for one in folder.iterdir() if one.is_dir() and names_splits(one.name)]
        files = [one for base in (folder, *inside) for one in base.iterdir() if one.is_file() and is_list(one.name)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return {file.relative_to(folder).as_posix(): file for file in sorted(files)}
