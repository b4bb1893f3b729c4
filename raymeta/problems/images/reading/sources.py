"""What loaders of published data share: the sentences for archives, images, counts and downloads that are wrong."""

import lzma
import os
import tarfile
import urllib.error
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from raymeta.errors import UserError, shown
from raymeta.problem import SPLITS, Split

# of an image; Pillow says SyntaxError of a broken PNG
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)


class Published(NamedTuple):
    """How much of it there is, by those who published it.

    Attributes:
        classes: of each split.
        per_class: images of the smallest and of the largest class.
        images: in all.
    """

    classes: Mapping[Split, int]
    per_class: tuple[int, int]
    images: int


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turn what a folder or an archive can do wrong into a UserError that names it."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        is_zip = isinstance(error, zipfile.BadZipFile) or source.suffix.lower() in (".zip", ".npz")
        kind = "zip" if is_zip else "tar"
        raise UserError(f"{shown(source)}: not a {kind} file, or one that is cut off or damaged ({error})") from error
    except RuntimeError as error:  # zipfile: encrypted, or an unknown compression
        raise UserError(f"{shown(source)}: cannot be read: {error}") from error
    except OSError as error:
        where = source if error.filename is None else os.fsdecode(error.filename)
        raise UserError(f"{shown(where)}: cannot be read: {error.strerror or error}") from error


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turn a failed download into a UserError: `what` could not be had, `instead` is what a folder may hold."""
    try:
        yield
    except (urllib.error.URLError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{what} could not be downloaded ({reason(error)}): name a folder with {instead} by --data-root"
        ) from error


def reason(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_counts(source: Path, found: Mapping[Split, Mapping[str, int]], published: "Published | None") -> None:
    """Compare what was found, images of each class of each split, with what was published.

    Raises:
        UserError: a class is in two splits, or there are too few or too many classes or images.
    """
    home: dict[str, Split] = {}
    for split in SPLITS:
        for name in found[split]:
            if name in home:
                raise UserError(f"{source}: class '{name}' is in the {home[name]} and in the {split} split")
            home[name] = split
    if published is None:
        return
    fewest, most = published.per_class
    for split, expected in published.classes.items():
        if len(found[split]) != expected:
            raise UserError(f"{source}: the {split} split has {len(found[split])} classes, {expected} are expected")
        for name, images in found[split].items():
            if not fewest <= images <= most:
                wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
                raise UserError(f"{source}: class '{name}' has {images} images, {wanted} are expected")
    total = sum(sum(classes.values()) for classes in found.values())
    if total != published.images:
        raise UserError(f"{source}: {total} images, {published.images} are expected")
