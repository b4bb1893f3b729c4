"""From the paths of a tree to its classes and splits.

What a person would see is what is found, or it is refused: nothing is guessed at. The first of these that fits is it:

    folders of splits       train/CLASS/..., val/CLASS/..., test/CLASS/...    raymeta/problems/images/layouts/folders.py
    lists                   train.csv, val.csv, test.csv, or splits.csv       raymeta/problems/images/layouts/listed.py
    class folders           CLASS/..., split at random                        raymeta/problems/images/layouts/folders.py
"""

from collections import Counter
from collections.abc import Sequence

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.layouts.branches import READ, Layout, Unclear, grown
from raymeta.problems.images.layouts.folders import class_folders, split_folders
from raymeta.problems.images.layouts.listed import Lists, Read
from raymeta.problems.images.reading.files import NO_SUFFIX, UNUSED, counted, suffix


def recognise(
    where: str,
    pictures: Sequence[str],
    others: Sequence[str],
    read: Read,
    *,
    share: float | None = None,
    drawn: bool = True,
) -> Layout:
    """The classes and splits of a tree.

    Args:
        where: the tree, for a sentence.
        pictures: paths of the pictures, `/` between the parts.
        others: paths of the other files; lists among them.
        read: gives the contents of lists.
        share: of the training classes that is held out for validation if nothing says which are for validation.
        drawn: split classes at random if nothing says their splits.

    Raises:
        UserError: it is not clear what is meant; the sentence says what was found and what is read.
    """
    if not pictures and not others:
        raise UserError(f"{where}: nothing is in it; {READ}")
    if not pictures:
        kinds = Counter(suffix(path) or NO_SUFFIX for path in others)
        there = ", ".join(counted(kind, count) for kind, count in kinds.most_common(3))
        more = f" and {len(kinds) - 3} other kinds" if len(kinds) > 3 else ""
        raise UserError(f"{where}: no pictures are in it, but {there}{more}; {READ}")
    try:
        layout = _recognised(pictures, others, read, share, drawn=drawn)
    except Unclear as error:
        advice = f": {_remedy(error.missing, own=drawn)}" if error.missing else ""
        raise UserError(f"{where}: {_on_one_line(str(error))}{advice}; {READ}") from error
    return layout._replace(left={kind: sorted(paths) for kind, paths in layout.left.items() if paths})


def summary(layout: Layout) -> str:
    """`64 / 16 / 20 classes, 600 images each, split by the folders train, val, test`."""
    sizes = [len(paths) for split in SPLITS for paths in layout.classes[split].values()]
    fewest, most = min(sizes), max(sizes)
    each = f"{fewest:,} image{'s'[: fewest > 1]} each" if fewest == most else f"{fewest:,} to {most:,} images each"
    counts = " / ".join(f"{len(layout.classes[split]):,}" for split in SPLITS)
    return f"{counts} classes, {each}, {_on_one_line(layout.words)}"


def _recognised(
    pictures: Sequence[str], others: Sequence[str], read: Read, share: float | None, *, drawn: bool
) -> Layout:
    top = grown(pictures)
    layout = split_folders(top, share)
    lists = Lists(top, others, read, strict=layout is None)
    if layout is not None:
        lists.contradict(layout)
        unused = [*lists.unused, *(path for one in lists.says for path in one.lists)]
        return layout._replace(left={**layout.left, UNUSED: unused})
    layout = lists.layout(share)
    if layout is not None:
        return layout
    try:
        layout = class_folders(top)
    except Unclear as error:
        if not lists.labelled:
            raise
        raise Unclear(f"{error} ({lists.labelled} says classes, but no splits: give it a column split)") from None
    if not drawn:
        raise Unclear("neither folders nor lists say which classes are for training, validation and test")
    return layout._replace(left={**layout.left, UNUSED: lists.unused})


def _remedy(missing: Sequence[Split], *, own: bool) -> str:
    """What to do where splits are missing; `own`: the split is the user's to say."""
    hold = "hold some of those for training out by `raymeta data prepare folder --validation-share 0.2 --data-root ...`"
    if not own or "train" in missing or len(missing) > 1:
        itself = ", or name the folder of the classes itself, and a split of them is drawn"
        return f"put folders or lists of all three splits beside each other{itself if own else ''}"
    if list(missing) == ["validation"]:
        return f"say which classes are for validation, or {hold}"
    return f"say which classes are for the test; or call those for validation test, and {hold}"


def _on_one_line(text: str) -> str:
    """Names of files may have line breaks, or bytes that are no letters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
