"""Trees as lists of paths, and what is recognised in them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pytest

from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.recognise import recognise

KINDS = [f"kind {letter}" for letter in "abcdefghij"]
PARTS = {"train": KINDS[:5], "validation": KINDS[5:8], "test": KINDS[8:]}


class Made(NamedTuple):
    """What is found of classes (split -> names), and what is said."""

    classes: dict[str, list[str]]
    layout: Layout


def pictures(*folders: str, count: int = 2, suffix: str = "jpg") -> list[str]:
    """Paths of some pictures in each folder; names differ from folder to folder."""
    return [f"{folder}/{folder.rsplit('/', 1)[-1]}-{n}.{suffix}" for folder in folders for n in range(count)]


def by_split(*words: str, below: str = "") -> list[str]:
    """Pictures of the classes of `PARTS` in folders of such names."""
    homes = zip(words, PARTS.values(), strict=False)
    return pictures(*(f"{word}/{below}{name}" for word, names in homes for name in names))


def found(
    paths: Iterable[str], lists: Mapping[str, str | bytes] | None = None, share: float | None = None, drawn: bool = True
) -> Made:
    """Recognise a tree of pictures and lists."""
    files = {path: text.encode() if isinstance(text, str) else text for path, text in (lists or {}).items()}

    def read(wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        return ((path, files[path]) for path in wanted)

    layout = recognise("tree", sorted(paths), sorted(files), read, share=share, drawn=drawn)
    return Made({split: sorted(layout.classes[split]) for split in SPLITS}, layout)


def refused(
    paths: Iterable[str], lists: Mapping[str, str | bytes] | None = None, share: float | None = None, drawn: bool = True
) -> str:
    """The sentence of a tree that is refused."""
    with pytest.raises(UserError) as caught:
        found(paths, lists, share, drawn)
    text = str(caught.value)
    assert text.startswith("tree: ")
    assert "\n" not in text
    return text
