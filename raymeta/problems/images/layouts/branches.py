"""The pictures of a tree by their folders, and what the ways to read it have in common."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from raymeta.errors import shown, some
from raymeta.problem import Split

READ = (
    "read are CLASS/PICTURE, SPLIT/CLASS/PICTURE (train, val, test), with other folders around them or not, and "
    "CLASS/PICTURE or a folder of pictures with lists that say the split"
)


class Unclear(Exception):
    """A tree that can't be read; the text says why, without the tree's name.

    Attributes:
        missing: splits that it lacks, if that is why.
    """

    def __init__(self, text: str, missing: Sequence[Split] = ()) -> None:
        super().__init__(text)
        self.missing = missing


class Layout(NamedTuple):
    """Which pictures are of which class and split.

    Attributes:
        classes: split -> class -> its pictures, sorted.
        words: how the classes and the splits were recognised.
        left: why, in one of the words of `reading.files` -> paths of what is left out.
        held_out: some training classes are those for validation.
    """

    classes: Mapping[Split, Mapping[str, Sequence[str]]]
    words: str
    left: Mapping[str, Sequence[str]]
    held_out: bool = False


class Branch:
    """A folder with pictures in it or below.

    Attributes:
        path: names of the folders from the tree's top.
        pictures: that lie in it, whole paths.
        below: folders in it with pictures in them or below.
    """

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        self.path = path
        self.pictures: list[str] = []
        self.below: dict[str, Branch] = {}

    @property
    def name(self) -> str:
        """As it is written in a sentence: `photos/train/`."""
        return "/".join([*self.path, ""]) or "its top"

    def all(self) -> list[str]:
        """All pictures in it and below, sorted."""
        return sorted([*self.pictures, *(path for one in self.below.values() for path in one.all())])

    def leaves(self) -> list["Branch"]:
        """The folders, itself among them, that have pictures in them."""
        own = [self] if self.pictures else []
        return [*own, *(leaf for one in self.below.values() for leaf in one.leaves())]

    def at(self, depth: int) -> list["Branch"]:
        """The folders so many levels down."""
        return [self] if depth == 0 else [leaf for one in self.below.values() for leaf in one.at(depth - 1)]

    def trunk(self) -> list["Branch"]:
        """Itself and the folders that wrap all others: each is the only one in the one before and has others in it."""
        path = [self]
        while len(path[-1].below) == 1 and (only := next(iter(path[-1].below.values()))).below:
            path.append(only)
        return path


def grown(pictures: Iterable[str]) -> Branch:
    """The top of a tree of pictures."""
    top = Branch()
    for picture in sorted(pictures):
        node = top
        for part in picture.split("/")[:-1]:
            if part not in node.below:
                node.below[part] = Branch((*node.path, part))
            node = node.below[part]
        node.pictures.append(picture)
    return top


def folders(branches: Iterable[Branch]) -> str:
    """Some folders and how many pictures are in each: `cat/ (3), dog/ (4)`."""
    return some(f"{shown(one.name)} ({len(one.all()):,})" for one in branches)


def told(names: Sequence[str]) -> str:
    """`train, val and test`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
