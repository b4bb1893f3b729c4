"""The one schema of a trial: typed, strict, frozen.

The same mapping is what a search proposes, what Ray passes to a worker, what MLflow stores, what a checkpoint carries,
what `raymeta export` writes and what `raymeta final` reads. The sections of a method and of its regularizers are their
own `Config` classes, and so are those of the backbone and the outer step; `trial_schema` puts them
together.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, create_model

from raymeta import registry
from raymeta.config.migration import migrated
from raymeta.config.sections import BudgetConfig, EngineConfig, OuterConfig, PretrainingConfig, TaskConfig
from raymeta.errors import UserError, suggest
from raymeta.schema import Section, check, flatten, merge, not_a_value, numbers, structure
from raymeta.storage.files import dump_yaml


class Choice(NamedTuple):
    """A section whose class is registered: one of its own keys names it. Its `Config` has that key, as a literal."""

    key: str
    kind: registry.Kind
    default: str


CHOSEN = {
    "model": Choice("name", "backbone", "conv4"),
    "task": Choice("problem", "problem", "images"),
    "outer": Choice("optimizer", "outer", "adam"),
}


class TrialConfig(Section):
    """A whole trial. Use `parse_trial`, which knows the sections of the method, the regularizers, the backbone and the
    outer step.
    """

    method: str
    regularizers: BaseModel
    model: Any
    task: TaskConfig = TaskConfig()
    outer: Any = OuterConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    budget: BudgetConfig = BudgetConfig()
    engine: EngineConfig = EngineConfig()
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the initial weights, the training episodes and all noise."
    )

    @property
    def settings(self) -> Any:
        """The method's own section, an instance of its `Config`."""
        return getattr(self, self.method)

    @property
    def spec(self) -> str:
        """What a user types: `maml+dropgrad`."""
        return "+".join([self.method, *type(self.regularizers).model_fields])

    def numbers(self) -> dict[str, float]:
        """The settings that are numbers, by dotted key: trials that differ in them alone can share a program."""
        return numbers(self)

    def structure(self, *, mixed: bool = True) -> tuple[tuple[str, Any], ...]:
        """What is composed and all other settings, hashable; without the seed, which a program takes as data.

        Args:
            mixed: with the settings that lanes of one program may differ in (`raymeta.schema.MIXED`).
        """
        return (("spec", self.spec), *(pair for pair in structure(self, mixed=mixed) if pair[0] != "seed"))

    def as_dict(self) -> dict[str, Any]:
        """Plain data: nested dicts, lists, strings, numbers, booleans and nulls."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """Dotted keys to values, as MLflow shows them."""
        return flatten(self.as_dict())

    def to_yaml(self) -> str:
        """YAML that `parse_trial` reads back to an equal config."""
        return dump_yaml(self.as_dict())

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle is the plain data: a composition's own class has no name by which another process could find it."""
        return parse_trial, (self.as_dict(),)


def split_spec(spec: str) -> tuple[str, tuple[str, ...]]:
    """`maml+dropgrad` to the method and its regularizers.

    Raises:
        UserError: a name is not known, or a regularizer is given twice.
    """
    method, *regularizers = (part.strip() for part in spec.split("+"))
    registry.find("method", method)
    for name in regularizers:
        registry.find("regularizer", name)
        if regularizers.count(name) > 1:
            raise UserError(f"'{spec}': the regularizer '{name}' is given twice")
    return method, tuple(regularizers)


def split_settings(spec: str) -> tuple[str, list[str]]:
    """`maml+dropgrad:rate=0.2,noise=binary` to `maml+dropgrad` and the `key=value` words that it stands for.

    What stands between commas without a `=` is one more choice of the key before it: `dropgrad:noise=gaussian,binary`.
    """
    names, words = [], []
    for number, part in enumerate(spec.split("+")):
        name, _, settings = (piece.strip() for piece in part.partition(":"))
        names.append(name)
        section = f"regularizers.{name}" if number else name
        own: list[str] = []
        for setting in filter(None, map(str.strip, settings.split(","))):
            if "=" in setting or not own:
                own.append(f"{section}.{setting}")
            else:
                own[-1] += f",{setting}"
        words += own
    return "+".join(names), words


def trial_schema(method: str, regularizers: tuple[str, ...] = (), **chosen: str) -> type[TrialConfig]:
    """The schema of one composition: `TrialConfig` with the sections of what is registered under these names.

    Args:
        method: a learner.
        regularizers: what is added to it.
        chosen: a section of `CHOSEN` to the name that its key has, as in `model="mlp"`; left out: its default.
    """
    added = tuple((name, registry.find("regularizer", name).Config) for name in regularizers)
    sections = [(method, registry.find("method", method).Config)]
    for section, choice in CHOSEN.items():
        name = chosen.get(section, choice.default)
        config = registry.find(choice.kind, name).Config
        if choice.key not in config.model_fields:
            raise UserError(f"{choice.kind} '{name}': its Config lacks `{choice.key}: Literal['{name}'] = '{name}'`")
        sections.append((section, config))
    return _schema(method, added, tuple(sections))


@cache
def _schema(
    method: str, regularizers: tuple[tuple[str, Any], ...], sections: tuple[tuple[str, Any], ...]
) -> type[TrialConfig]:
    added: dict[str, Any] = {name: (config, config()) for name, config in regularizers}
    together = create_model("Regularizers", __base__=Section, **added)
    fields: dict[str, Any] = {
        "method": (Literal[method], method),
        "regularizers": (together, together()),
        **{section: (config, config()) for section, config in sections},
    }
    return create_model("TrialConfig", __base__=TrialConfig, **fields)


def parse_trial(data: Mapping[str, Any], source: str = "config", others: Iterable[str] = ()) -> TrialConfig:
    """Check plain data against the schema that its `method`, `regularizers` and the keys of `CHOSEN` select.

    Args:
        data: nested mapping as in a YAML file, of this or an older version; sections left out take their defaults.
        source: what the sentence of an error calls the data, a file name say.
        others: keys of other schemas that a user may have meant.

    Raises:
        UserError: one sentence with the key, what was found, what is allowed and the nearest match.
    """
    data = migrated(data)
    method = data.get("method")
    if not isinstance(method, str):
        raise UserError(f"{source}: the key 'method' must name a method: {suggest('', registry.names('method'))}")
    sections = data.get("regularizers", {})
    if not isinstance(sections, Mapping):
        raise UserError(f"{source}: 'regularizers' must map names to settings, found {sections!r}")
    chosen = {section: _chosen(data, section, source) for section in CHOSEN}
    method, regularizers = split_spec("+".join([method, *map(str, sections)]))
    schema = trial_schema(method, regularizers, **chosen)
    defaults = _defaults(method, schema, {section: {CHOSEN[section].key: name} for section, name in chosen.items()})
    config = check(schema, merge(defaults, data), source, others)
    registry.find("problem", config.task.problem).check(config.task)
    return config


def _chosen(data: Mapping[str, Any], section: str, source: str) -> str:
    """The name that a section's own key has."""
    key, kind, default = CHOSEN[section]
    values = data.get(section)
    name = values.get(key, default) if isinstance(values, Mapping) else default
    if name not in (names := registry.names(kind)):
        raise UserError(f"{source}: {not_a_value(f'{section}.{key}', name, names)}")
    return str(name)


def _defaults(method: str, schema: type[TrialConfig], names: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own defaults of other sections, of which those are left out that a chosen section does not have."""
    learner = registry.find("method", method)
    defaults = merge(learner.defaults)
    for section in names.keys() & defaults.keys():
        known = schema.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        defaults[section] = {key: value for key, value in defaults[section].items() if key in known}
    return merge(defaults, {"model": learner.networks.get(names["model"]["name"], {})}, names)
