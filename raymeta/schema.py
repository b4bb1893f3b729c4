"""Strict sections of settings, their one-sentence errors, and nested data under dotted keys."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from raymeta.errors import UserError, meant, suggest
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


class _MixedMark:
    """Marks the fields of a section that lanes of one program may differ in although they are no numbers."""


MIXED = _MixedMark()
"""Marks a setting that is structure to a trial by itself, but not to lanes: their program computes what each value asks
for, and picks by a tensor of the lane's (`Context.mixed`), or only the lane's phase depends on it.
"""


class Section(BaseModel):
    """A part of a schema: frozen; unknown keys, infinities and truth values in place of numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, which pydantic takes for 1."""
        field = cls.model_fields[info.field_name] if info.field_name else None
        given = value if isinstance(value, list | tuple) else [value]
        if field and any(isinstance(one, bool) for one in given) and not _takes(field.annotation, bool):
            word = "a number" if _takes(field.annotation, int) or _takes(field.annotation, float) else "another value"
            raise ValueError(f"found {str(value).lower()}: a truth value, where {word} is expected")
        return value


def _takes(annotation: Any, kind: type) -> bool:
    """Whether values of a kind, or named values that are of it, stand anywhere in an annotation."""
    if annotation is Any or annotation is kind:
        return True
    parts = get_args(annotation)
    return any(isinstance(part, kind) if get_origin(annotation) is Literal else _takes(part, kind) for part in parts)


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


def structure(section: BaseModel, *, mixed: bool = True) -> tuple[tuple[str, Any], ...]:
    """What is left of a section when its numbers are taken out, hashable: dotted keys and values.

    Of a number that may be null it is structure whether it is.

    Args:
        section: of settings.
        mixed: with the settings marked `MIXED`.
    """
    found: list[tuple[str, Any]] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found += [(f"{name}.{key}", inner) for key, inner in structure(value, mixed=mixed)]
        elif not mixed and MIXED in type(section).model_fields[name].metadata:
            continue
        elif value is None or not is_number(type(section), name):
            found.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(found)


def check(schema: type[M], data: Any, source: str, others: Iterable[str] = ()) -> M:
    """Validate, and turn the first complaint into one sentence.

    Args:
        schema: what the data are to be.
        data: plain ones.
        source: what the sentence calls them.
        others: keys that are not of this schema, but that a user may have meant.

    Raises:
        UserError: one sentence with the key, what was found, what is allowed and the nearest match.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, schema, others)}") from error


def _sentence(error: ValidationError, schema: type[BaseModel], others: Iterable[str] = ()) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        within, known = _allowed(schema, path), [*_sections_and(fields(schema)), *others]
        beside = get_close_matches(path[-1], within, n=1, cutoff=0.7)
        elsewhere = any(other.endswith(f".{key}") for other in known)  # to the letter, but for its sections
        near = ".".join([*path[:-1], beside[0]]) if beside and not elsewhere else nearest_key(key, known)
        return f"unknown key '{key}', {meant(near, within)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    if first["type"] in ("model_type", "dict_type"):
        within = _allowed(schema, [*path, ""])
        listed = f", {meant(None, within)}" if within else ""
        return f"{key}: found {first['input']!r}: expected a section of keys{listed}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        expected = first["ctx"]["expected"].replace(" or ", ", ").split(", ")
        return not_a_value(key, first["input"], [word.strip("'") for word in expected])
    return f"{key}: found {first['input']!r}: {message}"


def not_a_value(key: str, found: Any, allowed: Sequence[str]) -> str:
    """The sentence for a key that has some values only."""
    return f"{key}: found {found!r}: not a value of this key, {suggest(str(found), allowed)}"


def _allowed(schema: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys of the section that a path ends in."""
    section: type[BaseModel] | None = schema
    parts = iter(path[:-1])
    for part in parts:
        field = section.model_fields.get(part) if section else None
        section = section_of(field) if field else None
        if field and get_origin(field.annotation) is dict:  # a name, then the section that it has
            next(parts, None)
    return [field.alias or name for name, field in section.model_fields.items()] if section else []


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The schema of a field that is a section of its own, or a mapping of names to such."""
    kinds = get_args(field.annotation) or (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _sections_and(keys: Iterable[str]) -> list[str]:
    parts = [key.split(".") for key in keys]
    return list(dict.fromkeys(".".join(one[:end]) for one in parts for end in range(1, len(one) + 1)))


def fields(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted key to field, of all values that a schema has."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        section = section_of(field)
        found |= {f"{prefix}{name}": field} if section is None else fields(section, f"{prefix}{name}.")
    return found


def nearest_key(found: str, keys: Iterable[str]) -> str | None:
    """The key that was probably meant, by the whole of it or by what follows one of its dots: `inner_lr`. Of equally
    near ones the first.
    """
    tails: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        for start in range(len(parts)):
            tails.setdefault(".".join(parts[start:]), key)
    last = found.rpartition(".")[2]
    near = (tails[tail] for tail in get_close_matches(found, tails, n=9))
    return next((key for key in near if get_close_matches(last, [key.rpartition(".")[2]])), None)


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
    """`["maml.inner_lr=0.1", "outer.lr=1e-3"]` to nested data; values are read as YAML.

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
