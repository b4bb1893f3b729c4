"""What a user says about a study: a note and tags, beside its files, so that a driver need not be asked.

<studies>/<name>/note.md        the note
<studies>/<name>/tags/paper     a tag, an empty file: two who tag at once lose nothing
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raymeta.errors import StorageError, UserError
from raymeta.keeping.moving import refuse_link
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,49}")


def note_of(folder: AnyPath) -> str:
    """The note; "": there is none."""
    try:
        return (folder / "note.md").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / 'note.md'}: cannot be read: {error}") from error


def write_note(folder: AnyPath, text: str) -> None:
    """Replace the note; "" deletes it."""
    refuse_link(folder)
    with _written(folder / "note.md"):
        if text.strip():
            write_atomically(folder / "note.md", text.strip() + "\n")
        else:
            (folder / "note.md").unlink(missing_ok=True)


def tags_of(folder: AnyPath) -> list[str]:
    """The tags, sorted; none are looked for behind a link."""
    if isinstance(folder, Path) and (folder / "tags").is_symlink():
        return []
    try:
        return sorted(path.name for path in (folder / "tags").iterdir() if TAG.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_tags(folder: AnyPath, add: list[str], drop: list[str]) -> None:
    """Add tags, and take others off.

    Raises:
        UserError: a name that no tag can have, or a tag to be taken off that it has not.
    """
    refuse_link(folder)
    refuse_link(folder / "tags")
    for name in add:
        if not TAG.fullmatch(name):
            raise UserError(f"'{name}' cannot be a tag: use letters, digits and . _ + - (at most 50)")
    there = tags_of(folder)
    for name in drop:
        if name not in there:
            raise UserError(f"the study '{folder.name}' has no tag '{name}': {', '.join(there) or 'it has none'}")
    with _written(folder / "tags"):
        for name in add:
            write_atomically(folder / "tags" / name, b"")
        for name in drop:
            (folder / "tags" / name).unlink(missing_ok=True)


@contextmanager
def _written(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
