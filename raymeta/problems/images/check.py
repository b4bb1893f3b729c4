"""Whether a packed data set is what it should be: as large as published, no class and no image in two splits.

Images are compared by their pixels, as they are packed: two files that differ but look the same at that size are one.
"""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raymeta.problem import SPLITS
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Progress
from raymeta.problems.images.reading.sources import Published
from raymeta.problems.images.store import Store

EXAMPLES = 3  # duplicates that are named


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        split: the class split, by name.
        what: what was looked at.
        found: what there is.
        expected: what there should be; None: nothing in particular.
        ok: whether found is as expected.
    """

    split: str
    what: str
    found: str
    expected: str | None
    ok: bool


def check_dataset(dataset: ImageDataset, progress: Progress | None = None) -> list[Finding]:
    """Look at everything, in every class split.

    Args:
        dataset: a prepared data set.
        progress: called per image.

    Raises:
        UserError: it is not prepared, or its store is damaged.
    """
    digests = _digests(dataset.store, progress or (lambda done, total: None))
    findings: list[Finding] = []
    for split in dataset.splits:
        task = dataset.task.model_copy(update={"split": split})
        store = type(dataset)(task).store
        findings += _counts(store, dataset.published.get(split))
        findings += _overlaps(store)
        findings += _duplicates(store, digests)
    return findings


def _counts(store: Store, published: Published | None) -> list[Finding]:
    rows: list[tuple[str, object, object]] = [
        (f"classes, {split}", len(store.classes(split)), published and published.classes[split]) for split in SPLITS
    ]
    fewest, most = int(store.sizes.min()), int(store.sizes.max())
    rows.append(("images", len(store.images), published and published.images))
    findings = [
        Finding(store.split, what, f"{found:,}", f"{expected:,}" if published else None, expected in (None, found))
        for what, found, expected in rows
    ]
    wanted = published and published.per_class
    fits = wanted is None or wanted[0] <= fewest <= most <= wanted[1]
    expected = f"{wanted[0]} to {wanted[1]}" if wanted else None
    return [*findings, Finding(store.split, "images of a class", f"{fewest} to {most}", expected, fits)]


def _overlaps(store: Store) -> list[Finding]:
    """Classes, by name, that two splits share."""
    names = {split: {store.class_names[c] for c in store.classes(split)} for split in SPLITS}
    shared = [
        f"{name} ({one}, {other})"
        for one, other in combinations(SPLITS, 2)
        for name in sorted(names[one] & names[other])
    ]
    return [Finding(store.split, "classes in two splits", _listed(shared), "0", not shared)]


def _duplicates(store: Store, digests: NDArray[np.uint64]) -> list[Finding]:
    """Images whose pixels are those of another image, in another split and in the same."""
    home = np.full(len(store.sizes), len(SPLITS))
    for number, split in enumerate(SPLITS):
        home[store.classes(split)] = number
    classes = np.repeat(np.arange(len(store.sizes)), store.sizes)
    _, groups, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[groups.ravel()] > 1)
    across, within = [], 0
    for same in _together(rows, groups.ravel()[rows]):
        splits = home[classes[same]]
        if len(set(splits[splits < len(SPLITS)])) > 1:
            across.append(
                " = ".join(f"{store.class_names[classes[row]]} ({_split(home[classes[row]])})" for row in same)
            )
        else:
            within += len(same) - 1
    return [
        Finding(store.split, "images in two splits", _listed(across), "0", not across),
        Finding(store.split, "images twice in a split", f"{within:,}", None, True),
    ]


def _together(rows: NDArray[np.int64], groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group."""
    order = groups.argsort(kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(groups[order])) + 1) if len(rows) else []


def _split(number: int) -> str:
    return SPLITS[number] if number < len(SPLITS) else "none"


def _listed(problems: list[str]) -> str:
    more = ", ..." if len(problems) > EXAMPLES else ""
    return f"{len(problems)}" + (f": {', '.join(problems[:EXAMPLES])}{more}" if problems else "")


def _digests(store: Store, progress: Progress) -> NDArray[np.uint64]:
    """A 128-bit sum of the pixels of each image, [total, 2]."""
    sums = np.empty((len(store.images), 2), np.uint64)
    for row, image in enumerate(store.images):
        sums[row] = np.frombuffer(blake2b(image.tobytes(), digest_size=16).digest(), np.uint64)
        progress(row + 1, len(sums))
    return sums
