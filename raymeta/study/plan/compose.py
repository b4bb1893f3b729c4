"""A search space with what the user says of it laid over it, and compared with the schema of the trials."""

import copy
from collections.abc import Container, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import create_model
from pydantic.fields import FieldInfo

from raymeta.config import CHOSEN
from raymeta.errors import UserError, suggest
from raymeta.schema import Section, check, nearest_key
from raymeta.study.plan.own import Own, Start, as_param, searchable
from raymeta.study.plan.param import Param, Point
from raymeta.study.plan.space import BASELINE, CHOICE, Space, chosen, in_order

Fields = Mapping[str, FieldInfo]


def composed(space: Space, own: Own, fields: Fields, method: str, choices: Sequence[str] = ()) -> Space:
    """The space that is searched.

    Args:
        space: of the composition's files.
        own: what the user says.
        fields: key to field of the trials' schema.
        method: of the trials; see `searchable`.
        choices: regularizers whose keys are searched where they are chosen.

    Raises:
        UserError: a key that no trial has, or that cannot be searched; a range that its schema does not allow.
    """
    params = {
        key: param
        for key, param in space.params.items()
        if key == CHOICE or not (own.replace or _of_another(key, fields))
    }
    origins = {key: space.origins[key] for key in params if key in space.origins}
    for key, param in params.items():
        if key != CHOICE:
            _compare(key, param, fields, f"{origins.get(key, 'the search space')}: {key}")
    for key, said in own.ranges.items():
        if key not in fields:
            raise UserError(f"{said.source}: {_unknown(key, fields)}")
        section, _, last = key.partition(".")
        literal = len(_values(fields[key])) > 1  # names of one section with one schema: adam and sgd
        chooses = section in CHOSEN and last == CHOSEN[section].key and not literal
        if chooses or not searchable(key, fields[key], method):
            raise UserError(f"{said.source}: '{key}' is the same for all trials of a study; give it one value")
        form = as_param(said, whole=int in _kinds(fields[key]) and float not in _kinds(fields[key]))
        param = _compare(key, check(Param, form, said.source), fields, said.source)
        if param.one_value:
            low, _ = param.float_ or param.int_ or (None, None)
            raise UserError(f"{said.source}: the range {param} is one value; say {key}={low}, the same for all trials")
        if "when" not in form and key in space.params:
            param = param.model_copy(update={"when": space.params[key].when})
        _compare_conditions(param, fields, said.source)
        for name in choices:
            param = chosen(param, name) if key.startswith(f"regularizers.{name}.") else param
        params[key], origins[key] = param, said.origin
    first = [(_start(start, params, fields), start.label) for start in own.start_from]
    shipped = [] if own.replace and first else space.starts
    left = [({key: value for key, value in point.items() if key in params}, label) for point, label in shipped]
    return Space(in_order(params), origins=origins).starting([*first, *left])


def whole(space: Space, values: Mapping[str, Any], own: Container[str] = ()) -> Space:
    """The space with its starting points made whole by the base config's values.

    Args:
        space: conditions on keys that it does not search are decided by the values.
        values: of the base config.
        own: keys whose range is the user's: a starting point takes the nearest value in it.

    Raises:
        UserError: a value is outside a range that is not the user's.
    """
    for key in space.params:
        if key not in values:
            raise UserError(f"the search space names '{key}', which no trial has: {suggest(key, values)}")
    conditions = {other for param in space.params.values() for other in param.when}
    space = space.without({key: values[key] for key in conditions if key not in space.params})
    starts = []
    for point, label in space.starts or [({}, "the preset's setting")]:
        full: Point = {}
        moved = False
        for key, param in space.params.items():
            if not all(other in full and c.holds(full[other]) for other, c in param.when.items()):
                continue
            full[key] = value = point.get(key, values[key])
            if param.contains(value):
                continue
            if key not in own:
                raise UserError(
                    f"{key}: the starting point '{label}' takes {value!r} from the preset, "
                    f"which is outside the searched range {param}"
                )
            full[key], moved = param.nearest(value), True
        starts.append((full, f"{label}, moved into your ranges" if moved and label != BASELINE else label))
    return space.starting(starts)


def takes_list(field: FieldInfo) -> bool:
    """Whether the values of a key are lists, so that a list is one of them and no choice."""
    return any(get_origin(kind) in (tuple, list) for kind in _kinds(field))


def _of_another(key: str, fields: Fields) -> bool:
    """Whether it is a key of other choices of its section than this one: `outer.lr`, where TRPO has no step size."""
    return key.partition(".")[0] in CHOSEN and key not in fields


def _compare(key: str, param: Param, fields: Fields, source: str) -> Param:
    """The range with its values as the schema reads them, if it allows them and they are of its kind."""
    if key not in fields:
        raise UserError(f"{source}: {_unknown(key, fields)}")
    kinds = _kinds(fields[key])
    if param.choice is not None:
        choice = tuple(_valid(key, value, fields[key], source) for value in param.choice)
        return param.model_copy(update={"choice": choice})
    if not kinds & {int, float}:
        names = [str(value).lower() if isinstance(value, bool) else str(value) for value in _values(fields[key])]
        takes = f"it takes {' or '.join(names)}; name some, with commas" if names else "it takes no numbers"
        raise UserError(f"{source}: '{key}' has no range of numbers: {takes}")
    if param.float_ is not None and float not in kinds:
        raise UserError(f"{source}: '{key}' takes whole numbers only: int in place of float")
    for end in param.float_ or param.int_ or ():
        _valid(key, end, fields[key], source)
    return param


def _compare_conditions(param: Param, fields: Fields, source: str) -> None:
    for other, condition in param.when.items():
        if other == CHOICE:
            continue
        if other not in fields:
            raise UserError(f"{source}: when: {_unknown(other, fields)}")
        if (condition.above, condition.below) != (None, None) and not _kinds(fields[other]) & {int, float}:
            raise UserError(f"{source}: when: '{other}' is no number; expected one_of")
        for value in condition.one_of or ():
            _valid(other, value, fields[other], f"{source}: when")


def _start(start: Start, params: Mapping[str, Param], fields: Fields) -> Point:
    point: Point = {}
    for key, value in start.point.items():
        if key not in params:
            raise UserError(f"{start.source}: '{key}' is not searched, {suggest(key, params)}")
        point[key] = value if key == CHOICE else _valid(key, value, fields[key], start.source)
        if not params[key].contains(point[key]):
            raise UserError(f"{start.source}: {key}: {value!r} is outside {params[key]}")
    return point


def _valid(key: str, value: Any, field: FieldInfo, source: str) -> Any:
    """A value as the schema reads it, by the rules of its field alone."""
    one = create_model("Key", __base__=Section, **{key: (field.annotation, copy.copy(field))})  # type: ignore[call-overload]
    return getattr(check(one, {key: value}, source), key)


def _kinds(field: FieldInfo) -> set[Any]:
    """The types of its values, but for null and named values."""
    union = get_origin(field.annotation) in (Union, UnionType)
    parts = get_args(field.annotation) if union else (field.annotation,)
    return {part for part in parts if part is not NoneType and get_origin(part) is not Literal}


def _values(field: FieldInfo) -> list[Any]:
    """The values that its schema names."""
    if field.annotation is bool:
        return [True, False]
    parts = (field.annotation, *get_args(field.annotation))
    return [value for part in parts if get_origin(part) is Literal for value in get_args(part)]


def _unknown(key: str, fields: Fields) -> str:
    if below := next((other for other in fields if other.startswith(f"{key}.")), None):
        return f"'{key}' is a section; say its keys in full, as in {below}"
    near = nearest_key(key, fields)
    sections = ", ".join(dict.fromkeys(other.rpartition(".")[0] for other in fields if "." in other))
    return f"unknown key '{key}', " + (f"did you mean '{near}'?" if near else f"allowed: keys of {sections}")
