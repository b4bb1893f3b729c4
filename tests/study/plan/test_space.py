"""Search spaces: the shipped files, conditions, starting points, and one sentence for whatever is wrong in a file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from raymeta import registry
from raymeta.errors import UserError
from raymeta.storage.files import read_yaml
from raymeta.study.plan.param import Condition, Param
from raymeta.study.plan.plan import make_plan
from raymeta.study.plan.space import AUTHORS, BASELINE, Space, space_for

ROOT = Path(search_spaces.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
METHODS, REGULARIZERS = registry.names("method"), registry.names("regularizer")
SPECS = [*METHODS, *(f"{method}+{name}" for method in METHODS for name in REGULARIZERS)]


def sampled(space: Space, seed: int, count: int = 1) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.sample(study.ask()) for _ in range(count)]


# The shipped files


def test_every_file_is_a_method_a_regularizer_a_preset_or_common() -> None:
    presets = [name for name in FILES if name.startswith("presets/")]
    assert len(presets) >= 4
    assert set(FILES) - set(presets) == {
        "_common.yaml",
        *(f"{name}.yaml" for name in METHODS),
        *(f"regularizers/{name}.yaml" for name in REGULARIZERS),
    }


NOTHING_TO_ADAPT = ("boil+mr", "cxgrad+mr", "modgrad+mr")  # MR-MAML's encoder is by default all that these adapt


def fits(spec: str, dataset: str) -> bool:
    """Whether a composition has a meaning, on that data set."""
    if spec in NOTHING_TO_ADAPT:
        return False
    method, *regularizers = spec.split("+")
    cls, added = registry.find("method", method), [registry.find("regularizer", name) for name in regularizers]
    offered = set() if dataset == "sinusoid" else {"labels", "images", "convolutions"}  # to which its preset is an MLP
    offered |= {"inner loop"} if cls.inner_loop else set()
    return all(one.needs <= offered for one in (cls, *added))


TOGETHER = [(spec, data) for spec in SPECS for data in ("glyphs", "omniglot", "sinusoid") if fits(spec, data)]


def test_what_has_no_meaning_is_refused(glyphs: Any) -> None:
    refused = {(spec, data) for spec in SPECS for data in ("glyphs", "sinusoid")} - set(TOGETHER)
    assert ("protonet+dropgrad", "glyphs") in refused
    assert ("cxgrad", "sinusoid") in refused
    assert ("maml+taskaug", "sinusoid") in refused
    for spec, dataset in refused:
        with pytest.raises(UserError, match=r" has none$|to adapt$|moves none$"):
            make_plan(spec, dataset)


@pytest.mark.parametrize(("spec", "dataset"), TOGETHER)
def test_every_composition_samples_valid_trials(spec: str, dataset: str, glyphs: Any) -> None:
    plan = make_plan(spec, dataset)
    for point in sampled(plan.space, seed=0, count=10):
        flat = plan.config(point).flat()
        assert point
        assert {key: flat[key] for key in point} == point


@pytest.mark.parametrize("preset", sorted(path.stem for path in ROOT.joinpath("presets").glob("*.yaml")))
def test_every_preset_makes_a_plan(preset: str, glyphs: Any) -> None:
    plan = make_plan("maml+dropgrad", preset=preset)
    assert plan.rungs[0] == plan.study.first_rung
    assert plan.rungs[-1] == plan.base.budget.outer_steps


@given(seed=st.integers(0, 2**32 - 1))
def test_conditions_are_honoured(seed: int) -> None:
    space = space_for("maml+dropgrad")
    everything, rate = set(space.params), "regularizers.dropgrad.rate"
    zero = space.without({rate: 0.0})
    (point,), (fixed,) = sampled(space, seed), sampled(zero, seed)
    dependent = {f"regularizers.dropgrad.{key}" for key in ("noise", "layers", "ramp")}
    assert set(point) == everything - (dependent if point[rate] == 0 else set())
    assert set(fixed) == everything - dependent - {rate}
    for key, value in point.items():
        assert space.params[key].contains(value)


@given(seed=st.integers(0, 2**32 - 1), cut=st.floats(0, 1, exclude_max=True))
def test_a_point_is_complete_once_its_last_value_is_drawn(seed: int, cut: float) -> None:
    space = space_for("maml+dropgrad")
    (point,) = sampled(space, seed)
    assert space.complete(point)
    assert not space.complete(dict(list(point.items())[: int(cut * len(point))]))


def test_a_condition_that_fails_leaves_its_keys_out() -> None:
    space = space_for("maml+dropgrad")
    study = optuna.create_study()
    study.enqueue_trial({"regularizers.dropgrad.rate": 0.0})
    trial = study.ask()
    point = space.sample(trial)
    assert "regularizers.dropgrad.noise" not in point
    assert space.sample(trial) == point


@pytest.mark.parametrize(
    ("condition", "inside", "outside"),
    [
        ({"above": 0.5}, [0.6, 1], [0.5, 0]),
        ({"below": 3}, [2], [3, 4]),
        ({"above": 0, "below": 1}, [0.5], [0, 1]),
        ({"one_of": ["a", "b"]}, ["a"], ["c", 0]),
        ({"above": 0.0, "one_of": [1, 2]}, [1], [3]),
    ],
)
def test_conditions(condition: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    made = Condition.model_validate(condition)
    assert [made.holds(value) for value in inside] == [True] * len(inside)
    assert [made.holds(value) for value in outside] == [False] * len(outside)


def test_what_a_range_contains() -> None:
    def inside(param: dict[str, Any], *values: Any) -> list[bool]:
        made = Param.model_validate(param)
        return [made.contains(value) for value in values]

    assert inside({"float": [0.0, 1.0]}, 0, 0.0, 1, 1.01, True, "0", None) == [True] * 3 + [False] * 4
    assert inside({"int": [1, 7], "step": 3}, 1, 4, 7, 5, 8, True) == [True] * 3 + [False] * 3
    assert inside({"choice": [False, "a", None]}, False, "a", None, 0, "b") == [True] * 3 + [False] * 2


def test_numbers_are_read_as_yaml_1_2_does(files: Callable[[str, str], None]) -> None:
    files("maml.yaml", "params: {inner_lr: {float: [1e-3, 5e-1], log: true}}")
    assert space_for("maml").params["maml.inner_lr"].float_ == (0.001, 0.5)


# Starting points


def test_starting_points() -> None:
    plan = make_plan("maml+dropgrad", "sinusoid")
    assert plan.space.labels == [AUTHORS, BASELINE]
    authors, baseline = plan.space.start_from
    first = read_yaml(ROOT / "regularizers/dropgrad.yaml")["start_from"][0]
    common = {"outer.lr": 1e-3, "maml.inner_lr": 0.01}
    prefix = "regularizers.dropgrad."
    assert authors == {
        **common,
        **{prefix + key: value for key, value in first.items()},
    }
    assert baseline == {**common, f"{prefix}rate": 0.0}


def test_a_method_alone_has_no_baseline() -> None:
    assert make_plan("maml", "sinusoid").space.labels == [AUTHORS]


def test_further_starting_points_come_a_file_at_a_time(files: Callable[[str, str], None]) -> None:
    files("maml.yaml", "params: {inner_lr: {float: [0.0, 1.0]}}\nstart_from: [{inner_lr: 0.1}, {inner_lr: 0.2}]")
    space = space_for("maml+dropgrad")
    assert space.labels == [AUTHORS, BASELINE, "maml: inner_lr 0.2"]
    authors, baseline, other = space.start_from
    assert authors["maml.inner_lr"] == baseline["maml.inner_lr"] == 0.1
    assert other == {**authors, "maml.inner_lr": 0.2}


def test_a_fixed_key_is_searched_no_longer() -> None:
    space = space_for("maml+dropgrad")
    rate, noise = "regularizers.dropgrad.rate", "regularizers.dropgrad.noise"
    left = space.without({rate: 0.2, "maml.order": "first"})
    assert set(left.params) == set(space.params) - {rate}
    assert left.params[noise].when == {}
    assert left.labels == [AUTHORS]  # with the rate given there is no start without it
    assert all(rate not in point for point in left.start_from)
    assert space.without({}) == space


def test_start_points_that_fixing_made_equal_are_one() -> None:
    plan = make_plan("maml+dropgrad", "sinusoid", words=["regularizers.dropgrad.rate=0"])
    assert plan.space.labels == [AUTHORS]


# Hash and round trip


def test_the_hash_changes_with_the_ranges_only() -> None:
    space = space_for("maml+dropgrad")
    assert len(space.hash) == 12
    assert space.hash == space_for("maml+dropgrad").hash == Space(space.params).hash
    hashes = {space.hash}
    for key, param in space.params.items():
        changed = {"choice": ("other",)} if param.choice else {"float_": (0.05, 0.06)}
        hashes.add(Space({**space.params, key: param.model_copy(update=changed)}).hash)
    rate = space.params["regularizers.dropgrad.noise"]
    hashes.add(Space({**space.params, "regularizers.dropgrad.noise": rate.model_copy(update={"when": {}})}).hash)
    assert len(hashes) == len(space.params) + 2


@pytest.mark.parametrize("spec", [spec for spec, dataset in TOGETHER if dataset == "glyphs"])
def test_as_dict_and_back(spec: str, tmp_path: Path, glyphs: Any) -> None:
    space = make_plan(spec).space
    path = tmp_path / "space.yaml"
    from raymeta.storage.files import dump_yaml

    path.write_text(dump_yaml(space.as_dict()))
    again = Space.from_dict(read_yaml(path), str(path))
    assert again == space
    assert again.hash == space.hash


# Wrong files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a file over a copy of the shipped ones."""
    folder = tmp_path / "spaces"
    shutil.copytree(ROOT, folder)
    below = {"method": folder, "regularizer": folder / "regularizers"}
    monkeypatch.setattr(registry, "space_file", lambda kind, name: below[kind] / f"{name}.yaml")
    return lambda name, text: folder.joinpath(name).write_text(text) and None


PARAMS = "allowed: float, int, choice, log, step, when"
FLOATS = "give exactly one of float: [low, high], int: [low, high] and choice: [...]"
WRONG = {
    "parms: {}": "unknown key 'parms', did you mean 'params'? (allowed: include, params, start_from)",
    "params: {a: {flot: [0, 1]}}": (
        "unknown key 'params.a.flot', did you mean 'params.a.float'? (allowed: choice, float, int, log, step, when)"
    ),
    "params: {a: {float: [0.0, 1.0], int: [0, 1]}}": f"params.a: {FLOATS}",
    "params: {a: {}}": f"params.a: {FLOATS}",
    "params: {a: {float: [1.0, 0.0]}}": "params.a: the range [1.0, 0.0] is empty: low is above high",
    "params: {a: {int: [3, 2]}}": "params.a: the range [3, 2] is empty: low is above high",
    "params: {a: {float: [0.0, 1.0], log: true}}": "params.a: a log range must lie above 0, found [0.0, 1.0]",
    "params: {a: {choice: [1], log: true}}": "params.a: log is for float and int, not for choice",
    "params: {a: {choice: [x, y, x]}}": "params.a: a choice is there twice: x, y, x",
    "params: {a: {int: [1, 9], step: 3}}": "params.a: steps of 3 from 1 do not end at 9; allowed: 7 or 10",
    "params: {a: {int: [1, 3], step: 3}}": "params.a: steps of 3 from 1 do not end at 3; allowed: 4",
    "params: {a: {float: [1.0, 9.0], step: 2}}": ("params.a: a step is for whole numbers that are not on a log scale"),
    "params: {a: {int: [1, 9], step: 2, log: true}}": (
        "params.a: a step is for whole numbers that are not on a log scale"
    ),
    "params: {a: {choice: [1], when: {b: {above: 0}}}}": "params.a.when: 'b' is no key, allowed: a",
    "params: {a: {choice: [1], when: {c: {above: 0}}}, b: {int: [0, 1]}}": (
        "params.a.when: 'c' is no key, allowed: a, b"
    ),
    "params: {a: {choice: [1], when: {b: {above: 0}}}, b: {int: [0, 1]}}": "params.a.when: 'b' must stand above it",
    "params: {a: {int: [0, 1]}}\nstart_from: [{a: 2}]": "start_from, point 1: a: 2 is outside [0, 1] int",
    "params: {a: {choice: [x, y]}}\nstart_from: [{}, {a: z}]": "start_from, point 2: a: 'z' is outside {x, y}",
    "params: {rate: {int: [0, 1]}}\nstart_from: [{rat: 1}]": (
        "start_from, point 1: unknown key 'rat', did you mean 'rate'? (allowed: rate)"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_sentence(text: str, files: Callable[[str, str], None], tmp_path: Path) -> None:
    files("maml.yaml", text)
    with pytest.raises(UserError) as caught:
        space_for("maml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    path = tmp_path / "spaces" / "maml.yaml"
    assert sentence.startswith(f"{path}: {WRONG[text]}")
    if "allowed" in WRONG[text] or "outside" in WRONG[text]:
        assert sentence == f"{path}: {WRONG[text]}"


def test_a_regularizers_file_is_named_too(files: Callable[[str, str], None], tmp_path: Path) -> None:
    files("regularizers/dropgrad.yaml", "params: {rate: {float: [1, 0]}}")
    with pytest.raises(UserError) as caught:
        space_for("maml+dropgrad")
    path = tmp_path / "spaces/regularizers/dropgrad.yaml"
    assert str(caught.value) == f"{path}: params.rate: the range [1.0, 0.0] is empty: low is above high"


def test_a_key_that_no_trial_has(files: Callable[[str, str], None]) -> None:
    files("maml.yaml", "params: {inner_rate: {float: [0, 1]}}")
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid")
    assert str(caught.value) == (
        "spaces/maml.yaml: maml.inner_rate: unknown key 'maml.inner_rate', did you mean 'maml.inner_lr'?"
    )


@pytest.mark.parametrize(
    ("range_", "sentence"),
    [
        ("{float: [-1.0, 0.5]}", "maml.inner_lr: found -1.0: input should be greater than or equal to 0"),
        ("{choice: [fast]}", "maml.inner_lr: found 'fast': input should be a valid number, unable to parse string as a "
            "number"),
    ],
)  # fmt: skip
def test_a_range_that_the_schema_does_not_allow(range_: str, sentence: str, files: Callable[[str, str], None]) -> None:
    files("maml.yaml", f"params: {{inner_lr: {range_}}}")
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid")
    assert str(caught.value) == f"spaces/maml.yaml: maml.inner_lr: {sentence}"


def test_a_file_that_is_not_there(files: Callable[[str, str], None], tmp_path: Path) -> None:
    files("maml.yaml", "include: [_comon]")
    with pytest.raises(UserError) as caught:
        space_for("maml")
    path = tmp_path / "spaces/maml.yaml"
    assert str(caught.value) == f"{path}: include: there is no _comon.yaml beside it or in a folder of spaces"


def test_a_preset_outside_the_searched_range_is_named(files: Callable[[str, str], None]) -> None:
    files("maml.yaml", "params: {inner_lr: {float: [0.2, 0.5]}}")
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid")
    assert str(caught.value) == (
        "maml.inner_lr: the starting point 'authors' setting' takes 0.01 from the preset, "
        "which is outside the searched range [0.2, 0.5]"
    )


def test_a_range_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="too wide to draw numbers from"):
        Param(int=(1, 10**400))
