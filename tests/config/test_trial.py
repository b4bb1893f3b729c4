"""The one schema of a trial: round trips, strictness, and sentences with the nearest match."""

import json
import pickle
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_spec, trial_schema
from raymeta.errors import UserError
from raymeta.models.norm import NormMode
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import flatten, merge, nest, parse_overrides
from raymeta.storage.files import parse_yaml

OF_IMAGES = [name for name, found in registry.working("dataset").items() if issubclass(found, ImageDataset)]
METHODS, REGULARIZERS, DATASETS = (", ".join(registry.names(kind)) for kind in ("method", "regularizer", "dataset"))

POSITIVE = st.floats(1e-12, 1e12)
COUNTS = st.integers(1, 10**9)
SEEDS = st.integers(0, 2**63 - 1)
ONE_OF: dict[str, st.SearchStrategy[Any]] = {
    "maml.order": st.sampled_from(["first", "second"]),
    "maml.inner_steps": st.integers(0, 100),
    "maml.eval_steps": st.none() | st.integers(0, 100),
    "maml.inner_lr": st.floats(0, 1e9),
    "maml.adapt_norm": st.booleans(),
    "regularizers.dropgrad.rate": st.floats(0, 1, exclude_max=True),
    "regularizers.dropgrad.noise": st.sampled_from(["gaussian", "binary"]),
    "regularizers.dropgrad.layers": st.sampled_from(["all", "last", "head", "start"]),
    "task.dataset": st.sampled_from(OF_IMAGES),
    "task.split": st.none() | st.sampled_from(["standard", "1e3", "null", "yes", "0x1", "2024-01-01", "", "é: #"]),
    "task.ways": st.integers(2, 50),
    "task.eval_queries": st.none() | COUNTS,
    "task.labels": st.sampled_from(["shuffled", "fixed"]),
    "task.bank_seed": SEEDS,
    "outer.lr": POSITIVE,
    "outer.clip_norm": st.none() | POSITIVE,
    "outer.clip_scope": st.sampled_from(["all", "model", "head", "per_module"]),
    "outer.clip_when": st.sampled_from(["after_mean", "per_task"]),
    "outer.added.lr": st.none() | POSITIVE,
    "outer.restart_every": st.none() | COUNTS,
    "outer.schedule": st.sampled_from(["constant", "cosine", "exponential"]),
    "outer.weight_decay": POSITIVE,
    "engine.tasks": st.sampled_from(["auto", "loop", "vmap"]),
    "budget.validation_tasks": st.integers(2, 10**6),
    "seed": st.integers(0, 2**32 - 1),
}
MODELS = st.fixed_dictionaries(
    {"name": st.just("conv4")},
    optional={
        "width": COUNTS,
        "norm": st.sampled_from(get_args(NormMode)),
        "norm_eps": POSITIVE,
        "conv_bias": st.booleans(),
    },
) | st.fixed_dictionaries({"name": st.just("mlp")}, optional={"hidden": st.lists(COUNTS, min_size=1, max_size=4)})
OVERRIDES = st.fixed_dictionaries({}, optional={**ONE_OF, "model": MODELS})


@settings(max_examples=60)
@given(OVERRIDES)
def test_a_config_survives_yaml_plain_data_and_pickle(overrides: dict[str, Any]) -> None:
    config = parse_trial(merge({"method": "maml"}, nest(overrides)))
    for data in (parse_yaml(config.to_yaml(), "x"), config.as_dict(), nest(config.flat())):
        assert parse_trial(data) == config
        assert parse_trial(data).as_dict() == config.as_dict()
        assert flatten(data) == config.flat()
    for key, value in flatten(nest(overrides)).items():
        assert config.flat()[key] == value
    assert pickle.loads(pickle.dumps(config)) == config


@settings(max_examples=30)
@given(OVERRIDES)
def test_overrides_on_the_command_line_are_the_same_config(overrides: dict[str, Any]) -> None:
    config = parse_trial(merge({"method": "maml"}, nest(overrides)))
    words = [f"{key}={json.dumps(value)}" for key, value in config.flat().items()]
    assert parse_trial(parse_overrides(words)) == config


@settings(max_examples=60)
@given(OVERRIDES)
def test_numbers_and_structure_and_the_seed_are_the_config(overrides: dict[str, Any]) -> None:
    config = parse_trial(merge({"method": "maml"}, nest(overrides)))
    rest = {key: value for key, value in config.structure() if key != "spec"}
    assert parse_trial(nest({**rest, **config.numbers(), "seed": config.seed})) == config
    words = {"maml.inner_lr": 0.7, "outer.lr": 0.3, "seed": 5}
    other = parse_trial(merge(config.as_dict(), nest(words)))
    assert {other.structure()} == {config.structure()}
    assert {**config.numbers(), "maml.inner_lr": 0.7, "outer.lr": 0.3} == other.numbers()


def test_compositions_are_told_apart_by_their_structure() -> None:
    """Those with a regularizer whose settings are all numbers too."""
    specs = ("maml", "anil", *(f"maml+{name}" for name in REGULARIZERS.split(", ")))
    configs = [
        parse_trial({"method": method, "regularizers": {name: {} for name in names}})
        for method, names in map(split_spec, specs)
    ]
    assert len({config.structure() for config in configs}) == len(specs)


def test_a_complete_config() -> None:
    text = """
method: maml
maml: {order: second, inner_steps: 5, inner_lr: 1e-2, adapt_norm: false}
regularizers: {dropgrad: {noise: gaussian, rate: 0.1, layers: all}}
model: {name: conv4, width: 32, norm: batch}
task: {dataset: omniglot, ways: 5, shots: 1, queries: 15, labels: shuffled}
outer: {lr: 1e-3, tasks_per_step: 4, clip: null, schedule: constant}
budget: {outer_steps: 20000, validate_every: 500, validation_tasks: 600}
seed: 0
"""
    config = parse_trial(parse_yaml(text, "x"))
    assert (config.spec, config.method, config.settings.inner_lr, config.outer.lr) == (
        "maml+dropgrad",
        "maml",
        0.01,
        1e-3,
    )
    assert isinstance(config.outer.lr, float)
    assert config.flat()["regularizers.dropgrad.rate"] == 0.1
    assert config == parse_trial({"method": "maml", "regularizers": {"dropgrad": {}}, **nest({
        "model.name": "conv4", "model.width": 32, "task.dataset": "omniglot",
    })})  # fmt: skip


def test_sections_left_out_take_their_defaults() -> None:
    config = parse_trial({"method": "maml"})
    assert config.spec == "maml"
    assert config.as_dict()["regularizers"] == {}
    assert (config.settings.inner_steps, config.model.width, config.task.ways) == (5, 64, 5)
    assert parse_trial({"method": "maml", "model": {"width": 8}}).as_dict()["model"]["name"] == "conv4"


def test_a_config_is_frozen_and_its_schema_is_made_once() -> None:
    config = parse_trial({"method": "maml"})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert type(config) is trial_schema("maml") is type(parse_trial({"method": "maml", "seed": 3}))
    assert isinstance(config, TrialConfig)


SECTIONS = "budget, engine, maml, method, model, outer, pretraining, regularizers, seed, task"
MAML_KEYS = "adapt_norm, eval_steps, first_order_share, inner_lr, inner_steps, order, zero_head"
CONV4_KEYS = (
    "activation, conv_bias, init, name, norm, norm_eps, norm_momentum, norm_scale, pools, spatial_mean, stride, width"
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"taks": {}},
            f"f.yaml: unknown key 'taks', did you mean 'task'? (allowed: {SECTIONS})",
        ),
        (
            {"maml.inner_lrr": 1},
            f"f.yaml: unknown key 'maml.inner_lrr', did you mean 'maml.inner_lr'? (allowed: {MAML_KEYS})",
        ),
        (
            {"maml.order": "secnd"},
            "f.yaml: maml.order: found 'secnd': not a value of this key, did you mean 'second'? "
            "(allowed: first, second)",
        ),
        (
            {"maml.inner_steps": "five"},
            "f.yaml: maml.inner_steps: found 'five': "
            "input should be a valid integer, unable to parse string as an integer",
        ),
        ({"maml.inner_lr": -1}, "f.yaml: maml.inner_lr: found -1: input should be greater than or equal to 0"),
        (
            {"regularizers.dropgrad.rat": 0.1},
            "f.yaml: unknown key 'regularizers.dropgrad.rat', "
            "did you mean 'regularizers.dropgrad.rate'? (allowed: layers, noise, ramp, rate)",
        ),
        ({"regularizers.dropgrad.rate": 2}, "f.yaml: regularizers.dropgrad.rate: found 2: input should be less than 1"),
        (
            {"regularizers.dropgrd": {}},
            f"unknown regularizer 'dropgrd': did you mean 'dropgrad'? (allowed: {REGULARIZERS})",
        ),
        ({"regularizers": ["dropgrad"]}, "f.yaml: 'regularizers' must map names to settings, found ['dropgrad']"),
        (
            {"model": {"name": "conv4", "widht": 3}},
            f"f.yaml: unknown key 'model.widht', did you mean 'model.width'? (allowed: {CONV4_KEYS})",
        ),
        (
            {"model": {"name": "mlp", "widht": 3}},
            "f.yaml: unknown key 'model.widht', allowed: hidden, init, name",
        ),
        (
            {"model": {"name": "mlp", "hidden": [4, "x"]}},
            "f.yaml: model.hidden.1: found 'x': input should be a valid integer, unable to parse string as an integer",
        ),
        ({"inner_lr": 0.1}, f"f.yaml: unknown key 'inner_lr', did you mean 'maml.inner_lr'? (allowed: {SECTIONS})"),
        ({"alfa.inner_lr": 0.1}, f"f.yaml: unknown key 'alfa', allowed: {SECTIONS}"),
        (
            {"model": 3},
            f"f.yaml: model: found 3: expected a section of keys, allowed: {CONV4_KEYS}",
        ),
        (
            {"model.name": "conv5"},
            "f.yaml: model.name: found 'conv5': not a value of this key, did you mean 'conv4'? "
            "(allowed: conv4, crest, mlp, policy, resnet10, resnet12, resnet18, sdnet)",
        ),
        (
            {"model": {"name": "conv4", "norm": "bacth"}},
            "f.yaml: model.norm: found 'bacth': not a value of this key, did you mean 'batch'? "
            "(allowed: batch, per_step, running, support)",
        ),
        (
            {"task.dataset": "omnigot"},
            f"unknown data set 'omnigot': did you mean 'omniglot'? (allowed: {DATASETS})",
        ),
        ({"seed": 2**32}, "f.yaml: seed: found 4294967296: input should be less than 4294967296"),
        (
            {"budget": {"outer_steps": 7, "validate_every": 2}},
            "f.yaml: budget: outer_steps (7) must be a multiple of validate_every (2)",
        ),
        ({"method": None}, f"f.yaml: the key 'method' must name a method: allowed: {METHODS}"),
        ({"method": "mamll"}, f"unknown method 'mamll': did you mean 'maml'? (allowed: {METHODS})"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_trial({"method": "maml", **nest(changes)}, "f.yaml")
    assert str(caught.value) == sentence


def test_a_missing_method() -> None:
    with pytest.raises(UserError, match=rf"^config: the key \'method\' must name a method: allowed: {METHODS}$"):
        parse_trial({})


def test_specs() -> None:
    assert split_spec("maml") == ("maml", ())
    assert split_spec(" maml + dropgrad ") == ("maml", ("dropgrad",))
    for spec, sentence in (
        ("maml+dropgrad+dropgrad", "'maml+dropgrad+dropgrad': the regularizer 'dropgrad' is given twice"),
        ("malm", f"unknown method 'malm': did you mean 'maml'? (allowed: {METHODS})"),
        ("maml+", f"unknown regularizer '': allowed: {REGULARIZERS}"),
        ("", f"unknown method '': allowed: {METHODS}"),
        (
            "dropgrad+maml",
            f"unknown method 'dropgrad': dropgrad is a regularizer: maml+dropgrad (methods: {METHODS})",
        ),
        (
            "maml+alfs",
            "unknown regularizer 'alfs': alfa is a method: it stands first, as in alfa+dropgrad "
            f"(regularizers: {REGULARIZERS})",
        ),
    ):
        with pytest.raises(UserError) as caught:
            split_spec(spec)
        assert str(caught.value) == sentence
