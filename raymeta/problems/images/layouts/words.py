"""Names of folders, lists and columns that say a split, as people write them."""

import re
from collections.abc import Iterable

from raymeta.problem import Split

WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "base", "background", "seen"),
    "validation": ("val", "valid", "validate", "validation", "dev", "devel", "development"),
    "test": ("test", "testing", "tst", "novel", "unseen"),
}
EITHER = ("eval", "evaluation")  # validation beside a test, else the test
ALLOWED = [*WORDS["train"], *WORDS["validation"], *WORDS["test"], *EITHER]
_SPLITS: dict[str, Split] = {word: split for split, words in WORDS.items() for word in words}
_FILLERS = {
    "class", "classes", "data", "dataset", "file", "files", "folder", "image", "images", "img", "imgs", "label",
    "labels", "list", "meta", "names", "phase", "set", "split",
}  # fmt: skip
_LISTS = {"split", "splits", "partition", "partitions", "subset", "subsets", "trainval", "traintest"}


def tokens(name: str) -> list[str]:
    """Words of a name in small letters: `MetaTrain_set2` is meta, train, set, 2."""
    found = re.findall(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name)
    return [_bare(word.lower()) for word in found]


def plain(name: str) -> str:
    """A name in small letters without signs and spaces, to compare words with."""
    return re.sub(r"[\W_]+", "", name).lower()


def said(name: str, *, loosely: bool = False) -> str | None:
    """The split that a name says: one of `SPLITS`, or `either` of validation and test; None: it says none, or two.

    Args:
        name: of a folder, of a list without its suffix, or a cell of a list.
        loosely: other words may stand beside it, as in `birds_train_v2`.
    """
    words = [word for word in tokens(name) if word not in _FILLERS]
    splits = {"either" if word in EITHER else _SPLITS[word] for word in words if word in _SPLITS or word in EITHER}
    if len(splits) != 1 or not (loosely or all(word in _SPLITS or word in EITHER for word in words)):
        return None
    return splits.pop()


def splits_of(names: Iterable[str], *, loosely: bool = False) -> dict[str, Split]:
    """The splits that names say, of those that say one."""
    found = {name: split for name in names if (split := said(name, loosely=loosely))}
    either = resolved(found.values())
    return {name: either if split == "either" else split for name, split in found.items()}  # type: ignore[misc]


def resolved(found: Iterable[str]) -> Split:
    """What `eval` says beside other names."""
    there = set(found)
    return "validation" if "test" in there and "validation" not in there else "test"


def names_splits(stem: str) -> bool:
    """Whether a list says by its name that splits are in it: `Splits`, `class_split_v2`, `train_val_test`."""
    words = {word for word in tokens(stem) if not word.isdigit()}
    several = len({_SPLITS[word] for word in words if word in _SPLITS}) > 1
    known = _LISTS | _FILLERS | set(_SPLITS) | set(EITHER) | {"few", "shot", "fewshot", "my", "new", "final", "v"}
    return (several or bool(_LISTS & words)) and words <= known


def is_of_splits(column: str) -> bool:
    """Whether a column says by its name that it is of one split: `train`, `is_training`."""
    words = set(tokens(column))
    return bool(words & {"train", "training", "test", "testing"}) and words <= {
        "is", "in", "for", "train", "training", "test", "testing"
    }  # fmt: skip


def rest(name: str) -> str:
    """What a name says beside a split: `mini` of `mini_train`."""
    return "-".join(word for word in tokens(name) if word not in _SPLITS and word not in EITHER)


def _bare(word: str) -> str:
    """`metatrain` and `trainset` without what is stuck to them."""
    for one in (word.removeprefix("meta"), word.removesuffix("set"), word.removesuffix("split")):
        if one in _SPLITS or one in EITHER:
            return one
    return word
