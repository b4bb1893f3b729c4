"""Which folders are classes, and which are splits."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raymeta.errors import some
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.layouts.branches import Branch, Layout, Unclear, folders, told
from raymeta.problems.images.layouts.words import plain, said, splits_of
from raymeta.problems.images.reading.files import BELOW, NO_CLASS, NO_SPLIT

SHARES = (0.64, 0.16)  # of training and validation classes, where nothing says the split
SHUFFLE_SEED = 1
CLASSES = "a split for few-shot learning is one of classes, "
TOGETHER = (
    "so put all pictures of a class into one folder, and say the split of the classes in a splits.csv (class,split) or "
    "let it be drawn"
)
_HOLDERS = {  # folders that hold pictures or what belongs to them: no class is called so
    "images", "imgs", "img", "pictures", "pics", "photos", "jpegimages", "jpegs", "pngs", "files", "unlabeled",
    "unlabelled", "masks", "segmentations", "segmentation", "annotations", "labels", "gt", "groundtruth", "trimaps",
    "overlays", "thumbnails", "thumbnail", "thumbs", "thumb", "previews", "preview", "all", "allimages", "data",
    "dataset", "annotation", "docs", "doc", "figures", "figs", "assets", "screenshots",
}  # fmt: skip
_MAYBE = {
    "base",
    "background",
    "seen",
    "novel",
    "unseen",
    "dev",
    "eval",
    "evaluation",
}  # words that also have other meanings

ByClass = dict[str, list[str]]


class Found(NamedTuple):
    """Class folders of a branch.

    Attributes:
        classes: name -> pictures.
        before: folders that wrap the classes.
        within: the folder within each class that has its pictures, if all have the same one.
        words: what there is to say of them.
        left: as a layout's.
    """

    classes: ByClass
    before: tuple[str, ...]
    within: tuple[str, ...]
    words: str
    left: dict[str, list[str]]


def split_folders(top: Branch, share: float | None) -> Layout | None:
    """Classes in folders of splits, which may lie beside other folders; None: no folders say splits.

        train/CLASS/..., val/CLASS/..., test/CLASS/...      in these or other words
        train/CLASS/..., test/CLASS/...                     with a share of the training classes for validation

    Raises:
        Unclear: folders say splits, but not all of them, or there are no class folders in one.
    """
    *wraps, base = top.trunk()
    words = _split_words(base) or splits_of(base.below)
    homes = {name: split for name, split in words.items() if base.below[name].below}
    flat = [name for name in words if name not in homes]
    if not homes or len(base.below) == 1:
        return None
    for split in SPLITS:
        if len(names := [name for name, home in homes.items() if home == split]) > 1:
            raise Unclear(f"the folders {told(names)} both say the {split} split")
    missing = [split for split in SPLITS if split not in homes.values()]
    if flat:
        raise Unclear(_flat(base, flat) + _lacking([split for split in missing if split not in words.values()]))
    by_split, left, remark = _classes_of_splits(base, homes)
    left[NO_CLASS] += [path for one in (*wraps, base) for path in one.pictures]
    left[NO_SPLIT] += [path for name, one in base.below.items() if name not in homes for path in one.all()]
    refuse_shared(by_split, {split: f"{name}/" for name, split in homes.items()})
    listed = ", ".join(name for split in SPLITS for name, home in homes.items() if home == split)
    said_by = f"split by the folders {listed}{remark}"
    if missing == ["validation"] and share is not None:
        return held_out(Layout(by_split, said_by, left), share)
    if missing:
        raise Unclear(f"it is split by {listed}{_lacking(missing)}", missing)
    return Layout(by_split, said_by, left)


def class_folders(top: Branch) -> Layout:
    """Class folders of which nothing says the split: it is drawn, 64 / 16 / 20 % of the classes, always the same.

        CLASS/..., CLASS/images/..., CLASS/train/... and CLASS/test/...

    Raises:
        Unclear: there are none, too few, or it is not clear which they are.
    """
    lone = [name for name in top.trunk()[-1].path if said(name) and plain(name) not in _MAYBE]
    if lone:
        raise Unclear(
            f"{lone[-1]} is the only folder with pictures and says one split: name that folder itself, and a split of "
            "its classes is drawn, or put folders of the other splits beside it"
        )
    if len(leaves := top.leaves()) == 1 and leaves[0].path:
        raise Unclear(
            f"all its pictures lie in {folders(leaves)}: there are no class folders, of which three at least are needed"
        )
    if flat := _split_words(top.trunk()[-1]):
        raise Unclear(_flat(top.trunk()[-1], list(flat)))
    found = classes_in(top)
    if len(found.classes) < len(SPLITS):
        raise Unclear(
            f"it has {len(found.classes)} classes, {told(sorted(found.classes))}, and three at least are needed, one "
            "for each of train, validation and test"
        )
    names = sorted(found.classes)
    random.Random(SHUFFLE_SEED).shuffle(names)
    train, validation = (max(1, round(share * len(names))) for share in SHARES)
    train = min(train, len(names) - validation - 1)
    parts = names[:train], names[train : train + validation], names[train + validation :]
    classes = {split: {name: found.classes[name] for name in part} for split, part in zip(SPLITS, parts, strict=True)}
    return Layout(classes, f"split at random, 64 / 16 / 20 % of the classes{found.words}", found.left)


def classes_in(top: Branch) -> Found:
    """The class folders of a branch.

    Raises:
        Unclear: there are none, or it is not clear which they are.
    """
    *wraps, base = top.trunk()
    left: dict[str, list[str]] = {kind: [] for kind in (NO_CLASS, NO_SPLIT, BELOW)}
    left[NO_CLASS] = [path for one in (*wraps, base) for path in one.pictures]
    before = base.path[len(top.path) :]
    if not base.below:
        raise Unclear(f"{base.name} has {len(base.pictures):,} pictures, but no class folders")
    if len(left[NO_CLASS]) > sum(len(one.all()) for one in base.below.values()):
        raise Unclear(f"{len(left[NO_CLASS]):,} pictures lie in no class folder, as {some(left[NO_CLASS])}")
    if (holders := [name for name in base.below if plain(name) in _HOLDERS]) and len(base.below) > 1:
        raise Unclear(
            f"pictures lie in {folders(base.below.values())}, and {told(holders)} "
            f"{'is' if len(holders) == 1 else 'are'} no class by name: name the folder of the class folders itself, or "
            "put what is no class elsewhere"
        )
    own = {name: one for name, one in base.below.items() if one.pictures}
    deeper = {name: one for name, one in base.below.items() if not one.pictures}
    if own and deeper:
        raise Unclear(
            f"folders of pictures are at two levels: {folders(own.values())}, but "
            f"{folders(one.leaves()[0] for one in deeper.values())}: name the folder of the class folders itself"
        )
    if own:
        left[BELOW] = [path for one in own.values() for inner in one.below.values() for path in inner.all()]
        if len(left[BELOW]) >= sum(len(one.pictures) for one in own.values()):
            raise Unclear(
                f"pictures lie in {some(one.name for one in own.values())}, and as many or more in folders within, as "
                f"{some(left[BELOW])}: put the pictures of each class into one folder"
            )
        return Found({name: one.pictures for name, one in own.items()}, before, (), "", left)
    return _two_levels(base, before, left)


def held_out(layout: Layout, share: float) -> Layout:
    """A share of the training classes as those for validation, drawn, always the same.

    Raises:
        Unclear: it is no share, or leaves no class.
    """
    if not 0 < share < 1:
        raise Unclear(f"--validation-share {share:g}: a share of the training classes is between 0 and 1")
    names = sorted(layout.classes["train"])
    random.Random(SHUFFLE_SEED).shuffle(names)
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise Unclear(f"--validation-share {share:g} of {len(names)} training classes leaves none to train on")
    held = sorted(names[:count])
    train = {name: paths for name, paths in layout.classes["train"].items() if name not in set(held)}
    validation = {name: layout.classes["train"][name] for name in held}
    words = f"{layout.words}, and {count} of the {len(names)} training classes held out for validation ({some(held)})"
    classes: dict[Split, Mapping[str, Sequence[str]]] = {
        "train": train,
        "validation": validation,
        "test": layout.classes["test"],
    }
    return Layout(classes, words, layout.left, held_out=True)


def refuse_shared(
    by_split: Mapping[Split, Mapping[str, Sequence[str]]], called: Mapping[Split, str], advice: str = TOGETHER
) -> None:
    """Refuse classes that are in two splits, with what to do.

    Args:
        by_split: of the splits that there are.
        called: what a split is called in a sentence.
        advice: what to do.

    Raises:
        Unclear: there are some.
    """
    everything = set().union(*by_split.values())
    shared = sorted(name for name in everything if sum(name in names for names in by_split.values()) > 1)
    if not shared:
        return
    if all(set(names) == everything for names in by_split.values()):
        where = f"all {len(everything):,} classes are in each of {told([called[split] for split in by_split])}"
    else:
        first = [called[split] for split, names in by_split.items() if shared[0] in names]
        also = f", and {len(shared) - 1:,} more are in two splits" if len(shared) > 1 else ""
        where = f"class '{shared[0]}' is in {told(first)}{also}"
    raise Unclear(f"{where}: {CLASSES}{advice}")


def _classes_of_splits(
    base: Branch, homes: Mapping[str, Split]
) -> tuple[dict[Split, ByClass], dict[str, list[str]], str]:
    """Classes of each split, what is left out, and what there is to say."""
    richest = max(homes, key=lambda name: len(base.below[name].leaves()))
    pattern = classes_in(base.below[richest])
    left: dict[str, list[str]] = {kind: [] for kind in (NO_CLASS, NO_SPLIT, BELOW)}
    by_split: dict[Split, ByClass] = {}
    flat: list[str] = []
    for split in SPLITS:
        for name in (name for name, home in homes.items() if home == split):
            one = base.below[name]
            leaves = one.leaves()
            found = pattern if name == richest else classes_in(one) if len(leaves) > 1 else _only(one, pattern)
            if found is None or bool(found.within) != bool(pattern.within):
                flat.append(name)
                continue
            by_split[split] = found.classes
            for kind, paths in found.left.items():
                left[kind] += paths
    if flat:
        raise Unclear(_flat(base, flat))
    return by_split, left, pattern.words


def _only(split: Branch, pattern: Found) -> Found | None:
    """The class of a split that has a single folder of pictures; None: it is no class folder."""
    (leaf,) = split.leaves()
    parts = leaf.path[len(split.path) :]
    if len(parts) != len(pattern.before) + 1 + len(pattern.within):
        return None
    name = parts[len(pattern.before)]
    if parts != (*pattern.before, name, *pattern.within) or plain(name) in {
        *_HOLDERS,
        "unknown",
        plain(split.path[-1]),
    }:
        return None
    return Found({name: leaf.pictures}, pattern.before, pattern.within, "", {})


def _two_levels(base: Branch, before: tuple[str, ...], left: dict[str, list[str]]) -> Found:
    """Folders of folders: which of the two are the classes."""
    tops = base.below
    inner = {name: [leaf.path[len(one.path) :] for leaf in one.leaves()] for name, one in tops.items()}
    same = {paths[0] if len(paths) == 1 else () for paths in inner.values()}
    if len(same) == 1 and (within := same.pop()):
        classes = {name: one.all() for name, one in tops.items()}
        return Found(classes, before, within, f", the pictures of a class in {'/'.join(within)}/", left)
    if all(len(path) == 1 and said(path[0]) for paths in inner.values() for path in paths):
        parts = sorted({path[0] for paths in inner.values() for path in paths})
        classes = {name: one.all() for name, one in tops.items()}
        return Found(classes, before, (), f", the folders {told(parts)} of each class put together", left)
    leaves = [leaf for one in tops.values() for leaf in one.leaves()]
    raise Unclear(
        f"folders of pictures are in folders: {len(leaves):,}, as {some(leaf.name for leaf in leaves)}, in "
        f"{len(tops):,}, as {some(one.name for one in tops.values())}, and either may be the classes: say which by a "
        "splits.csv (class,split), or put the class folders side by side, with the pictures in them"
    )


def _split_words(base: Branch) -> dict[str, Split]:
    """The splits that names of folders say together: two at least; of most folders, if other words are in the names."""
    exact, loose = splits_of(base.below), splits_of(base.below, loosely=True)
    if len(set(exact.values())) > 1:
        return exact
    return loose if len(set(loose.values())) > 1 and 2 * len(loose) >= len(base.below) else {}


def _flat(base: Branch, names: Sequence[str]) -> str:
    counts = [f"{base.below[name].name} ({len(base.below[name].all()):,})" for name in names]
    return f"{told(counts)} {'has' if len(names) == 1 else 'have'} pictures, but no class folders"


def _lacking(missing: Sequence[Split]) -> str:
    return f", and no folder with pictures says {' or '.join(missing)}" if missing else ""
