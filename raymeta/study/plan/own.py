"""What a user says of a search space: in a file, in a mapping, in words on the command line.

    maml.inner_lr=0.01..0.5:log                 a range, on a log scale
    maml.inner_steps=1..9:2                     whole numbers, every second
    regularizers.dropgrad.noise=gaussian,binary choices
    maml.order=first                            fixed, not searched

The same after `:` in a file or a mapping, whose keys are full ones (`maml.inner_lr`); there a range may also be written
as in the shipped files (`{float: [0.01, 0.5], log: true}`). What is said of a key replaces what was searched of it, and
its condition stays unless `when` says another; a new key is added. With `replace: true` nothing else is searched, and
what starting points there are, are all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field
from pydantic.fields import FieldInfo

from raymeta.errors import UserError
from raymeta.schema import Section, check, flatten, parse_overrides
from raymeta.storage.files import parse_yaml, read_yaml
from raymeta.storage.places import expanded

SECTIONS = ("regularizers", "model", "outer", "pretraining")  # whose keys can be searched, with the method's
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?::(?P<how>log|\d+))?")


def searchable(key: str, field: FieldInfo, method: str) -> bool:
    """Whether trials of a study may differ in a key: of a task's in what evaluation knows nothing of."""
    marks = field.json_schema_extra
    return key.partition(".")[0] in (*SECTIONS, method) or (isinstance(marks, dict) and marks.get("searched") is True)


class Said(NamedTuple):
    """A value or a range, what a sentence about it begins with, and where it is from in short."""

    value: Any
    source: str
    origin: str


class Start(NamedTuple):
    """A starting point as it was written."""

    point: Mapping[str, Any]
    label: str
    source: str


class OwnFile(Section):
    """A user's own space, as a file or a mapping; without any of these keys it is the params alone."""

    replace: bool = False
    params: dict[str, Any] = Field(default_factory=dict)
    start_from: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Own:
    """What a user says.

    Attributes:
        ranges: full key to what is searched of it, not yet compared with the schema.
        fixed: full key to its value in all trials; `study.*` too.
        start_from: proposals to begin with.
        replace: nothing else is searched.
        file: a whole space is given, which may leave out a method's or a regularizer's.
    """

    ranges: dict[str, Said] = field(default_factory=dict)
    fixed: dict[str, Said] = field(default_factory=dict)
    start_from: tuple[Start, ...] = ()
    replace: bool = False
    file: bool = False

    def then(self, other: "Own") -> "Own":
        """With what is said later, which counts where both say something of a key."""
        said = {*other.ranges, *other.fixed}
        return Own(
            {**{key: one for key, one in self.ranges.items() if key not in said}, **other.ranges},
            {**{key: one for key, one in self.fixed.items() if key not in said}, **other.fixed},
            self.start_from + other.start_from,
            self.replace or other.replace,
            self.file or other.file,
        )

    def without(self, prefixes: Sequence[str]) -> Self:
        """Without what is said of some sections."""
        left = tuple(prefixes)
        return replace(
            self,
            ranges={key: one for key, one in self.ranges.items() if not key.startswith(left)},
            fixed={key: one for key, one in self.fixed.items() if not key.startswith(left)},
        )


def own_words(words: Sequence[str], method: str) -> Own:
    """What words say: `key=value` fixes a key, `key=low..high` and `key=a,b` search it.

    Raises:
        UserError: a word has no `=`, or its value is not YAML.
    """
    ranges, fixed = {}, list[str]()
    for word in words:
        key, sign, value = word.partition("=")
        searchable = key.partition(".")[0] in (*SECTIONS, method)
        if sign and (RANGE.fullmatch(value) or (searchable and _is_range(value))):
            ranges[key] = Said(value, f"'{word}'", "command line")
        else:
            fixed.append(word)
    given = flatten(parse_overrides(fixed))
    return Own(ranges).then(Own(fixed={key: Said(value, "config", "command line") for key, value in given.items()}))


def own_values(overrides: Mapping[str, Any]) -> Own:
    """What a mapping of overrides fixes; its keys may be dotted."""
    return Own(fixed={key: Said(value, "config", "overrides") for key, value in flatten(overrides).items()})


def own_space(space: Mapping[str, Any] | Path | str) -> Own:
    """What a file, a mapping or `none`, which is an empty space, says.

    Raises:
        UserError: the file cannot be read, or is none of a space.
    """
    if space == "none":
        return Own(replace=True, file=True)
    given = space if isinstance(space, Mapping) else read_yaml(expanded(space))
    origin = "space" if isinstance(space, Mapping) else Path(space).name
    source = "space" if isinstance(space, Mapping) else str(space)
    whole = any(get_close_matches(str(key), OwnFile.model_fields) for key in given)
    file = check(OwnFile, given if whole else {"params": given}, source)
    own = Own(replace=file.replace, file=True)
    for key, value in file.params.items():
        said = Said(value, f"{source}: {key}", origin)
        searched = isinstance(value, Mapping | list) or (isinstance(value, str) and _is_range(value))
        own = own.then(Own(ranges={key: said}) if searched else Own(fixed={key: said._replace(source=source)}))
    starts = []
    for number, point in enumerate(file.start_from, 1):
        values = {key: value for key, value in point.items() if key != "label"}
        label = str(point.get("label", f"{origin}, point {number}"))
        starts.append(Start(values, label, f"{source}: start_from, point {number}"))
    return replace(own, start_from=tuple(starts))


def as_param(said: Said, whole: bool) -> dict[str, Any]:
    """The form of the shipped files for any that a user may choose.

    Args:
        said: a range, choices, or the long form.
        whole: the key takes whole numbers only.

    Raises:
        UserError: it is none of them.
    """
    value = said.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        return {"choice": value}
    if ".." not in value:
        parts = [part.strip() for part in value.split(",")]
        if "" in parts:
            raise UserError(f"{said.source}: a choice is empty; expected values between commas, as in gaussian,binary")
        return {"choice": [parse_yaml(part, said.source) for part in parts]}
    if (match := RANGE.fullmatch(value)) is None:
        raise UserError(
            f"{said.source}: expected LOW..HIGH, LOW..HIGH:log or, for whole numbers, LOW..HIGH:STEP, "
            "as in 0.01..0.5:log or 1..9:2"
        )
    ends = [float(match["low"]), float(match["high"])]
    if whole and not all(end.is_integer() for end in ends):
        raise UserError(f"{said.source}: it takes whole numbers only, found {value}")
    how = {} if match["how"] is None else {"log": True} if match["how"] == "log" else {"step": int(match["how"])}
    return {"int": [int(end) for end in ends], **how} if whole else {"float": ends, **how}


def _is_range(value: str) -> bool:
    """Whether it means to be a range or choices; a list or something in quotes is a value."""
    return value[:1] not in tuple("[{\"'") and (".." in value or "," in value)
