"""The one error a user sees as a sentence, and the nearest match that goes into it."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class UserError(ValueError):
    """Bad input. The message is one sentence; the command line prints it and exits with code 2."""


class RunFailed(RuntimeError):
    """A run that could not be brought to its end. One sentence; the command line exits with code 1."""


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
    listed = f"allowed: {', '.join(names) or 'none'}"
    near = get_close_matches(found, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? ({listed})" if near else listed


def nearest_key(found: str, keys: Iterable[str]) -> str | None:
    """The dotted key that was probably meant; None: none is near.

    A key may be found by its last parts: what is left out in front costs nothing, and a whole match of those wins.

    >>> nearest_key("inner_lr", ["outer.lr", "maml.inner_lr"])
    'maml.inner_lr'
    >>> nearest_key("drpgrad.rate", ["regularizers.dropgrad.rate", "outer.lr"])
    'regularizers.dropgrad.rate'
    """
    best, least = None, 0.7
    for key in keys:
        parts = key.split(".")
        if _alike(found.rpartition(".")[2], parts[-1]) < 0.6:
            continue  # the same section, but nothing like it
        for first in range(len(parts)):
            if (alike := _alike(found, ".".join(parts[first:]))) > least:
                best, least = key, alike
    return best


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
