"""What of a study's files is as raymeta writes it. The rest is said in a sentence each and left out, never a traceback.

A disk that lies, an editor or a copy that was cut off may leave anything in them.
"""

from math import isfinite
from typing import Any

from pydantic import ConfigDict

from raymeta.schema import Section, check
from raymeta.study.plan.plan import Plan

LARGEST = 10**300  # of a whole number
LAST = 1e11  # a moment, in seconds since the epoch, that a calendar still has
WORDS, TRUTHS = ("hostname",), ("diverged", "last", "waits")  # of a round; all else in it is a number


class _Data(Section):
    model_config = ConfigDict(extra="allow")

    name: str
    fingerprint: str


class _About(Section):
    """What `study.yaml` says beside the plan."""

    model_config = ConfigDict(extra="allow")

    id: str
    created: str
    command: str
    space_hash: str
    metric: dict[str, Any]
    data: _Data
    versions: dict[str, str]


def check_about(about: dict[str, Any], source: str) -> None:
    """Refuse a `study.yaml` that lacks what is read of it.

    Raises:
        UserError: it does.
    """
    check(_About, about, source)


def check_plan(plan: Plan) -> None:
    """Refuse a plan whose parts don't fit each other.

    Raises:
        TypeError, AttributeError: they don't.
    """
    space = plan.space
    named = [plan.choices, *plan.choices.values(), plan.fixed, plan.origins, space.origins]
    words = [*space.labels, *plan.fixed.values(), *plan.origins.values(), *space.origins.values()]
    if not all(isinstance(one, dict) for one in named) or not all(isinstance(one, str) for one in words):
        raise TypeError
    if len(space.labels) != len(space.start_from):
        raise TypeError


def is_number(value: object) -> bool:
    """A number as Python's JSON has it; the loss of what diverges may be infinite, or NaN."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST)


def is_moment(value: object) -> bool:
    """Seconds, since the epoch or of work."""
    return is_number(value) and 0 <= value < LAST  # type: ignore[operator]  # which NaN is not, either


def is_round(key: str, entry: object, score: str) -> bool:
    """A round as a driver notes it.

    Args:
        key: under which it is.
        entry: what is there.
        score: the name of the score in it, which one that diverged has not.
    """
    if not isinstance(entry, dict):
        return False
    steps = entry.get("outer_steps")
    if isinstance(steps, bool) or not isinstance(steps, int) or key != f"round {steps:09d}":
        return False
    kinds = {**dict.fromkeys(WORDS, str), **dict.fromkeys(TRUTHS, bool)}
    if not all(isinstance(value, kinds[one]) if one in kinds else is_number(value) for one, value in entry.items()):
        return False
    scored = score not in entry or ("val_ci95" in entry and isfinite(entry[score]))
    return scored and is_moment(entry.get("at")) and is_moment(entry.get("seconds", 0.0))


def is_scored(found: object) -> bool:
    """A finalist's scores as a worker writes them."""
    if not isinstance(found, dict) or "of" not in found:
        return False
    values, reason = found.get("values"), found.get("reason")
    finite = isinstance(values, list) and all(is_number(one) and isfinite(one) for one in values)
    timed = is_moment(found.get("at")) and is_moment(found.get("seconds", 0.0))
    return finite and isinstance(reason, str) and bool(values or reason) and timed
