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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raymeta import registry
from raymeta.config import split_spec
from raymeta.errors import UserError, suggest
from raymeta.schema import Section, check
from raymeta.storage.files import read_yaml
from raymeta.study.plan.param import Condition, Param, Point

if TYPE_CHECKING:
    import optuna

CHOICE = "regularizer"  # the key of a search over the choice of regularizer
NONE = "none"
AUTHORS = "authors' setting"  # labels of starting points
BASELINE = "un-regularized"


class SpaceFile(Section):
    """The search space of a method or a regularizer."""

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
        origins: where the range of a key is from, in short.
    """

    params: dict[str, Param]
    start_from: list[Point] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    def starting(self, starts: Iterable[tuple[Point, str]]) -> "Space":
        """The same ranges with these starting points and their labels; of equal points the first."""
        points: list[Point] = []
        labels: list[str] = []
        for point, label in starts:
            if point not in points:
                points.append(point)
                labels.append(label)
        return replace(self, start_from=points, labels=labels)

    @property
    def starts(self) -> list[tuple[Point, str]]:
        """Starting points with their labels."""
        return list(zip(self.start_from, self.labels, strict=True))

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
        starts = [({key: v for key, v in point.items() if key in params}, label) for point, label in self.starts]
        origins = {key: origin for key, origin in self.origins.items() if key in params}
        return Space(params, origins=origins).starting(starts)

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back."""
        params = {
            key: param.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for key, param in self.params.items()
        }
        return {"params": params, "start_from": self.start_from, "labels": self.labels, "origins": self.origins}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> "Space":
        """Read a space that `as_dict` wrote."""
        file = check(SpaceFile, {"params": data["params"], "start_from": data["start_from"]}, source)
        return cls(file.params, list(file.start_from), list(data["labels"]), dict(data.get("origins", {})))

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with the ranges."""
        text = json.dumps(self.as_dict()["params"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def space_for(spec: str) -> Space:
    """The space of a composition: the method's file, then each regularizer's, with what they include.

    Starting points: every file's first one together (the authors' settings); the same with every regularizer at its
    neutral value, so that a search holds its own baseline; then, a file at a time, its other ones. What has no file
    adds nothing (`unsearched`).

    Raises:
        UserError: a file is wrong; the sentence names it and the key.
    """
    method, regularizers = split_spec(spec)
    parts = {method: _space_of("method", method, f"{method}.")}
    for name in regularizers:
        parts[name] = _space_of("regularizer", name, f"regularizers.{name}.")
    first = {key: value for part in parts.values() for key, value in part.start_from[0].items()}
    starts = [(first, AUTHORS)]
    if neutral := neutral_point(spec):
        starts.append(({**first, **neutral}, BASELINE))
    for name, part in parts.items():
        for other in part.start_from[1:]:
            rest = {key: value for key, value in first.items() if key not in part.params}
            label = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in other.items())
            starts.append(({**rest, **other}, f"{name}: {label}"))
    params = {key: param for part in parts.values() for key, param in part.params.items()}
    origins = {key: origin for part in parts.values() for key, origin in part.origins.items()}
    return Space(params, [point for point, _ in starts], [label for _, label in starts], origins)


def neutral_point(spec: str) -> Point:
    """Settings at which the regularizers of a composition change nothing."""
    found: Point = {}
    for name in split_spec(spec)[1]:
        neutral = registry.find("regularizer", name).neutral
        found |= {f"regularizers.{name}.{key}": value for key, value in neutral.items()}
    return found


def unsearched(spec: str) -> dict[str, str]:
    """What of a composition has no space of its own, with the section of its keys."""
    method, regularizers = split_spec(spec)
    found = {} if registry.space_file("method", method) else {method: method}
    none = [name for name in regularizers if registry.space_file("regularizer", name) is None]
    return found | {name: f"regularizers.{name}" for name in none}


def space_of_choice(spec: str, choices: Sequence[str]) -> Space:
    """The space of a composition and of one more regularizer, which is itself searched: a key `regularizer`.

    Starting points: with each of them, at its authors' setting; `none` is the un-regularized start.

    Raises:
        UserError: as of `space_for`.
    """
    plain = space_for(spec)
    params, origins = {CHOICE: Param(choice=tuple(choices)), **plain.params}, {CHOICE: "--choose", **plain.origins}
    starts: list[tuple[Point, str]] = []
    for name in choices:
        space = plain if name == NONE else space_for(f"{spec}+{name}")
        params |= {key: chosen(param, name) for key, param in space.params.items() if key not in params}
        origins = space.origins | origins
        starts.append(({CHOICE: name, **space.start_from[0]}, BASELINE if name == NONE else f"{name}: {AUTHORS}"))
    return Space(params, [point for point, _ in starts], [label for _, label in starts], origins)


def chosen(param: Param, name: str) -> Param:
    """A key that is searched where this regularizer is chosen."""
    return param.model_copy(update={"when": {CHOICE: Condition(one_of=(name,)), **param.when}})


def in_order(params: Mapping[str, Param]) -> dict[str, Param]:
    """The same with conditions before what depends on them.

    Raises:
        UserError: they go in a circle.
    """
    left, found = dict(params), dict[str, Param]()
    while left:
        ready = [key for key, param in left.items() if not any(other in left for other in param.when)]
        if not ready:
            raise UserError(f"the search space: the conditions (when) of {' and '.join(left)} go in a circle")
        found |= {ready[0]: left.pop(ready[0])}
    return found


def _space_of(kind: Literal["method", "regularizer"], name: str, prefix: str) -> Space:
    path = registry.space_file(kind, name)
    return _read(path, prefix) if path else Space({}, [{}], [""])


def _read(path: Path, prefix: str) -> Space:
    """One file and what it includes, with dotted keys of the trial's config."""
    file = check(SpaceFile, read_yaml(path), str(path))
    included = [_read(_included(name, path), "") for name in file.include]
    params = {key: param for one in included for key, param in one.params.items()}
    origins = {key: origin for one in included for key, origin in one.origins.items()}
    own: dict[str, Param] = {}
    for key, param in file.params.items():
        for other in param.when:
            if f"{prefix}{other}" not in own:
                problem = "must stand above it" if other in file.params else f"is no key, {suggest(other, file.params)}"
                raise UserError(f"{path}: params.{key}.when: '{other}' {problem}")
        if param.one_value:
            raise UserError(f"{path}: params.{key}: the range {param} is one value, so nothing of it is searched")
        own[prefix + key] = param.model_copy(update={"when": {prefix + k: c for k, c in param.when.items()}})
    for number, point in enumerate(file.start_from, 1):
        for key, value in point.items():
            if prefix + key not in own:
                raise UserError(f"{path}: start_from, point {number}: unknown key '{key}', {suggest(key, file.params)}")
            if not own[prefix + key].contains(value):
                raise UserError(f"{path}: start_from, point {number}: {key}: {value!r} is outside {own[prefix + key]}")
    points = [{prefix + key: value for key, value in point.items()} for point in file.start_from or ({},)]
    origins |= dict.fromkeys(own, "/".join(path.parts[-2:]))
    return Space({**params, **own}, points, [""] * len(points), origins)


def _included(name: str, path: Path) -> Path:
    if (found := registry.shared_space(name, path)) is None:
        raise UserError(f"{path}: include: there is no {name}.yaml beside it or in a folder of spaces")
    return found
