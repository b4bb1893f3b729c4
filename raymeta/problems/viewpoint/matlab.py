"""ObjectNet3D and Pascal3D+ as they are distributed: a MATLAB file with a `record` for every picture.

    ObjectNet3D   Annotations/NAME.mat, Images/NAME.JPEG                        (Xiang et al., ECCV 2016)
    Pascal3D+     Annotations/CLASS_imagenet/NAME.mat, Images/CLASS_imagenet/NAME.JPEG, and CLASS_pascal the same
                                                                                (Xiang, Mottaghi, Savarese, WACV 2014)

Of every object: `class`, `bbox` (x0, y0, x1, y1, from 1, the last pixel inside), `viewpoint` (azimuth, elevation,
theta in degrees; `distance` 0 and no azimuth where there are coarse values alone) and the marks `difficult`,
`truncated` and `occluded`. Marked objects and those without a fine viewpoint are skipped, as are, in Pascal3D+, objects
of another class than the folder's, which has them again.
"""

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.viewpoint.listing import Listing, View

MARKS = ("difficult", "truncated", "occluded")
PICTURES = (".JPEG", ".jpg", ".JPG", ".jpeg", ".png")


def read_records(tree: Tree) -> Listing:
    """The views that the records under `Annotations` describe.

    Raises:
        UserError: no records are there, one can't be read, or has no picture.
    """
    files = [path for path in tree.paths if path.endswith(".mat") and "Annotations" in path.split("/")[:-1]]
    if not files:
        raise UserError(f"{shown(tree.source)}: no Annotations/*.mat are in it, beside Images")
    there, views, skipped = set(tree.paths), list[View](), Counter[str]()
    for path, content in tree.read(files):
        record = _record(content, f"{shown(tree.source)}: {path}")
        *above, name = path.removesuffix(".mat").split("/")
        at = len(above) - 1 - above[::-1].index("Annotations")
        stem = "/".join([*above[:at], "Images", *above[at + 1 :], name])
        picture = next((stem + end for end in PICTURES if stem + end in there), None)
        folder = above[-1] if at < len(above) - 1 else ""
        of_folder = folder.rpartition("_")[0] if folder.endswith(("_imagenet", "_pascal")) else None
        for number, one in enumerate(_objects(record), start=1):
            where = f"{path}, object {number}"
            category = _text(getattr(one, "class", None) or getattr(one, "class_", None))
            if not category:
                raise UserError(f"{shown(tree.source)}: {where}: no class")
            if of_folder is not None and category != of_folder:
                skipped["of another class than the folder's"] += 1
                continue
            if marks := [mark for mark in MARKS if _number(one, mark)]:
                skipped[marks[0]] += 1
                continue
            angles = _angles(one)
            if angles is None:
                skipped["without a fine viewpoint"] += 1
                continue
            if picture is None:
                raise UserError(f"{shown(tree.source)}: {path} describes a picture that is not there: {stem}.JPEG")
            box = np.asarray(getattr(one, "bbox", ()), float).ravel()
            if len(box) != 4:
                raise UserError(f"{shown(tree.source)}: {where}: bbox: found {len(box)} numbers: expected 4")
            x0, y0, x1, y1 = box.tolist()
            views.append(View(picture, category, (x0 - 1, y0 - 1, x1, y1), angles, where))
    return Listing(views, skipped, f"records of {len(files):,} pictures, {len(views):,} views")


def _record(content: bytes, where: str) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=False)["record"]
    except NotImplementedError:
        raise UserError(f"{where}: a MATLAB file of version 7.3, where the data set has version 5") from None
    except KeyError:
        raise UserError(f"{where}: a MATLAB file without the variable 'record'") from None
    except (MatReadError, ValueError, TypeError, OSError, EOFError, IndexError) as error:
        raise UserError(f"{where}: not a MATLAB file that can be read ({error})") from error


def _objects(record: Any) -> Iterator[Any]:
    found = getattr(record, "objects", None)
    if found is not None:
        yield from (one for one in np.atleast_1d(np.asarray(found, object)) if hasattr(one, "_fieldnames"))


def _angles(one: Any) -> tuple[float, float, float] | None:
    """Azimuth, elevation and tilt; None: there are coarse ones at most."""
    view = getattr(one, "viewpoint", None)
    found = [_number(view, key) for key in ("azimuth", "elevation", "theta")]
    if any(value is None for value in found) or _number(view, "distance") == 0:
        return None
    azimuth, elevation, tilt = (float(value) for value in found if value is not None)
    return azimuth, elevation, tilt


def _number(of: Any, key: str) -> float | None:
    value = np.asarray(getattr(of, key, ()), object).ravel()
    return float(value[0]) if len(value) and value[0] is not None else None


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""
