"""Overrides as a program has them, to the `key=value` words that plans are made of."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raymeta.errors import UserError
from raymeta.schema import flatten
from raymeta.storage.files import parse_yaml

Overrides = Mapping[str, Any] | Sequence[str] | None


def words_of(overrides: Overrides) -> list[str]:
    """`{"maml.inner_lr": 0.1}`, `{"maml": {"inner_lr": 0.1}}` or `["maml.inner_lr=0.1"]` to `["maml.inner_lr=0.1"]`.

    Raises:
        UserError: not of such a form, or a value that no YAML file could hold.
    """
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        return [f"{key}={_yaml(key, value)}" for key, value in flatten(overrides).items()]
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise UserError(f"overrides: found {overrides!r}: expected a mapping of keys to values, or key=value words")
    return list(overrides)


def _yaml(key: str, value: Any) -> str:
    """A value as one line of YAML that is read back to it."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value  # NumPy's scalars
    plain = list(plain) if isinstance(plain, tuple) else plain
    try:
        text = json.dumps(plain, allow_nan=False)
        if parse_yaml(text, key) == plain:
            return text
    except (TypeError, ValueError):
        pass
    raise UserError(f"overrides: {key}: found {value!r}: not a number, a word, a truth value, null or a list of them")
