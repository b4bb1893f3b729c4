"""Strict sections of settings, their one-sentence errors, and nested data under dotted keys."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from raymeta.errors import UserError, suggest
from raymeta.storage.files import parse_yaml

M = TypeVar("M", bound=BaseModel)


class _NumberMark:
    """Marks the fields of a section that are numbers."""


NUMBER = _NumberMark()
Number = Annotated[float, NUMBER]
"""A setting that is a number: it reaches the maths as a tensor and nothing branches on it, so that trials that differ
in it alone can share a program. All other settings are structure. Where it may be null it is
`Annotated[float | None, NUMBER]`.
"""


class Section(BaseModel):
    """A part of a schema: frozen, unknown keys refused, infinities refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def is_number(section: type[BaseModel], field: str) -> bool:
    """Whether a field of a section is a number, not structure."""
    return NUMBER in section.model_fields[field].metadata


def numbers(section: BaseModel) -> dict[str, float]:
    """The numbers of a section and of the sections in it, by dotted key; those that are null are left out."""
    found: dict[str, float] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": number for key, number in numbers(value).items()}
        elif value is not None and is_number(type(section), name):
            found[name] = float(value)
    return found


def structure(section: BaseModel) -> tuple[tuple[str, Any], ...]:
    """What is left of a section when its numbers are taken out, hashable: dotted keys and values.

    Of a number that may be null it is structure whether it is.
    """
    found: list[tuple[str, Any]] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found += [(f"{name}.{key}", inner) for key, inner in structure(value)]
        elif value is None or not is_number(type(section), name):
            found.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(found)


def check(schema: type[M], data: Any, source: str) -> M:
    """Validate, and turn the first complaint into one sentence.

    Raises:
        UserError: one sentence with the key, what was found, what is allowed and the nearest match.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, schema)}") from error


def _sentence(error: ValidationError, schema: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    path, within = _walk(schema, [str(part) for part in first["loc"]])
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}', {suggest(path[-1], within)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "union_tag_not_found":
        return f"the key '{key}.name' is missing"
    if first["type"] == "union_tag_invalid":
        return _not_a_value(f"{key}.name", first["ctx"]["tag"], first["ctx"]["expected_tags"])
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        return _not_a_value(key, first["input"], first["ctx"]["expected"])
    return f"{key}: found {first['input']!r}: {message}"


def _not_a_value(key: str, found: str, expected: str) -> str:
    allowed = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    return f"{key}: found {found!r}: not a value of this key, {suggest(found, allowed)}"


def _walk(schema: type[BaseModel], location: Sequence[str]) -> tuple[list[str], list[str]]:
    """The path without the tags pydantic inserts for unions, and the keys allowed where it ends."""
    path: list[str] = []
    within = list(schema.model_fields)
    sections: list[type[BaseModel]] = [schema]
    for part in location:
        if len(sections) > 1:  # inside a union: this part is the tag of one of its members
            sections = [s for s in sections if s.model_fields["name"].default == part]
            continue
        path.append(part)
        if sections and part in sections[0].model_fields:
            kind = sections[0].model_fields[part].annotation
            sections = [s for s in (get_args(kind) or (kind,)) if isinstance(s, type) and issubclass(s, BaseModel)]
            within = list(sections[0].model_fields) if len(sections) == 1 else []
        else:
            within = list(sections[0].model_fields) if sections else []
    return path, within


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings.

    Raises:
        UserError: one key is both a value and a section (`a` and `a.b`).
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"'{key}': '{section}' is a value, not a section")
        if isinstance(below := place.get(last), dict):
            if not isinstance(value, Mapping):
                raise UserError(f"'{key}': '{last}' is a section, not a value")
            value = merge(below, value)
        place[last] = value
    return nested


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other, the last one on top; lists and values replace."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["maml.inner_lr=0.1", "task.shots=5"]` to nested data; values are read as YAML.

    Raises:
        UserError: a word has no `=`, or its value is not YAML.
    """
    flat: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise UserError(f"'{word}': expected key=value, as in maml.inner_lr=0.1")
        flat[key] = parse_yaml(value, f"'{word}'")
    return nest(flat)
