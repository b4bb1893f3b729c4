"""How what older versions wrote is taken to the present schema. Whether all of it is: tests/recorded."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymeta.config import migration, parse_trial
from raymeta.config.migration import VERSION, WHOLE, as_before, drop, keep, migrated, move, of_another_version
from raymeta.errors import UserError
from raymeta.schema import merge, nest

KEYS = st.sampled_from(["method", "task", "outer", "lr", "a"])
DATA = st.dictionaries(KEYS, st.recursive(st.integers(), lambda deeper: st.dictionaries(KEYS, deeper)), max_size=4)


def renamed(data: dict[str, Any]) -> None:
    """A rule as one would be: `outer.rate` became `outer.lr`, and `task.turns` was always 0."""
    move(data, "outer.rate", "outer.lr")
    drop(data, "task.turns", 0)


@pytest.fixture
def _rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "RULES", (renamed,))


def test_a_config_of_this_version_stays_as_it_is() -> None:
    config = parse_trial({"method": "maml", "regularizers": {"dropgrad": {}}}).as_dict()
    assert migrated(config) == config


@given(DATA)
def test_nothing_that_is_given_is_changed(data: dict[str, Any]) -> None:
    before = deepcopy(data)
    migrated(data, (renamed, lambda found: move(found, "task", "outer.a"), lambda found: drop(found, "a", 1)))
    assert data == before


@pytest.mark.usefixtures("_rule")
def test_an_old_config_is_read() -> None:
    found = parse_trial({"method": "maml", "outer": {"rate": 0.5}, "task": {"turns": 0}})
    assert found == parse_trial({"method": "maml", "outer": {"lr": 0.5}})


@pytest.mark.usefixtures("_rule")
def test_the_old_key_goes_over_the_new_one() -> None:
    """A study's point, under the names that its journal has, is laid over a base that was migrated."""
    assert migrated({"outer": {"lr": 0.1, "rate": 0.5}}) == {"outer": {"lr": 0.5}}


@pytest.mark.usefixtures("_rule")
def test_a_value_that_meant_something_is_refused_and_not_dropped() -> None:
    with pytest.raises(UserError, match=r"^config: unknown key 'task\.turns'"):
        parse_trial({"method": "maml", "task": {"turns": 1}})


@pytest.mark.parametrize(
    ("old", "new", "data", "expected"),
    [
        ("a", "b", {"a": 1}, {"b": 1}),
        ("a", "b.c", {"a": 1}, {"b": {"c": 1}}),
        ("a.b", "a.c", {"a": {"b": {"d": 1}, "e": 2}}, {"a": {"c": {"d": 1}, "e": 2}}),
        ("a.b", "c", {"a": 1}, {"a": 1}),
        ("a.b", "c", {}, {}),
        ("a", "b.c", {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    ],
)
def test_move(old: str, new: str, data: dict[str, Any], expected: dict[str, Any]) -> None:
    move(data, old, new)
    assert data == expected


def test_a_sentence_says_what_to_do_about_another_version_only() -> None:
    assert of_another_version(VERSION) == ""
    expected = f" (raymeta 0.1.0 wrote it, this is {VERSION}: go on with raymeta 0.1.0, or make it again)"
    assert of_another_version("0.1.0") == of_another_version(None) == expected


# 0.1.0 to 0.2.0

CURVES = {
    "dataset": "sinusoid", "split": None, "source": None, "sampler": "fixed", "metadataset": {"min_ways": 5}, "ways": 1,
    "shots": 5, "queries": 10, "eval_queries": 100, "labels": "shuffled", "train_classes": None, "rotations": "none",
    "test_dataset": None, "bank_seed": 3,
}  # fmt: skip


def test_sinusoid_was_a_data_set_among_images() -> None:
    found = {"problem": "sinusoid", "shots": 5, "queries": 10, "eval_queries": 100, "bank_seed": 3}
    assert migrated({"method": "maml", "task": CURVES}) == {"method": "maml", "task": found}
    assert parse_trial({"method": "maml", "task": CURVES}).task.model_dump() == found


def test_what_a_sinusoid_config_left_out_has_the_default_of_then() -> None:
    task = migrated({"task": {"dataset": "sinusoid", "ways": 1}})["task"]
    assert task == {"problem": "sinusoid", "shots": 1, "queries": 15, "eval_queries": None}


@pytest.mark.parametrize(("key", "value"), [("ways", 5), ("rotations", "train"), ("test_dataset", "omniglot")])
def test_what_never_was_a_sinusoid_config_still_is_none(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^config: unknown key 'task\.{key}'"):
        parse_trial({"method": "maml", "task": CURVES | {key: value}})


def test_images_and_what_is_new_are_left_alone() -> None:
    for task in ({"dataset": "omniglot", "ways": 1}, {"problem": "sinusoid", "shots": 2}, 7):
        assert migrated({"task": task}) == {"task": task}


WRITTEN: dict[str, Any] = {key: {} for key in WHOLE}  # whole, as versions write a config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({**WRITTEN, "a": {"b": 1}}, {"b": 1, "c": 2}),
        ({**WRITTEN, "a": {"b": 1, "d": 3}}, {"b": 1, "d": 3, "c": 2}),
        ({**WRITTEN, "a": {"b": 1, "c": 5}}, {"b": 1, "c": 5}),
        ({**WRITTEN, "a": {}}, {}),
        ({"a": {"b": 1}}, {"b": 1}),
        ({**WRITTEN, "a": 7}, 7),
    ],
)
def test_keep(data: dict[str, Any], expected: Any) -> None:
    keep(data, "a", ("b",), c=2)
    assert data["a"] == expected


@pytest.mark.parametrize("section", ["a", "a.b", "a.b.c"])
def test_keep_makes_no_section(section: str) -> None:
    data = {**WRITTEN, "a": {}} if section == "a.b.c" else dict(WRITTEN)
    before = deepcopy(data)
    keep(data, section, (), c=2)
    assert data == before


PLAIN = {"passes": "separate", "fce": False, "relu": False, "eps": 0.0, "loss": "cross_entropy"}
RELATION = {"conv": "fan_out", "conv_bias": "zeros", "linear": "torch", "linear_bias": "torch"}
THEN: dict[str, dict[str, Any]] = {  # 0.1.0's sections, and what they are now
    "protonet": {"then": {}, "now": {"passes": "separate"}},
    "matchingnet": {"then": {"scale": 100.0}, "now": PLAIN},
    "relationnet": {
        "then": {"loss": "mse", "hidden": 8},
        "now": {"passes": "separate", "padding": "full", "norm_momentum": 0.1, "init": RELATION},
    },
    "cavia": {
        "then": {
            "order": "second",
            "first_order_share": 0.0,
            "inner_steps": 2,
            "eval_steps": None,
            "context_lr": 1.0,
            "context_size": None,
            "block": 3,
        },
        "now": {"init": {"film": "torch", "film_bias": "torch"}},
    },
    "boil": {
        "then": {
            "order": "second",
            "first_order_share": 0.0,
            "inner_lr": 0.5,
            "adapt_norm": True,
            "inner_steps": 1,
            "eval_steps": None,
        },
        "now": {"adapt_shortcuts": True, "centering": False, "outer_fix": False},
    },
    "regularizers.mr": {
        "then": {"noise": "weights", "blocks": None, "beta": 5e-5, "init": -10.0},
        "now": {"sigma_floor": 0.0, "mu": None, "bias": None},
    },
    "regularizers.metadropout": {
        "then": {"noise": "learned", "head": True, "init_std": 0.02, "lr_factor": 1.0, "eval_samples": 30},
        "now": {"init_head": "truncated_normal"},
    },
    "regularizers.metamix": {
        "then": {"rate": 1.0, "beta": 2.0, "layers": "all", "shuffle": 0.5, "shuffle_start": 0.1},
        "now": {"draws": "independent"},
    },
    "regularizers.taml": {
        "then": {"weight": 0.1, "measure": "entropy_reduction"},
        "now": {"of": "query", "exponent": 2.0, "epsilon": 1.0},
    },
    "regularizers.maxup": {
        "then": {"copies": 4, "pool": "full"},
        "now": {"draws": "task", "worst": "tasks", "box": "rounded"},
    },
    "regularizers.mgaug": {
        "then": {
            "pruning": "catfish",
            "networks": 3,
            "keep": 0.98,
            "weight": 1.0,
            "resize": True,
            "sizes": [1.0, 0.5],
            "count": "exact",
        },
        "now": {"cap": 1.0, "scores": "adapted", "head": "averaged"},
    },
    "modgrad": {
        "then": {
            "order": "second",
            "first_order_share": 0.0,
            "inner_steps": 5,
            "eval_steps": None,
            "inner_lr": 0.01,
            "adapt_norm": False,
            "context_lr": 1.0,
            "context_size": 100,
        },
        "now": {"variant": "paper", "factors": 5},
    },
}


@pytest.mark.parametrize("name", THEN)
def test_methods_that_became_their_authors_compute_in_old_configs_what_they_did(name: str) -> None:
    then, now = THEN[name]["then"], THEN[name]["now"]
    method = "maml" if "." in name else name
    config = parse_trial(merge({"method": method}, nest({name: {}}))).as_dict()
    place, last = (config["regularizers"], name.split(".")[1]) if "." in name else (config, name)
    of_now = place[last]
    place[last] = then
    old = parse_trial(config).as_dict()
    assert old == merge(config, nest({name: now}))
    typed = parse_trial(merge({"method": method}, nest({name: then}))).as_dict()
    assert (typed["regularizers"] if "." in name else typed)[last] == of_now | then, "what is typed is of now"


XAVIER = {"conv": "xavier", "conv_bias": "zeros", "head": "xavier", "head_bias": "zeros"}
CURVE = {"hidden_bias": "zeros", "head_bias": "zeros"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"init": "xavier"}, XAVIER),
        ({"name": "conv4", "width": 8, "init": "fan_out"}, XAVIER | {"conv": "fan_out"}),
        ({"name": "mlp", "init": "xavier"}, CURVE | {"hidden": "xavier", "head": "xavier"}),
        (
            {"name": "mlp", "init": "truncated_normal"},
            CURVE | {"hidden": "truncated_normal(0.01)", "head": "truncated_normal(0.01)"},
        ),
    ],
)
@pytest.mark.parametrize("method", ["maml", "boil", "cavia"])
def test_one_word_of_initial_values_is_a_law_for_each_tensor(method: str, model: Any, expected: dict[str, str]) -> None:
    """Whatever the learner's own defaults are now."""
    found = parse_trial({"method": method, "model": model}).as_dict()["model"]["init"]
    bn = {} if model.get("name") == "mlp" else {"bn_gamma": "ones"}
    assert found == expected | bn


@pytest.mark.parametrize(
    ("name", "laws"),
    [
        ("resnet10", {"conv": "fan_out"}),
        ("resnet18", {"conv": "fan_out"}),
        ("resnet12", {"conv": None}),  # the variant's, as then
    ],
)
@pytest.mark.parametrize("method", ["maml", "boil"])
def test_old_resnets_have_xaviers_head(method: str, name: str, laws: dict[str, Any]) -> None:
    """Whatever the learner's own defaults are now."""
    config = parse_trial({"method": method, "model": {"name": name}}).as_dict()
    new = config["model"]["init"]
    assert new["head"] != "xavier"
    del config["model"]["init"]
    for key in ("norm_momentum", "norm_scale"):
        del config["model"][key]
    old = parse_trial(config).as_dict()["model"]
    assert old["init"] == {"head": "xavier", "head_bias": "zeros", "bn_gamma": "ones"} | laws
    assert (old["norm_momentum"], old["norm_scale"]) == (0.1, True)


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ({"name": "resnet10", "init": {"head": "xavier"}}, True),
        ({"name": "resnet18", "init": {"head": "xavier", "conv": "xavier"}}, False),
        ({"name": "resnet18"}, False),
        ({"name": "resnet12"}, True),
        ({"name": "resnet12", "init": {"conv": "xavier", "head": "xavier", "head_bias": "zeros"}}, True),
        ({"name": "resnet12", "init": {"conv": "fan_out"}}, False),
        ({"name": "resnet12", "plain_blocks": 1}, False),
        ({"name": "resnet12", "variant": "b", "init": {"head": "xavier", "head_bias": "zeros"}}, True),
        ({"name": "resnet12", "variant": "b", "init": {"head": "xavier", "conv": "fan_out"}}, False),
        ({"name": "resnet12", "variant": "b"}, False),
    ],
)
def test_what_is_kept_under_the_model_of_an_old_resnet_is_found(model: dict[str, Any], same: bool) -> None:
    """0.1.0's section, where it drew the same values: that without `init` and what else came later."""
    whole = parse_trial({"method": "maml", "model": model}).as_dict()["model"]
    then = {key: whole[key] for key in ("name", "channels", "norm", "norm_eps", "variant") if key in whole}
    found = as_before(whole)
    assert (found == then) is same
    if not same:
        assert found.items() <= whole.items()


@pytest.mark.parametrize("word", ["xavir", "truncated_normal", 3])
def test_a_word_that_was_none_is_refused(word: Any) -> None:
    with pytest.raises(UserError, match=r"^config: model\.init: found .*: expected a section of keys, allowed: bn_ga"):
        parse_trial({"method": "maml", "model": {"init": word}})


@pytest.mark.parametrize(("model", "meant"), [("conv4", "start"), ("resnet12", "start"), ("resnet18", "stem")])
def test_the_first_layers_of_dropgrad_are_those_of_then(model: str, meant: str) -> None:
    data = {"method": "maml", "model": {"name": model}, "regularizers": {"dropgrad": {}}}
    config = parse_trial(data).as_dict()
    config["regularizers"]["dropgrad"]["layers"] = "first"
    assert parse_trial(config).as_dict()["regularizers"]["dropgrad"]["layers"] == meant
    typed = merge(data, {"regularizers": {"dropgrad": {"layers": "first"}}})
    if meant == "start":
        assert parse_trial(typed).as_dict()["regularizers"]["dropgrad"]["layers"] == "start"
    else:  # the stem, or the first block?
        with pytest.raises(UserError, match=r"found 'first': not a value of this key, .*start, stem"):
            parse_trial(typed)


@pytest.mark.parametrize("method", ["mamlpp", "l2f"])
def test_all_that_is_learned_was_clipped(method: str) -> None:
    config = parse_trial({"method": method, "outer": {"clip": 10.0}}).as_dict()
    assert config["outer"]["clip_scope"] == "model"
    del config["outer"]["clip_scope"]
    assert parse_trial(config).outer.clip_scope == "all"
