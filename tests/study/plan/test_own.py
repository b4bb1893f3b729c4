"""What users say of a search space: forms, order, conditions, starting points, and one sentence for what cannot be."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.driving import tiny_plan

from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.storage.files import studies_folder
from raymeta.study.plan.own import Said, as_param
from raymeta.study.plan.param import Param
from raymeta.study.plan.plan import Plan, make_config, make_plan
from raymeta.study.plan.space import AUTHORS, BASELINE
from raymeta.study.record.home import open_study
from raymeta.study.record.record import StudyRecord

DROPGRAD = "regularizers.dropgrad."
RATE, NOISE = DROPGRAD + "rate", DROPGRAD + "noise"


def planned(*words: str, spec: str = "maml+dropgrad", **named: Any) -> Plan:
    return make_plan(spec, "sinusoid", words=words, **named)


def ranges(plan: Plan) -> dict[str, str]:
    return {key: str(param) for key, param in plan.space.params.items()}


# Forms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.01..0.5:log", {"float": [0.01, 0.5], "log": True}),
        ("1e-3..5", {"float": [0.001, 5.0]}),
        ("-1...5", {"float": [-1.0, 0.5]}),
        ("first, second", {"choice": ["first", "second"]}),
        ("1..2", {"float": [1.0, 2.0]}),
        ("1,0.5,null,true,a", {"choice": [1, 0.5, None, True, "a"]}),
        ([1, 2], {"choice": [1, 2]}),
        ({"float": [0, 1], "when": {"a": {"above": 1}}}, {"float": [0, 1], "when": {"a": {"above": 1}}}),
    ],
)
def test_every_form_is_the_long_one(value: Any, expected: dict[str, Any]) -> None:
    assert as_param(Said(value, "x", "y"), whole=False) == expected


@given(
    st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.integers(1, 50), st.integers(-(10**6), 10**6) | st.floats()
)
def test_whole_numbers_and_the_one_next_to_a_value(low: int, count: int, step: int, value: float) -> None:
    high = low + count * step
    param = Param.model_validate(as_param(Said(f"{low}..{high}:{step}", "x", "y"), whole=True))
    assert param == Param.model_validate({"int": [low, high], "step": step})
    if value != value:  # not a number
        return
    near = param.nearest(value)
    assert param.contains(near)
    assert isinstance(near, int)
    inside = min(max(value, low), high)
    assert abs(near - inside) <= step / 2
    assert param.nearest(near) == near


@pytest.mark.parametrize(
    ("range_", "value", "near"),
    [
        ({"float": [0.1, 0.5]}, 0.7, 0.5),
        ({"float": [0.1, 0.5]}, 0, 0.1),
        ({"float": [0.1, 0.5]}, 0.3, 0.3),
        ({"float": [0.1, 0.5]}, None, 0.1),
        ({"int": [2, 8], "step": 3}, True, 2),
        ({"choice": ["a", "b"]}, "b", "b"),
        ({"choice": ["a", "b"]}, "c", "a"),
    ],
)
def test_the_value_next_to_another(range_: dict[str, Any], value: Any, near: Any) -> None:
    assert Param.model_validate(range_).nearest(value) == near


# What they add, narrow, fix, replace


def test_words_add_narrow_and_fix() -> None:
    plan = planned("maml.inner_lr=0.01..0.05:log", "maml.inner_steps=1..5", f"{NOISE}=gaussian", "maml.order=first")
    before = ranges(planned())
    assert ranges(plan) == {
        **{key: text for key, text in before.items() if key != NOISE},
        "maml.inner_lr": "[0.01, 0.05] log",
        "maml.inner_steps": "[1, 5] int",
    }
    assert plan.base.flat()["maml.order"] == "first"
    assert plan.space.origins["maml.inner_lr"] == plan.fixed["maml.order"] == plan.fixed[NOISE] == "command line"
    assert plan.space.origins["outer.lr"] == "search_spaces/_common.yaml"
    assert plan.space.origins[RATE] == "regularizers/dropgrad.yaml"
    assert plan.origins["outer.tasks_per_step"] == "presets/sinusoid.yaml"
    assert plan.space.start_from[0]["maml.inner_steps"] == 5  # the preset's
    beside = planned(spec="maml:inner_steps=1..5+dropgrad:noise=binary,gaussian,rate=0.1")
    assert (ranges(beside)["maml.inner_steps"], ranges(beside)[NOISE]) == ("[1, 5] int", "{binary, gaussian}")
    assert beside.fixed == {RATE: "command line"}


def test_types_are_the_schemas() -> None:
    plan = planned("maml.inner_lr=1..2", "maml.inner_steps=1,3", "outer.clip=1,0.5,null", "maml.eval_steps=1..9:2")
    params = plan.space.params
    assert (params["maml.inner_lr"].float_, params["maml.inner_steps"].choice) == ((1.0, 2.0), (1, 3))
    assert params["outer.clip"].choice == (1.0, 0.5, None)
    assert [type(value) for value in params["outer.clip"].choice] == [float, float, type(None)]
    assert (params["maml.eval_steps"].int_, params["maml.eval_steps"].step) == ((1, 9), 2)


def test_a_file_lies_over_the_shipped_space_and_words_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"""
maml.inner_lr: 0.02..0.2:log
maml.inner_steps: {{int: [1, 9], step: 2}}
maml.order: first
{NOISE}: binary
model.hidden: [8, 8]
outer.lr: 1e-3
""")
    plan = planned("maml.inner_lr=0.03", "outer.lr=1e-4..1e-3", space=file)
    assert ranges(plan) == {
        "outer.lr": "[0.0001, 0.001]",
        "maml.inner_steps": "[1, 9] int by 2",
        RATE: "[0, 0.4]",
        **{DROPGRAD + key: ranges(planned())[DROPGRAD + key] for key in ("layers", "ramp")},
    }
    assert plan.base.as_dict()["model"]["hidden"] == [8, 8]
    assert plan.fixed == {
        "maml.order": "my.yaml", NOISE: "my.yaml", "model.hidden": "my.yaml", "maml.inner_lr": "command line",
    }  # fmt: skip
    as_mapping = {
        "maml.inner_lr": 0.03, "maml.inner_steps": {"int": [1, 9], "step": 2}, "maml.order": "first", NOISE: "binary",
        "model.hidden": [8, 8], "outer.lr": "1e-4..1e-3",
    }  # fmt: skip
    again = planned(space=as_mapping)
    assert (again.space.params, again.base, again.space.starts) == (plan.space.params, plan.base, plan.space.starts)
    overrides = {"maml": {"order": "first"}, NOISE: "binary", "maml.inner_lr": 0.03, "model.hidden": [8, 8]}
    assert planned("outer.lr=1e-4..1e-3", "maml.inner_steps=1..9:2", overrides=overrides).base == plan.base


def test_what_replaces_the_shipped_space() -> None:
    plan = planned(space={"replace": True, "params": {"maml.inner_lr": "0.01..0.5"}})
    assert ranges(plan) == {"maml.inner_lr": "[0.01, 0.5]"}
    assert ranges(planned("maml.inner_lr=0.01..0.5", space="none")) == ranges(plan)
    own = planned(space={"replace": True, "params": {RATE: "0.1..0.3"}, "start_from": [{RATE: 0.2}]})
    assert own.space.starts == [({RATE: 0.2}, "space, point 1")]


def test_a_condition_stays_unless_another_is_said() -> None:
    noise = planned(f"{NOISE}=gaussian,binary").space.params[NOISE]
    assert set(noise.when) == {RATE}
    assert planned(space={NOISE: {"choice": ["gaussian", "binary"], "when": {}}}).space.params[NOISE].when == {}
    space = {
        "maml.inner_steps": {"int": [1, 5], "when": {"maml.order": {"one_of": ["first"]}}},
        "maml.order": "first,second",  # stands below what depends on it
        "maml.eval_steps": {"int": [1, 5], "when": {"model.init.head": {"one_of": ["zeros"]}}},  # never
    }
    plan = planned(space=space)
    assert list(plan.space.params).index("maml.order") < list(plan.space.params).index("maml.inner_steps")
    assert "maml.eval_steps" not in plan.space.params
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        point = plan.space.sample(study.ask())
        assert ("maml.inner_steps" in point) == (point["maml.order"] == "first")
        plan.config(point)


def test_a_choice_of_regularizers_has_its_own_ranges(glyphs: Any) -> None:
    plan = make_plan("maml", "glyphs", None, [f"{RATE}=0.1..0.3"], "dropgrad,none", space={DROPGRAD + "ramp": "linear"})
    rate = plan.space.params[RATE]
    assert str(rate) == "[0.1, 0.3]"
    assert {key: condition.one_of for key, condition in rate.when.items()} == {"regularizer": ("dropgrad",)}
    assert plan.choices["dropgrad"]["ramp"] == "linear"
    long = make_plan("maml", "glyphs", choose="dropgrad,none", space={NOISE: {"choice": ["binary"], "when": {}}})
    assert set(long.space.params[NOISE].when) == {"regularizer"}
    chosen, none = long.space.start_from
    assert none == {key: v for key, v in chosen.items() if not key.startswith(DROPGRAD)} | {"regularizer": "none"}


# Starting points


def test_own_starting_points_come_first() -> None:
    start = [{"maml.inner_lr": 0.3, "label": "mine"}, {RATE: 0.0}, {RATE: 0}]
    plan = planned(space={"start_from": start})
    assert plan.space.labels == ["mine", "space, point 2", AUTHORS]  # of equal ones the first
    first, second, authors = plan.space.start_from
    assert first == {**authors, "maml.inner_lr": 0.3, **{key: first[key] for key in first if key.startswith(DROPGRAD)}}
    assert second == {"outer.lr": 1e-3, "maml.inner_lr": 0.01, RATE: 0.0}


def test_starting_points_are_moved_into_ranges_of_the_users() -> None:
    plan = planned("maml.inner_lr=0.1..0.5")
    assert plan.space.labels == [f"{AUTHORS}, moved into your ranges", BASELINE]
    assert [point["maml.inner_lr"] for point in plan.space.start_from] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("spec", "words", "there"),
    [
        ("maml+dropgrad", [], True),
        ("maml+dropgrad", [f"{RATE}=0.1..0.3"], False),
        ("maml+dropgrad", [f"{RATE}=0..0.3"], True),
        ("maml+dropgrad", [f"{RATE}=0.1"], False),
        ("maml+metamix", ["regularizers.metamix.rate=1.0"], False),  # its shuffling alone can still be off
        ("maml+maxup", ["regularizers.maxup.copies=4"], True),  # of no use without a pool
    ],
)
def test_the_un_regularized_start_is_one_or_is_not_there(spec: str, words: list[str], there: bool, glyphs: Any) -> None:
    plan = make_plan(spec, "glyphs", words=words)
    assert (BASELINE in plan.space.labels) == there


# The record


def test_a_study_has_all_of_it_and_needs_no_file_again(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("maml.inner_lr: 0.02..0.2\nmaml.inner_steps: 1..2\n")
    budget = tiny_plan().base.budget.model_dump(exclude={"scale"})
    words = [*(f"budget.{key}={value}" for key, value in budget.items()), "study.first_rung=2", "maml.order=first"]
    plan = make_plan("maml+dropgrad", "sinusoid-5s", words=words, space=file)
    problem = open_problem(plan.base.task)
    StudyRecord.create(studies_folder() / "own-space", plan, problem.metric, problem.fingerprint)
    file.unlink()
    again = open_study("own-space")
    assert again.plan == plan
    assert Plan.from_dict(plan.as_dict(), "x") == plan
    assert again.plan.space.origins["maml.inner_lr"] == "my.yaml"
    with again.locked():
        points = [again.ask().point for _ in range(4)]
    assert all(0.02 <= point["maml.inner_lr"] <= 0.2 for point in points)
    assert all(point["maml.inner_steps"] in (1, 2) for point in points)


# What cannot be

LOW_HIGH = "expected LOW..HIGH, LOW..HIGH:log or, for whole numbers, LOW..HIGH:STEP, as in 0.01..0.5:log or 1..9:2"
WRONG_WORDS = {
    "inner_lr=0.01..0.5": "unknown key 'inner_lr', did you mean 'maml.inner_lr'?",
    "dropgrad.rate=0.1..0.3": "unknown key 'dropgrad.rate', did you mean 'regularizers.dropgrad.rate'?",
    "regularizers.drpgrad.rate=0.1..0.3": (
        "unknown key 'regularizers.drpgrad.rate', did you mean 'regularizers.dropgrad.rate'?"
    ),
    "maml.zzzz=1..2": (
        "unknown key 'maml.zzzz', allowed: keys of regularizers.dropgrad, model, model.init, task, outer, outer.added, "
        "pretraining, budget, engine, maml"
    ),
    "maml.inner_lr=-1..0.5": "maml.inner_lr: found -1.0: input should be greater than or equal to 0",
    f"{RATE}=0..1": f"{RATE}: found 1.0: input should be less than 1",
    "maml.inner_lr=0.5..0.01": "the range [0.5, 0.01] is empty: low is above high",
    "maml.inner_lr=0..0.5:log": "a log range must lie above 0, found [0.0, 0.5]",
    "maml.inner_steps=1..6:2": "steps of 2 from 1 do not end at 6; allowed: 5 or 7",
    "maml.inner_steps=1..5.5": "it takes whole numbers only, found 1..5.5",
    "maml.inner_lr=0.1..0.5:2": "a step is for whole numbers that are not on a log scale",
    "maml.order=1..2": "'maml.order' has no range of numbers: it takes first or second; name some, with commas",
    "maml.adapt_norm=0..1": "'maml.adapt_norm' has no range of numbers: it takes true or false; name some, with commas",
    "maml.order=first,secnd": (
        "maml.order: found 'secnd': not a value of this key, did you mean 'second'? (allowed: first, second)"
    ),
    "maml.order=first,": "a choice is empty; expected values between commas, as in gaussian,binary",
    "maml.order=first,first": "a choice is there twice: first, first",
    "maml.inner_lr=0.1..": LOW_HIGH,
    "maml.inner_lr=0.01..0.5:lag": LOW_HIGH,
    "task.shots=5..20": "'task.shots' is the same for all trials of a study; give it one value",
    "budget.outer_steps=10..20": "'budget.outer_steps' is the same for all trials of a study; give it one value",
    "model.name=mlp,conv4": "'model.name' is the same for all trials of a study; give it one value",
}


@pytest.mark.parametrize("word", WRONG_WORDS)
def test_a_wrong_word_is_one_sentence(word: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(word)
    assert str(caught.value) == f"'{word}': {WRONG_WORDS[word]}"


SECTIONS = "budget, engine, maml, method, model, outer, pretraining, regularizers, seed, task"
WRONG_VALUES = {
    "inner_lr=0.1": f"config: unknown key 'inner_lr', did you mean 'maml.inner_lr'? (allowed: {SECTIONS})",
    "dropgrad.rate=0.1": f"config: unknown key 'dropgrad', did you mean 'regularizers.dropgrad'? (allowed: {SECTIONS})",
    "regularizers.dropout.rate=0.1": (
        "config: regularizers.dropout: maml+dropgrad has no dropout; write maml+dropgrad+dropout"
    ),
}


@pytest.mark.parametrize("word", WRONG_VALUES)
def test_a_wrong_value_is_one_sentence(word: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(word)
    assert str(caught.value) == WRONG_VALUES[word]


INNER_LR = "maml.inner_lr: "
WRONG_SPACES: list[tuple[str, str]] = [
    ("parms: {}", "unknown key 'parms', did you mean 'params'? (allowed: params, replace, start_from)"),
    ("params: [1]", "params: found [1]: expected a section of keys"),
    ("inner_lr: 0.1..0.5", "inner_lr: unknown key 'inner_lr', did you mean 'maml.inner_lr'?"),
    ("maml: {inner_lr: 0.1}", "maml: 'maml' is a section; say its keys in full, as in maml.order"),
    ("maml.order: frist", "maml.order: found 'frist': not a value of this key, did you mean 'first'? "
        "(allowed: first, second)"),
    ("maml.inner_lr: {flot: [1, 9]}", INNER_LR + "unknown key 'flot', did you mean 'float'? "
        "(allowed: choice, float, int, log, step, when)"),
    ("maml.inner_steps: {float: [1, 9]}",
        "maml.inner_steps: 'maml.inner_steps' takes whole numbers only: int in place of float"),
    ("maml.inner_lr: {float: [0.1, 0.5], when: {maml.ordr: {one_of: [first]}}}",
        INNER_LR + "when: unknown key 'maml.ordr', did you mean 'maml.order'?"),
    ("maml.inner_lr: {float: [0.1, 0.5], when: {maml.order: {one_of: [frist]}}}", INNER_LR + "when: maml.order: found "
        "'frist': not a value of this key, did you mean 'first'? (allowed: first, second)"),
    ("maml.inner_lr: {float: [0.1, 0.5], when: {maml.order: {above: 0}}}",
        INNER_LR + "when: 'maml.order' is no number; expected one_of"),
    ("start_from: [{maml.inner_lr: 5}]", "start_from, point 1: maml.inner_lr: 5 is outside [0.001, 0.5] log"),
    ("start_from: [{}, {maml.inner_lrr: 5}]",
        "start_from, point 2: 'maml.inner_lrr' is not searched, did you mean 'maml.inner_lr'? (allowed: "
        "maml.adapt_norm, maml.inner_lr, outer.lr, regularizers.dropgrad.layers, regularizers.dropgrad.noise, "
        "regularizers.dropgrad.ramp, regularizers.dropgrad.rate)"),
    (f"start_from: [{{label: un-regularized, {RATE}: 0.3}}]",
        f"start_from, point 1: it is labelled un-regularized, but {RATE} is 0.3, not 0.0"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG_SPACES, ids=[text for text, _ in WRONG_SPACES])
def test_a_wrong_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        planned(space=file)
    assert str(caught.value) == f"{file}: {sentence}"


def test_other_sentences(tmp_path: Path) -> None:
    circle = {
        "maml.inner_lr": {"float": [0.1, 0.5], "when": {"maml.inner_steps": {"above": 1}}},
        "maml.inner_steps": {"int": [1, 3], "when": {"maml.inner_lr": {"above": 0.2}}},
    }
    for space, sentence in [
        (str(tmp_path / "my.yaml"), f"{tmp_path / 'my.yaml'}: no such file"),
        ("none", "nothing is searched: name ranges, as in maml.KEY=0.01..0.5:log"),
        (circle, "the search space: the conditions (when) of maml.inner_lr and maml.inner_steps go in a circle"),
    ]:
        with pytest.raises(UserError) as caught:
            planned(space=space)
        assert str(caught.value) == sentence
    with pytest.raises(UserError) as caught:
        make_config("maml", "sinusoid", words=["maml.inner_lr=0.01..0.5"])
    assert str(caught.value) == "'maml.inner_lr=0.01..0.5': a final run searches nothing; give the key one value"


def test_of_a_policys_task_what_credits_rewards_is_searched_and_the_environment_is_not() -> None:
    plan = make_plan("maml", "navigation2d", words=["task.gamma=0.9..0.99"])
    assert {"task.gamma", "task.gae_lambda"} <= plan.space.params.keys()
    assert plan.space.start_from[0]["task.gae_lambda"] == 1.0
    assert "task.gae_lambda" not in make_plan("maml", "sinusoid-5s").space.params
    with pytest.raises(
        UserError, match=r"^'task.horizon=50..100': 'task.horizon' is the same for all trials of a study"
    ):
        make_plan("maml", "navigation2d", words=["task.horizon=50..100"])
