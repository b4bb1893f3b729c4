"""Whether a packed data set is what it should be: as large as published, no class and no image in two splits.

Images are compared by their pixels, as they are packed: two files that differ but look the same at that size are one.
"""

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import some
from raymeta.problem import SPLITS
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.datasets.folder import Folder
from raymeta.problems.images.reading.packing import Progress
from raymeta.problems.images.reading.sources import Published
from raymeta.problems.images.store import Store

MOST_HOMES = 4  # classes of one image that are named


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        split: the class split, by name.
        what: what was looked at.
        found: what there is.
        expected: what there should be; None: nothing in particular.
        ok: whether found is as expected.
        remark: what is to be known of it, if it is as expected.
    """

    split: str
    what: str
    found: str
    expected: str | None
    ok: bool
    remark: str = ""


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
        store = dataset.under(split).store
        published = dataset.published.get(split)
        counts = _counts(store, published)
        findings += [*counts, *_overlaps(store)]
        findings += _duplicates(store, digests, as_published=published is not None and all(one.ok for one in counts))
    return findings + _of_a_source(dataset)


def _of_a_source(dataset: ImageDataset) -> list[Finding]:
    """How a user's own pictures became the store."""
    if not isinstance(dataset, Folder):
        return []
    split = dataset.splits[0]
    rows = {"the pictures now": dataset.state, **{key.replace("_", " "): line for key, line in dataset.remarks.items()}}
    if "task" not in dataset.store.meta:
        rows["packed by"] = "raymeta 0.1.0, which did not turn, scale or uncover pictures: --rebuild packs them again"
    return [Finding(split, what, found, None, True) for what, found in rows.items()]


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


def _duplicates(store: Store, digests: NDArray[np.uint64], *, as_published: bool) -> list[Finding]:
    """Images whose pixels are those of another image, in another split and in the same.

    Args:
        store: of the images.
        digests: see `_digests`.
        as_published: there are as many classes and images as were published: then so are these.
    """
    home = np.full(len(store.sizes), len(SPLITS))
    for number, split in enumerate(SPLITS):
        home[store.classes(split)] = number
    classes = np.repeat(np.arange(len(store.sizes)), store.sizes)
    _, groups, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[groups.ravel()] > 1)
    across, within = Counter[str](), 0
    for same in _together(rows, groups.ravel()[rows]):
        splits = home[classes[same]]
        within += len(same) - len(set(splits))
        if len(set(splits[splits < len(SPLITS)])) > 1:
            across[" = ".join(_homes(store, classes[same], home))] += 1
    pairs = [name + (f", {count} times" if count > 1 else "") for name, count in across.most_common()]
    remark = "the published files have such, too" if as_published and across else ""
    found = f"{across.total():,}" + (f": {some(pairs)}" if pairs else "")
    return [
        Finding(store.split, "images in two splits", found, "0", as_published or not across, remark),
        Finding(store.split, "images twice in a split", f"{within:,}", None, True),
    ]


def _homes(store: Store, classes: NDArray[np.int64], home: NDArray[np.int64]) -> list[str]:
    """Each class of some images once, with its split and how many of them it has: `dog (train), cat (test, 3)`."""
    numbers, counts = np.unique(classes, return_counts=True)
    said = [
        f"{store.class_names[one]} ({_split(home[one])}{f', {count}' if count > 1 else ''})"
        for one, count in zip(numbers, counts, strict=True)
    ]
    return said if len(said) <= MOST_HOMES else [*said[:MOST_HOMES], f"{len(said) - MOST_HOMES} more classes"]


def _together(rows: NDArray[np.int64], groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group."""
    order = groups.argsort(kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(groups[order])) + 1) if len(rows) else []


def _split(number: int) -> str:
    return SPLITS[number] if number < len(SPLITS) else "none"


def _listed(problems: list[str]) -> str:
    return f"{len(problems)}" + (f": {some(problems)}" if problems else "")


def _digests(store: Store, progress: Progress) -> NDArray[np.uint64]:
    """A 128-bit sum of the pixels of each image, [total, 2]."""
    sums = np.empty((len(store.images), 2), np.uint64)
    for row, image in enumerate(store.images):
        sums[row] = np.frombuffer(blake2b(image.tobytes(), digest_size=16).digest(), np.uint64)
        progress(row + 1, len(sums))
    return sums
