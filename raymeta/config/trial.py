"""The one schema of a trial: typed, strict, frozen.

The same mapping is what a search proposes, what Ray passes to a worker, what MLflow stores, what a checkpoint carries,
what `raymeta export` writes and what `raymeta final` reads. The sections of a method and of its regularizers are their
own `Config` classes; `trial_schema` puts them together.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from raymeta import registry
from raymeta.config.migration import migrated
from raymeta.config.sections import BudgetConfig, EngineConfig, OuterConfig, PretrainingConfig, TaskConfig
from raymeta.errors import UserError, suggest
from raymeta.models import BACKBONES, Conv4Config, ModelConfig
from raymeta.schema import Section, check, flatten, merge, numbers, structure
from raymeta.storage.files import dump_yaml


class TrialConfig(Section):
    """A whole trial. Use `parse_trial`, which knows the sections of the method and the regularizers."""

    method: str
    regularizers: BaseModel
    model: ModelConfig = Conv4Config()
    task: TaskConfig = TaskConfig()
    outer: OuterConfig = OuterConfig()
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

    def structure(self) -> tuple[tuple[str, Any], ...]:
        """All other settings, hashable; without the seed, which a program takes as it takes data."""
        return tuple(pair for pair in structure(self) if pair[0] != "seed")

    def as_dict(self) -> dict[str, Any]:
        """Plain data: nested dicts, lists, strings, numbers, booleans and nulls."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """Dotted keys to values, as MLflow shows them."""
        return flatten(self.as_dict())

    def to_yaml(self) -> str:
        """YAML that `parse_trial` reads back to an equal config."""
        return dump_yaml(self.as_dict())


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
    """`maml+dropgrad:rate=0.2,noise=binary` to `maml+dropgrad` and the `key=value` words that it stands for."""
    names, words = [], []
    for number, part in enumerate(spec.split("+")):
        name, _, settings = (piece.strip() for piece in part.partition(":"))
        names.append(name)
        section = f"regularizers.{name}" if number else name
        words += [f"{section}.{setting.strip()}" for setting in settings.split(",") if setting]
    return "+".join(names), words


@cache
def trial_schema(method: str, regularizers: tuple[str, ...], problem: str = "images") -> type[TrialConfig]:
    """The schema of one composition: `TrialConfig` with the method's, the regularizers' and the problem's sections."""
    parts: dict[str, Any] = {}
    for name in regularizers:
        config = registry.find("regularizer", name).Config
        parts[name] = (config, config())
    together = create_model("Regularizers", __base__=Section, **parts)
    own, task = registry.find("method", method).Config, registry.find("problem", problem).Config
    fields: dict[str, Any] = {
        "method": (Literal[method], method),
        "regularizers": (together, together()),
        method: (own, own()),
        "task": (task, task()),
    }
    return create_model("TrialConfig", __base__=TrialConfig, **fields)


def parse_trial(data: Mapping[str, Any], source: str = "config") -> TrialConfig:
    """Check plain data against the schema that its `method` and `regularizers` keys select.

    Args:
        data: nested mapping as in a YAML file, of this or an older version; sections left out take their defaults.
        source: what the sentence of an error calls the data, a file name say.

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
    task = data.get("task", {})
    problem = task.get("problem", "images") if isinstance(task, Mapping) else "images"
    schema = trial_schema(*split_spec("+".join([method, *map(str, sections)])), str(problem))
    config = check(schema, _with_defaults(method, data), source)
    registry.find("problem", config.task.problem).check(config.task)
    return config


def _with_defaults(method: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data on top of the method's own defaults, of which those are left out that the chosen model does not have."""
    defaults = {section: dict(values) for section, values in registry.find("method", method).defaults.items()}
    model = data.get("model", {})
    backbone = BACKBONES.get(model.get("name", "conv4")) if isinstance(model, Mapping) else None
    if backbone is not None and "model" in defaults:
        fields = backbone.Config.model_fields
        known = {key: value for key, value in defaults["model"].items() if key in fields}
        defaults["model"] = known if "model" in data else {"name": "conv4", **known}
    return merge(defaults, data)
