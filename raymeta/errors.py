"""The errors that a user sees as a sentence, and what goes into it: the nearest match, names on one line."""

from collections.abc import Iterable
from difflib import get_close_matches

NAMED = 3  # names that a sentence gives


class UserError(ValueError):
    """Bad input. The message is one sentence; the command line prints it and exits with code 2."""


class Repeatable(UserError):
    """What would come again however often it is tried, as a trial's seeds decide all that led to it."""


class RunFailed(RuntimeError):
    """A run that could not be brought to its end. One sentence; the command line exits with code 1."""


class Interrupted(RuntimeError):
    """The user left before the end. One sentence.

    Attributes:
        exit_code: of the command line: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(BaseException):
    """SIGTERM or SIGHUP while nothing runs yet that listens to it; no library takes it for an error of its own."""


class StorageError(OSError):
    """A store of studies that cannot be reached, or does not do what it is asked; `str` is one sentence."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def suggest(found: str, allowed: Iterable[str]) -> str:
    """Say which name was probably meant and which are allowed, to end a sentence with.

    >>> suggest("mamll", ["maml", "alfa"])
    "did you mean 'maml'? (allowed: alfa, maml)"
    """
    names = sorted(allowed)
    near = get_close_matches(found, names, n=1, cutoff=0.5)
    return meant(near[0] if near else None, names)


def meant(near: str | None, allowed: Iterable[str]) -> str:
    """The same with the nearest name found by other means; None: there is none."""
    listed = f"allowed: {', '.join(sorted(allowed)) or 'none'}"
    return f"did you mean '{near}'? ({listed})" if near else listed


def shown(name: object) -> str:
    r"""A name on one line, as a shell takes it: as it is, or `$'two\nlines'`; `$'caf\xe9'` if it is no UTF-8."""
    text = str(name)
    if text.isprintable():
        return text
    return "$'" + "".join(map(_letter, text)) + "'"


def some(names: Iterable[object], count: int | None = None) -> str:
    """The first names, and how many more there are: `a.png, b.png, c.png and 4 more`.

    Args:
        names: of files, classes and the like.
        count: how many there are; None: as many as names.
    """
    first = [shown(name) for name in names]
    more = (len(first) if count is None else count) - len(first[:NAMED])
    return ", ".join(first[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _letter(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    if 0xDC80 <= (number := ord(letter)) <= 0xDCFF:  # how Python writes a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    other = f"\\x{number:02x}" if number < 128 else f"\\u{number:04x}" if number < 2**16 else f"\\U{number:08x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(letter, other)
