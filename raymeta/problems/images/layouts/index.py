"""What a cell of a list means in a tree: a picture, a folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from raymeta.problems.images.layouts.branches import Branch

One = TypeVar("One")


class Index:
    """Pictures and folders by their names."""

    def __init__(self, top: Branch) -> None:
        self._pictures: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        self._folders: dict[str, list[Branch]] = {}
        self.labels: dict[str, list[str]] = {}  # class that a list names -> its pictures
        for picture in top.all():
            name = picture.rsplit("/", 1)[-1]
            self._pictures.setdefault(name.casefold(), []).append(picture)
            self._stems.setdefault(PurePosixPath(name).stem.casefold(), []).append(picture)
        queue = list(top.below.values())
        for one in queue:  # grows on the way
            self._folders.setdefault(one.path[-1].casefold(), []).append(one)
            queue += one.below.values()

    def picture(self, cell: str, *, stem: bool = False) -> str | None:
        """The picture of a path or a name, with other folders before it or without; None: none, or more than one.

        Args:
            cell: as the list has it.
            stem: it may lack the suffix.
        """
        parts = _parts(cell)
        found = self._pictures.get(parts[-1].casefold()) if parts else None
        if not found and stem and parts:
            found = self._stems.get(parts[-1].casefold())
        best = _nearest(found or [], parts[:-1], lambda path: path.split("/")[:-1])
        if best is None:
            return None
        folders = best.split("/")[:-1]
        if len(parts) > 1 and folders and parts[-2] not in folders and parts[-2].casefold() in self._folders:
            return None  # of another folder than the cell says
        return best

    def names_class(self, cell: str) -> bool:
        """Whether it is the name of a class."""
        return cell in self.labels or self.folder(cell) is not None

    def folder(self, cell: str) -> Branch | None:
        """The folder of a class, by its name or path; None: none, or more than one."""
        parts = _parts(cell)
        found = self._folders.get(parts[-1].casefold(), []) if parts else []
        exact = [one for one in found if one.path[-1] == parts[-1]]
        among = exact or found
        outer = [one for one in among if not any(one is not o and one.path[: len(o.path)] == o.path for o in among)]
        return _nearest(outer, parts[:-1], lambda one: list(one.path[:-1]))

    def class_name(self, folder: Branch) -> str:
        """A folder's name, with the one above it where other folders are called so, too."""
        same = self._folders[folder.path[-1].casefold()]
        return "/".join(folder.path[-2 if len(same) > 1 else -1 :])


def _parts(cell: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", cell) if part not in ("", ".", "..")]


def _nearest(found: Sequence[One], parts: Sequence[str], folders: Callable[[One], Sequence[str]]) -> One | None:
    """The one whose folders end most like `parts`; None: none, or more than one."""
    if len(found) < 2:
        return found[0] if found else None
    likeness = [_shared(folders(one), parts) for one in found]
    best = max(likeness)
    return found[likeness.index(best)] if likeness.count(best) == 1 else None


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common at their ends."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count
