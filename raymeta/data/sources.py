"""What loaders of published data share: the sentences for archives that are damaged and downloads that fail."""

import urllib.error
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import UnidentifiedImageError

from raymeta.errors import UserError

UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError)  # of an image; Pillow says SyntaxError of a broken PNG


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turn what a folder or a zip archive can do wrong into a UserError that names it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{source}: not a zip file, or one that is cut off or damaged ({error})") from error
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from error


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
