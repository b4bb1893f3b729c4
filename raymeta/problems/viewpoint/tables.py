"""`views.csv`: one's own list of views, beside the pictures that it names.

    path,category,x0,y0,x1,y1,azimuth,elevation,tilt[,split]

Pixels count from 0, x1 and y1 are outside; angles are in degrees. `split` is train, validation or test, the same for
all views of a category; without the column 64 / 16 / 20 % of the categories, sorted and then shuffled by
`random.Random(1)`.
"""

import csv
import io
import random

from raymeta.errors import UserError, shown, suggest
from raymeta.problem import SPLITS
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.viewpoint.listing import Listing, View

NAME = "views.csv"
COLUMNS = ("path", "category", "x0", "y0", "x1", "y1", "azimuth", "elevation", "tilt")


def read_table(tree: Tree) -> Listing:
    """The views that `views.csv` lists.

    Raises:
        UserError: it is not there, lacks a column, or a line is wrong.
    """
    tables = [path for path in tree.paths if path.rsplit("/", 1)[-1] == NAME]
    if not tables:
        raise UserError(f"{shown(tree.source)}: no {NAME} is in it, with the columns {','.join(COLUMNS)}")
    table = min(tables, key=lambda path: path.count("/"))
    base = table.removesuffix(NAME)
    ((_, content),) = tree.read([table])
    lines = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace")))
    columns = [name.strip() for name in lines.fieldnames or ()]
    lines.fieldnames = columns
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"{shown(tree.source)}: {table}: no column '{missing[0]}'; expected {','.join(COLUMNS)}")
    views, splits = [], dict[str, str]()
    for number, line in enumerate(lines, start=2):
        where = f"{table}, line {number}"
        numbers = []
        for key in COLUMNS[2:]:
            try:
                numbers.append(float(line[key]))
            except (TypeError, ValueError):
                raise UserError(
                    f"{shown(tree.source)}: {where}: {key}: found '{line[key] or ''}': expected a number"
                ) from None
        category = (line["category"] or "").strip()
        if not category:
            raise UserError(f"{shown(tree.source)}: {where}: no category")
        x0, y0, x1, y1, *angles = numbers
        views.append(View(base + line["path"].strip(), category, (x0, y0, x1, y1), (*angles,), where))  # type: ignore[arg-type]
        if "split" in columns:
            split = (line["split"] or "").strip()
            if split not in SPLITS:
                raise UserError(f"{shown(tree.source)}: {where}: split: found '{split}': {suggest(split, SPLITS)}")
            if splits.setdefault(category, split) != split:
                raise UserError(
                    f"{shown(tree.source)}: {where}: '{category}' is in {split} here and in {splits[category]} above; "
                    "a category is in one split"
                )
    return Listing(views, {}, f"{table}, {len(views):,} views", splits)


def splits_of(found: Listing, source: str) -> dict[str, list[str]]:
    """Categories of train, validation and test: as the list says, or drawn.

    Raises:
        UserError: too few categories, or none in a split.
    """
    names = sorted(found.counts)
    if found.splits:
        parts = {split: [name for name in names if found.splits[name] == split] for split in SPLITS}
    else:
        random.Random(1).shuffle(names)
        test, validation = (max(1, round(share * len(names))) for share in (0.2, 0.16))
        parts = {
            "train": sorted(names[test + validation :]),
            "validation": sorted(names[test : test + validation]),
            "test": sorted(names[:test]),
        }
    if empty := [split for split, part in parts.items() if not part]:
        raise UserError(
            f"{shown(source)}: the {empty[0]} split has no category, of {len(names)} in all; each needs one or more"
        )
    return {str(split): part for split, part in parts.items()}
