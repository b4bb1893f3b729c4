"""Search spaces: YAML that names the keys it searches, composed for `method+regularizers` and sampled define-by-run.

    params:
      rate:   {float: [0.0, 0.4]}
      noise:  {choice: [gaussian, binary], when: {rate: {above: 0.0}}}
    start_from:
      - {rate: 0.1, noise: gaussian}

Keys are relative to the section of the file's method or regularizer; those of `_common.yaml` are relative to the trial.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from raymeta import registry
from raymeta.config import split_spec
from raymeta.errors import UserError, suggest
from raymeta.schema import Section, check
from raymeta.storage.files import read_yaml

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool | None
Point = dict[str, Value]  # dotted key to value

CHOICE = "regularizer"  # the key of a search over the choice of regularizer
NONE = "none"
AUTHORS = "authors' setting"  # labels of starting points
BASELINE = "un-regularized"


class Condition(Section):
    """When a parameter is searched: another one is above or below a number, or one of some values."""

    above: float | None = None
    below: float | None = None
    one_of: tuple[Value, ...] | None = None

    def __str__(self) -> str:
        values = " or ".join(map(str, self.one_of)) if self.one_of is not None else None
        parts = {"above ": self.above, "below ": self.below, "": values}
        return ", ".join(f"{word}{bound}" for word, bound in parts.items() if bound is not None)

    def holds(self, value: Any) -> bool:
        """Whether a value of the other parameter meets it."""
        return (
            (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.one_of is None or value in self.one_of)
        )


class Param(Section):
    """One searched key: exactly one of `float`, `int` and `choice`; ranges include both ends."""

    float_: tuple[float, float] | None = Field(None, alias="float")
    int_: tuple[int, int] | None = Field(None, alias="int")
    choice: tuple[Value, ...] | None = Field(None, min_length=1)
    log: bool = False
    step: int = Field(1, ge=1, description="Of an int.")
    when: dict[str, Condition] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in (self.float_, self.int_, self.choice) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("give exactly one of float: [low, high], int: [low, high] and choice: [...]")
        if self.choice is None:
            low, high = kinds[0]
            if not low <= high:  # type: ignore[operator]
                raise ValueError(f"the range [{low}, {high}] is empty: low is above high")
            if self.log and low <= 0:  # type: ignore[operator]
                raise ValueError(f"log: true needs a range above 0, found [{low}, {high}]")
        elif self.log:
            raise ValueError("log: true is for float and int, not for choice")
        return self

    def contains(self, value: Any) -> bool:
        """Whether a value can be proposed."""
        if self.choice is not None:
            return any(value == option and type(value) is type(option) for option in self.choice)
        low, high = self.float_ or self.int_ or (0, 0)
        number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return number and (self.int_ is None or (value - low) % self.step == 0)

    def propose(self, trial: "optuna.Trial", key: str) -> Value:
        """Ask Optuna for a value."""
        if self.float_ is not None:
            return trial.suggest_float(key, *self.float_, log=self.log)
        if self.int_ is not None:
            return trial.suggest_int(key, *self.int_, step=self.step, log=self.log)
        assert self.choice is not None
        return trial.suggest_categorical(key, self.choice)

    def __str__(self) -> str:
        if self.choice is not None:
            return "{" + ", ".join(map(str, self.choice)) + "}"
        low, high = self.float_ or self.int_ or (0, 0)
        return f"[{low:g}, {high:g}]" + (" log" if self.log else "") + (" int" if self.int_ else "")


class SpaceFile(Section):
    """A YAML file of `search_spaces/`."""

    include: tuple[str, ...] = ()
    params: dict[str, Param] = Field(default_factory=dict)
    start_from: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Space:
    """A composed search space.

    Attributes:
        params: dotted key of the trial's config to its range, conditions before what depends on them.
        start_from: proposals to begin with, dotted keys to values; keys left out keep the base config's value.
        labels: a word for each starting point.
    """

    params: dict[str, Param]
    start_from: list[Point] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def sample(self, trial: "optuna.Trial", before: Callable[[str], None] = lambda key: None) -> Point:
        """Values for a trial; keys whose condition fails are absent. Asking twice gives the same.

        Args:
            trial: of Optuna, which remembers the values.
            before: called with each key ahead of its proposal.
        """
        values: Point = {}
        for key, param in self.params.items():
            if all(other in values and condition.holds(values[other]) for other, condition in param.when.items()):
                before(key)
                values[key] = param.propose(trial, key)
        return values

    def complete(self, point: Point) -> bool:
        """Whether a point has all its values; a driver that is killed while it samples leaves one that has not."""
        return all(
            key in point
            for key, param in self.params.items()
            if all(other in point and condition.holds(point[other]) for other, condition in param.when.items())
        )

    def without(self, fixed: Mapping[str, Any]) -> "Space":
        """The space after the user fixed some keys: they are searched no longer, and conditions on them are decided."""
        params = {}
        for key, param in self.params.items():
            decided = {other: c for other, c in param.when.items() if other in fixed}
            if key in fixed or not all(c.holds(fixed[other]) for other, c in decided.items()):
                continue
            left = {other: c for other, c in param.when.items() if other not in decided}
            params[key] = param.model_copy(update={"when": left})
        points, labels = [], []
        for point, label in zip(self.start_from, self.labels, strict=True):
            remaining = {key: value for key, value in point.items() if key in params}
            if remaining not in points:
                points.append(remaining)
                labels.append(label)
        return Space(params, points, labels)

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back."""
        params = {
            key: param.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for key, param in self.params.items()
        }
        return {"params": params, "start_from": self.start_from, "labels": self.labels}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> "Space":
        """Read a space that `as_dict` wrote."""
        file = check(SpaceFile, {"params": data["params"], "start_from": data["start_from"]}, source)
        return cls(file.params, list(file.start_from), list(data["labels"]))

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with the ranges."""
        text = json.dumps(self.as_dict()["params"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def shipped_space(*parts: str) -> Path:
    """Where a file of the `search_spaces` package lies."""
    return Path(str(files("search_spaces").joinpath(*parts)))


def space_for(spec: str) -> Space:
    """The space of a composition: the method's file, then each regularizer's, with what they include.

    Starting points: every file's first one together (the authors' settings); the same with every regularizer at its
    neutral value, so that a search holds its own baseline; then, a file at a time, its other ones.

    Raises:
        UserError: a file is missing or wrong; the sentence names it and the key.
    """
    method, regularizers = split_spec(spec)
    parts = {method: _read(shipped_space(f"{method}.yaml"), f"{method}.")}
    first = dict(parts[method].start_from[0])
    neutral: Point = {}
    for name in regularizers:
        prefix = f"regularizers.{name}."
        parts[name] = _read(shipped_space("regularizers", f"{name}.yaml"), prefix)
        first |= parts[name].start_from[0]
        neutral |= {prefix + key: value for key, value in registry.find("regularizer", name).neutral.items()}
    points, labels = [first], [AUTHORS]
    if neutral:
        points.append({**first, **neutral})
        labels.append(BASELINE)
    for name, part in parts.items():
        for other in part.start_from[1:]:
            points.append({**{key: value for key, value in first.items() if key not in part.params}, **other})
            labels.append(f"{name}: " + ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in other.items()))
    return Space({key: param for part in parts.values() for key, param in part.params.items()}, points, labels)


def space_of_choice(spec: str, choices: Sequence[str]) -> Space:
    """The space of a composition and of one more regularizer, which is itself searched: a key `regularizer`.

    Starting points: with each of them, at its authors' setting; `none` is the un-regularized start.

    Raises:
        UserError: as of `space_for`.
    """
    plain = space_for(spec)
    params = {CHOICE: Param(choice=tuple(choices)), **plain.params}
    points, labels = [], []
    for name in choices:
        space = plain if name == NONE else space_for(f"{spec}+{name}")
        for key, param in space.params.items():
            if key not in params:
                params[key] = param.model_copy(update={"when": {CHOICE: Condition(one_of=(name,)), **param.when}})
        points.append({CHOICE: name, **space.start_from[0]})
        labels.append(BASELINE if name == NONE else f"{name}: {AUTHORS}")
    return Space(params, points, labels)


def _read(path: Path, prefix: str) -> Space:
    """One file and what it includes, with dotted keys of the trial's config."""
    file = check(SpaceFile, read_yaml(path), str(path))
    params: dict[str, Param] = {}
    for name in file.include:
        params |= _read(path.parent / f"{name}.yaml", "").params
    own: dict[str, Param] = {}
    for key, param in file.params.items():
        for other in param.when:
            if f"{prefix}{other}" not in own:
                problem = "must stand above it" if other in file.params else f"is no key, {suggest(other, file.params)}"
                raise UserError(f"{path}: params.{key}.when: '{other}' {problem}")
        own[prefix + key] = param.model_copy(update={"when": {prefix + k: c for k, c in param.when.items()}})
    for number, point in enumerate(file.start_from, 1):
        for key, value in point.items():
            if prefix + key not in own:
                raise UserError(f"{path}: start_from, point {number}: unknown key '{key}', {suggest(key, file.params)}")
            if not own[prefix + key].contains(value):
                raise UserError(f"{path}: start_from, point {number}: {key}: {value!r} is outside {own[prefix + key]}")
    points = [{prefix + key: value for key, value in point.items()} for point in file.start_from or ({},)]
    return Space({**params, **own}, points, [""] * len(points))
