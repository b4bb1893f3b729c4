"""Files of the three splits that lie beside each other, by what their names have in common."""

import re
from collections.abc import Sequence
from pathlib import Path

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.layouts.words import resolved, said
from raymeta.problems.images.reading.sources import reading


def trio(root: Path, patterns: Sequence[str]) -> dict[Split, Path]:
    """The files of the three splits in a folder, or in a folder in it, two levels down at most.

    Args:
        root: the folder.
        patterns: names with `{}` where the split is, in any words: `cache-{}.pkl` is cache-train.pkl,
            cache-validation.pkl, cache-test.pkl.

    Returns:
        {}: there are none.

    Raises:
        UserError: one of them is missing, or one split is there twice.
    """
    if not root.is_dir():
        return {}
    for folder in (root, *_folders(root, "*"), *_folders(root, "*/*")):
        for pattern in patterns:
            with reading(folder):
                found = _in(folder, pattern)
            if not found:
                continue
            if missing := [split for split in SPLITS if split not in found]:
                there = ", ".join(path.name for path in found.values())
                raise UserError(f"{folder}: {there} is there, but no {pattern.format(missing[0])}")
            return {split: found[split] for split in SPLITS}
    return {}


def _folders(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _in(folder: Path, pattern: str) -> dict[Split, Path]:
    before, after = map(re.escape, pattern.split("{}"))
    names = {
        path: match[1]
        for path in sorted(folder.iterdir())
        if (match := re.fullmatch(f"{before}(.+){after}", path.name, re.I))
    }
    words = {path: word for path, name in names.items() if (word := said(name))}
    either, found = resolved(words.values()), dict[Split, Path]()
    for path, word in words.items():
        split: Split = either if word == "either" else word  # type: ignore[assignment]
        if split in found:
            raise UserError(f"{folder}: {found[split].name} and {path.name} are both of the {split} split")
        found[split] = path
    return found
