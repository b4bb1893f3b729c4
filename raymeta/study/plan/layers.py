"""The config of a study's trials but for what is searched, put together in layers.

From the bottom: defaults, those of the data set, its preset (or the problem's), `--preset` on top of its own bases,
`--task`, what the user fixes. A row of a table is whole: the data set's preset is not below it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_spec
from raymeta.errors import UserError, suggest
from raymeta.problem import find_problem, parse_task
from raymeta.schema import Section, check, flatten, merge, nest
from raymeta.storage.files import read_yaml
from raymeta.storage.places import expanded
from raymeta.study.plan.own import Said
from raymeta.study.plan.tables import is_file, named_file, row_of


class StudyConfig(Section):
    """The `study` section of a preset: how many trials, when the weak ones are cut, and how the best is found."""

    trials: int = Field(32, ge=1)
    first_rung: int = Field(500, ge=1, description="Outer steps before a trial can be cut.")
    reduction: int = Field(3, ge=2, description="One in this many passes a rung.")
    halving: Literal["stopping", "promoting"] = Field(
        "promoting",
        description="A trial that is not among the best of a rung waits until it is (promoting) or is cut (stopping).",
    )
    startup_trials: int = Field(8, ge=0, description="Random proposals before TPE's.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the proposals.")
    hung_after_s: float | None = Field(
        None,
        gt=0,
        description="Seconds without a round after which a trial's worker is killed; it goes on from its checkpoint. "
        "null: twenty of the longest rounds so far, and ten minutes at least.",
    )
    finalists: int = Field(5, ge=0, description="Top trials scored on fresh episodes at the end; 0: none.")
    finalist_tasks: int | None = Field(
        None, ge=2, description="Fresh validation episodes; null: four times budget.validation_tasks."
    )
    finalist_seeds: int = Field(
        0, ge=0, description="Seeds with which each finalist is trained again, at its full budget."
    )
    also: tuple[str, ...] = Field((), description="Trackers beside MLflow that get a copy: tensorboard, wandb.")


SCALE = "it is what `raymeta final --scale` sets; leave it out"


class Layer(NamedTuple):
    """A part of the config, what a sentence about it begins with, and where it is from in short.

    Attributes:
        whole: it needs no preset of its data set's below it.
    """

    data: dict[str, Any]
    source: str
    origin: str
    whole: bool = False


class Base(NamedTuple):
    """The trials' config, the study's settings, and where their keys are from, but for defaults and fixed ones."""

    config: TrialConfig
    study: StudyConfig
    origins: dict[str, str]


def base_of(spec: str, task: str | None, preset: str | Path | None, fixed: Mapping[str, Said]) -> Base:
    """Put the layers together.

    Raises:
        UserError: a name, a key or a value is wrong; the sentence names the preset's file if it is that.
    """
    asked = parse_task(task) if task else {}
    chosen = preset_layers(preset) if preset else []
    where = {**merge(*(layer.data for layer in chosen)).get("task", {}), **asked}
    named = str(where.get("dataset") or where.get("problem") or "glyphs")
    defaults = {"task": {**parse_task(named), **find_problem(named).task_defaults}}
    layers = [
        Layer(defaults, "config", f"defaults of {named}"),
        *([] if any(layer.whole for layer in chosen) or named not in registry.presets() else preset_layers(named)),
        *chosen,
        Layer({"task": asked}, "config", "--task"),
    ]
    try:
        config, study = _parsed(spec, layers, fixed, "config")
    except UserError:
        for number, layer in enumerate(layers, 1):  # the first with which it goes wrong is the one to name
            _parsed(spec, layers[:number], {}, layer.source)
        for source in {said.source for said in fixed.values()} - {"config"}:
            _parsed(spec, layers, {key: said for key, said in fixed.items() if said.source == source}, source)
        raise
    origins = {key: layer.origin for layer in layers for key in flatten(layer.data)}
    config.task.refuse_ignored([f"task.{key}" for key in asked] + list(fixed))
    known = {*config.flat(), *(f"study.{key}" for key in StudyConfig.model_fields)}
    left = {key: origin for key, origin in origins.items() if key in known and key not in fixed}
    return Base(config, study, left)


def _parsed(
    spec: str, layers: Sequence[Layer], fixed: Mapping[str, Said], source: str
) -> tuple[TrialConfig, StudyConfig]:
    """The layers of a composition: of methods and regularizers that a preset has settings of, its own."""
    method, regularizers = split_spec(spec)
    data = merge(*(layer.data for layer in layers))
    added = {name: data.get("regularizers", {}).get(name, {}) for name in regularizers}
    shared = {key: value for key, value in data.items() if key not in registry.names("method")}
    values = nest({key: said.value for key, said in fixed.items()})
    data = merge({**shared, **_section(method, data), "method": method, "regularizers": added}, values)
    for name in data["regularizers"]:
        if name not in regularizers and name in registry.names("regularizer"):
            raise UserError(f"{source}: regularizers.{name}: {spec} has no {name}; write {spec}+{name}")
    study = check(StudyConfig, data.pop("study", {}), "study" if source == "config" else f"{source}: study")
    return parse_trial(data, source, ["study", *(f"study.{key}" for key in StudyConfig.model_fields)]), study


def _section(method: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own section of a preset, on top of what it takes over from those of other methods.

    A preset serves many methods: what it says of MAML's inner loop holds for all that only change a part of it.
    """
    cls = registry.find("method", method)
    shared = merge(*(preset.get(name, {}) for name in cls.presets_of))
    known = {key: v for key, v in shared.items() if key in cls.Config.model_fields and key not in cls.own_settings}
    return {method: merge(known, preset.get(method, {}))}


def preset_layers(preset: str | Path, above: tuple[Path, ...] = ()) -> list[Layer]:
    """A preset by its name or its file, with those that it builds on (`base`) before it.

    Args:
        preset: a name, that of a row of a table (`alfa-table1/mini-5w1s-maml`), or a file.
        above: files that build on it.

    Raises:
        UserError: there is none, or it is none.
    """
    if (row := row_of(preset)) is None:
        return _with_bases(expanded(preset) if is_file(preset) else named_file(str(preset)), above)
    layer = Layer(row.data, f"{row.file}: {row.name.partition('/')[2]}", row.name, whole=True)
    return [*_bases(row.base, row.file, above), _checked(layer)]


def _with_bases(path: Path, above: tuple[Path, ...]) -> list[Layer]:
    data = read_yaml(path)
    if "methods" in data:
        raise UserError(f"{path}: it is a table; name one of its rows, as in {path}/TASK-METHOD")
    base = data.pop("base", None)
    own = _checked(Layer(data, str(path), "/".join(path.parts[-2:])))
    return [*_bases(base, path, above), own]


def _checked(layer: Layer) -> Layer:
    """Every section is one, and the regularizers' are of such; the budget is not said to be shortened."""
    for key, value in [*layer.data.items(), *_mapping(layer.data, "regularizers").items()]:
        if not isinstance(value, Mapping) and key != "seed":
            raise UserError(f"{layer.source}: {key}: expected a section of keys, found {value!r}")
    if "scale" in _mapping(layer.data, "budget"):
        raise UserError(f"{layer.source}: budget.scale: {SCALE}")
    for name in _mapping(layer.data, "regularizers"):
        if name not in registry.names("regularizer"):
            known = suggest(name, registry.names("regularizer"))
            raise UserError(f"{layer.source}: regularizers: unknown regularizer '{name}', {known}")
    return layer


def _bases(base: Any, path: Path, above: tuple[Path, ...]) -> list[Layer]:
    """What a file builds on: a preset beside it, or one by its name, which may be a row of a table."""
    if base is None:
        return []
    if not isinstance(base, str):
        raise UserError(f"{path}: base: expected a preset's name or file, found {base!r}")
    beside = path.parent / base
    row = None if beside.is_file() or "/" not in base or is_file(base) else row_of(base)
    below = row.file if row else beside if beside.is_file() else registry.preset_file(base)
    if below in (path, *above):
        raise UserError(f"{path}: base: {base} builds on this file")
    if row is not None:
        return preset_layers(base, (path, *above))
    if below is None:
        known = suggest(base, [*registry.presets(), *(file.name for file in path.parent.glob("*.yaml"))])
        raise UserError(f"{path}: base: unknown preset '{base}', {known}")
    return _with_bases(below, (path, *above))


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}
