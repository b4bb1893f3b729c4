"""What went wrong with a worker, in the few kinds that are answered differently, and how often it is tried again."""

import errno
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raymeta.errors import Repeatable, StorageError
from raymeta.storage.places import AnyPath

Kind = Literal["memory", "disk", "certain", "other"]
FULL = (errno.ENOSPC, errno.EDQUOT)
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "memory pressure",
)  # as torch and Ray say
MAX_FAILURES = 3  # of what runs in a slot; each time it goes on from its checkpoint
LONGEST_ROUNDS, LEAST_PATIENCE_S = 20, 600.0  # before a worker is taken for hung
SETTING_UP = "error raised in its creation task"  # as Ray says; the last line is then what the trial raised


class Failure(NamedTuple):
    """Why a worker failed.

    Attributes:
        kind: memory (of the host or the GPU; less beside it may help), disk (full, or the store is away), certain (it
            would come again), or else.
        reason: one line.
        text: all that is known, with the worker's traceback.
    """

    kind: Kind
    reason: str
    text: str


class Again(NamedTuple):
    """What failed is tried again.

    Attributes:
        alone: with nothing beside it.
        text: what is said of it.
    """

    alone: bool
    text: str


class Retries:
    """How often what failed is tried again: a trial, a finalist or a final run."""

    def __init__(self) -> None:
        self._tried: Counter[Hashable] = Counter()

    def again(self, key: Hashable, failure: Failure) -> Again | None:
        """What to do after a failure; None: it has failed often enough. Too little memory is not asked for often."""
        alone = failure.kind == "memory"
        allowed = {"memory": 1, "certain": 0}.get(failure.kind, MAX_FAILURES)
        if self._tried[key] >= allowed:
            return None
        self._tried[key] += 1
        beside = ", with nothing beside it" if alone else ""
        tries = f"(try {self._tried[key] + 1} of {allowed + 1})"
        return Again(alone, f"{failure.reason}; it goes on from its checkpoint{beside} {tries}")


class Watch:
    """Workers from which rounds are expected: which of them have been silent for too long?

    Args:
        limit_s: seconds of silence; None: twenty of the longest rounds, ten minutes at least.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self._last: dict[Hashable, float] = {}  # on the monotonic clock
        self._longest = 0.0

    def reported(self, key: Hashable, seconds: float = 0.0) -> None:
        """It has started, or ended a round that took so long; from now on the next one is expected."""
        self._last[key] = time.monotonic()
        self._longest = max(self._longest, seconds)

    def forget(self, key: Hashable) -> None:
        """No round is expected of it."""
        self._last.pop(key, None)

    def hung(self, folder_of: Callable[[Any], AnyPath]) -> list[tuple[Any, str]]:
        """Those that are taken for hung, each once, with the reason to kill it.

        Args:
            folder_of: where the checkpoint of one lies: who saves within a round works, however long the round is.
        """
        limit, now = self._limit_s or max(LONGEST_ROUNDS * self._longest, LEAST_PATIENCE_S), time.monotonic()
        silent = [(key, now - last) for key, last in self._last.items() if now - last > limit]
        found = [(key, f"no round for {s:.0f} s") for key, s in silent if _since_saved(folder_of(key)) > limit]
        for key, _ in found:
            self.forget(key)
        return found


def _since_saved(folder: AnyPath) -> float:
    """Seconds since a checkpoint was written there; infinity: there is none, or it is on a store."""
    try:
        return time.time() - (folder / "checkpoint.pt").stat().st_mtime if isinstance(folder, Path) else math.inf
    except OSError:
        return math.inf


def failure_of(error: Any) -> Failure:
    """Why a worker ended in an error of Ray's; None: it is not known."""
    cause = getattr(error, "cause", None) or error
    last = last_line(error)
    if _is_memory(cause):
        return Failure("memory", f"memory: {last}", str(error))
    if isinstance(cause, OSError) and ends_session(cause):
        return Failure("disk", unwritable(cause), str(error))
    if isinstance(cause, Repeatable):
        return Failure("certain", last, str(error))
    died = type(error).__name__ in ("RayActorError", "ActorDiedError", "ActorUnavailableError")
    if died and SETTING_UP not in str(error):
        return Failure("other", "its worker died", str(error))
    return Failure("other", last, str(error))


def last_line(error: Any) -> str:
    """The last line of what a worker raised, which says what it was; of an error of Ray's without a cause, its own."""
    lines = [line.strip() for line in str(getattr(error, "cause", None) or error or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


def ends_session(error: OSError) -> bool:
    """Nothing can be written any more, by nobody: the disk is full, or the store of the studies is away."""
    return error.errno in FULL or isinstance(error, StorageError)


def unwritable(error: OSError) -> str:
    """One line of a file that could not be written."""
    if isinstance(error, StorageError):
        return str(error)
    if error.errno in FULL:
        return "the disk is full" + (f" ({Path(str(error.filename)).parent})" if error.filename else "")
    return f"{error.filename or 'a file'} cannot be written: {error.strerror or error}"


def _is_memory(cause: Any) -> bool:
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":  # torch's and Ray's
        return True
    told = isinstance(cause, RuntimeError) or type(cause).__name__ == "ActorDiedError"
    return told and any(words in str(cause).lower() for words in OUT_OF_MEMORY)
