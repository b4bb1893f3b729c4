"""What went wrong with a trial's worker, in the few kinds that are answered differently."""

import errno
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raymeta.errors import StorageError

Kind = Literal["memory", "disk", "other"]
FULL = (errno.ENOSPC, errno.EDQUOT)
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "memory pressure",
)  # as torch and Ray say
SETTING_UP = "error raised in its creation task"  # as Ray says; the last line is then what the trial raised


class Failure(NamedTuple):
    """Why a worker failed.

    Attributes:
        kind: memory (of the host or the GPU; less beside it may help), disk (full, or the store is away), or else.
        reason: one line.
        text: all that is known, with the worker's traceback.
    """

    kind: Kind
    reason: str
    text: str


def failure_of(trial: Any) -> Failure:
    """Why a trial of Ray Tune's ended in an error."""
    error = _error_of(trial)
    cause = getattr(error, "cause", None) or error
    last = last_line(error)
    if _is_memory(cause):
        return Failure("memory", f"memory: {last}", str(error))
    if isinstance(cause, OSError) and ends_session(cause):
        return Failure("disk", unwritable(cause), str(error))
    died = type(error).__name__ in ("RayActorError", "ActorDiedError", "ActorUnavailableError")
    if died and SETTING_UP not in str(error):
        return Failure("other", "its worker died", str(error))
    return Failure("other", last, str(error))


def _error_of(trial: Any) -> Any:
    """What Tune has just written down; its own `get_pickled_error` looks where it arrives only later."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    from ray import cloudpickle

    return cloudpickle.loads(Path(path).read_bytes())


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
    return f"{error.filename or 'the study'} cannot be written: {error.strerror or error}"


def _is_memory(cause: Any) -> bool:
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":  # torch's and Ray's
        return True
    told = isinstance(cause, RuntimeError) or type(cause).__name__ == "ActorDiedError"
    return told and any(words in str(cause).lower() for words in OUT_OF_MEMORY)
