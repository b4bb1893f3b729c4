"""Overrides as a program or a command line gives them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from raymeta.errors import UserError
from raymeta.schema import flatten
from raymeta.storage.files import parse_yaml


@dataclass(frozen=True)
class Given:
    """Overrides of a config.

    Attributes:
        words: as on the command line, `maml.inner_lr=0.1`.
        values: of full keys.
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, overrides: "Overrides") -> "Given":
        """Read `{"maml.inner_lr": 0.1}`, `{"maml": {"inner_lr": 0.1}}` or `["maml.inner_lr=0.1"]`.

        Raises:
            UserError: not of such a form, or a value that no YAML file could hold.
        """
        if overrides is None:
            return cls()
        if isinstance(overrides, Given):
            return overrides
        if isinstance(overrides, Mapping):
            return cls(values={key: _plain(key, value) for key, value in flatten(overrides).items()})
        if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
            raise UserError(f"overrides: found {overrides!r}: expected a mapping of keys to values, or key=value words")
        return cls(list(overrides))

    def without(self, sections: Collection[str]) -> Self:
        """Without what stands in some sections."""
        words = [word for word in self.words if word.split(".")[0] not in sections]
        values = {key: value for key, value in self.values.items() if key.split(".")[0] not in sections}
        return type(self)(words, values)

    def __str__(self) -> str:
        return " ".join([*self.words, *(f"{key}={value}" for key, value in self.values.items())])


Overrides = Mapping[str, Any] | Sequence[str] | Given | None


def _plain(key: str, value: Any) -> Any:
    """A value as YAML gives it back."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value  # NumPy's scalars
    plain = list(plain) if isinstance(plain, tuple) else plain
    try:
        if parse_yaml(json.dumps(plain, allow_nan=False), key) == plain:
            return plain
    except (TypeError, ValueError):
        pass
    raise UserError(f"overrides: {key}: found {value!r}: not a number, a word, a truth value, null or a list of them")
