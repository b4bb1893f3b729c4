"""Sentences about bad settings, numbers and structure, and nested data under dotted keys."""

from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from raymeta.errors import UserError, suggest
from raymeta.schema import (
    NUMBER,
    Number,
    Section,
    check,
    flatten,
    is_number,
    merge,
    nest,
    numbers,
    parse_overrides,
    structure,
)

KEYS = st.text("abcde", min_size=1, max_size=3)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
TREES = st.dictionaries(
    KEYS, st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8)
)


class Inner(Section):
    rate: float = Field(0.1, ge=0, lt=1)
    kind: Literal["one", "two"] = "one"


class Outer(Section):
    inner: Inner = Inner()
    count: int


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"count": 1, "inner": {"rat": 0}},
            "unknown key 'inner.rat', did you mean 'inner.rate'? (allowed: kind, rate)",
        ),
        ({"count": 1, "iner": {}}, "unknown key 'iner', did you mean 'inner'? (allowed: count, inner)"),
        ({"count": 1, "rate": 0}, "unknown key 'rate', did you mean 'inner.rate'? (allowed: count, inner)"),
        ({"count": 1, "zzz": {}}, "unknown key 'zzz', allowed: count, inner"),
        ({}, "the key 'count' is missing"),
        ({"count": "x"}, "count: found 'x': input should be a valid integer, unable to parse string as an integer"),
        ({"count": 1, "inner": {"rate": 1}}, "inner.rate: found 1: input should be less than 1"),
        ({"count": 1, "inner": {"rate": float("nan")}}, "inner.rate: found nan: input should be a finite number"),
        (
            {"count": 1, "inner": {"kind": "tow"}},
            "inner.kind: found 'tow': not a value of this key, did you mean 'two'? (allowed: one, two)",
        ),
        ({"count": 1, "inner": {"kind": 3}}, "inner.kind: found 3: input should be 'one' or 'two'"),
    ],
)
def test_the_first_complaint_is_one_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check(Outer, data, "file.yaml")
    assert str(caught.value) == f"file.yaml: {sentence}"


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().rate = 0.2  # type: ignore[misc]


@settings(max_examples=50)
@given(st.recursive(VALUES, lambda inner: st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner)))
def test_any_data_are_checked_without_another_error(data: Any) -> None:
    with suppress(UserError):
        check(Outer, {"count": 1, "inner": data}, "data")


@given(TREES)
def test_nesting_undoes_flattening(tree: dict[str, Any]) -> None:
    flat = flatten(tree)
    assert not any(isinstance(value, dict) and value for value in flat.values())
    assert nest(flat) == tree


@settings(max_examples=50)
@given(TREES, TREES, TREES)
def test_merging(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    assert merge(a) == merge(a, {}) == merge({}, a) == merge(a, a) == a
    over = merge(a, b)
    assert merge(over, b) == over
    assert merge(a, b, c) == merge(merge(a, b), c)
    for key, value in b.items():
        if not isinstance(value, dict):
            assert over[key] == value
    assert {*a, *b} == {*over}


def test_merging_goes_into_sections_and_replaces_lists() -> None:
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(below, {"a": {"y": [3]}}) == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (["maml.inner_lr=0.1", "task.shots=5"], {"maml": {"inner_lr": 0.1}, "task": {"shots": 5}}),
        (["outer.lr=1e-3"], {"outer": {"lr": 0.001}}),
        (["maml.order=first", "outer.clip=null"], {"maml": {"order": "first"}, "outer": {"clip": None}}),
        (["model={name: mlp, hidden: [4]}"], {"model": {"name": "mlp", "hidden": [4]}}),
        (["maml.order=first", "maml={inner_steps: 2}"], {"maml": {"order": "first", "inner_steps": 2}}),
        (["maml={inner_steps: 2}", "maml.order=first"], {"maml": {"order": "first", "inner_steps": 2}}),
        (["a=x=y"], {"a": "x=y"}),
        (["a=1", "a=2"], {"a": 2}),
        ([], {}),
    ],
)
def test_overrides(words: list[str], data: dict[str, Any]) -> None:
    assert parse_overrides(words) == data


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["maml"], "'maml': expected key=value, as in maml.inner_lr=0.1"),
        (["=1"], "'=1': expected key=value, as in maml.inner_lr=0.1"),
        (["a=1", "a.b=2"], "'a.b': 'a' is a value, not a section"),
        (["a.b=2", "a=1"], "'a': 'a' is a section, not a value"),
        (["a=["], "'a=[': not valid YAML at line 1, column 2: expected the node content, but found '<stream end>'"),
    ],
)
def test_overrides_that_make_no_sense(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(words)
    assert str(caught.value) == sentence


def test_suggestions() -> None:
    assert suggest("mamll", ["maml", "alfa"]) == "did you mean 'maml'? (allowed: alfa, maml)"
    assert suggest("xyz", ["maml", "alfa"]) == "allowed: alfa, maml"
    assert suggest("xyz", []) == "allowed: none"


# Numbers and structure


class Leaf(Section):
    share: Annotated[float | None, NUMBER] = Field(None, ge=0, le=1)
    sizes: list[int] = Field([1])


class Tree(Section):
    rate: Number = Field(0.1, ge=0, lt=1)
    plain: float = 0.5
    kind: Literal["one", "two"] = "one"
    leaf: Leaf = Leaf()


LEAVES = st.builds(Leaf, share=st.none() | st.floats(0, 1), sizes=st.sampled_from([[], [1], [1, 2]]))
SECTIONS = st.builds(
    Tree, rate=st.floats(0, 1, exclude_max=True), plain=st.sampled_from([0.0, 0.5]),
    kind=st.sampled_from(["one", "two"]), leaf=LEAVES,
)  # fmt: skip


def test_which_settings_are_numbers() -> None:
    assert [name for name in Tree.model_fields if is_number(Tree, name)] == ["rate"]
    assert [name for name in Leaf.model_fields if is_number(Leaf, name)] == ["share"]
    tree = Tree(rate=0, leaf=Leaf(share=0.25, sizes=[3, 4]))
    assert numbers(tree) == {"rate": 0.0, "leaf.share": 0.25}
    assert isinstance(numbers(tree)["rate"], float)
    assert structure(tree) == (("plain", 0.5), ("kind", "one"), ("leaf.sizes", (3, 4)))
    assert numbers(Tree()) == {"rate": 0.1}
    assert ("leaf.share", None) in structure(Tree())


@given(SECTIONS)
def test_numbers_and_structure_together_are_the_section(tree: Tree) -> None:
    found, rest = numbers(tree), dict(structure(tree))
    assert not found.keys() & rest.keys()
    assert Tree.model_validate(nest({**rest, **found})) == tree


@settings(max_examples=300)
@given(SECTIONS, SECTIONS)
def test_sections_that_differ_in_numbers_only_have_one_structure(one: Tree, other: Tree) -> None:
    def without_numbers(tree: Tree) -> Tree:
        share = None if tree.leaf.share is None else 0.0
        return tree.model_copy(update={"rate": 0.0, "leaf": tree.leaf.model_copy(update={"share": share})})

    assert structure(without_numbers(one)) == structure(one)
    assert (structure(one) == structure(other)) is (without_numbers(one) == without_numbers(other))
    assert len({structure(one), structure(without_numbers(one))}) == 1  # as a key of a dict


class Kinds(Section):
    """A key of every kind."""

    number: float = 1.0
    count: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    word: str = ""
    flag: bool = False
    either: float | bool | None = None
    named: Literal["a", True] = "a"
    names: tuple[str | float | bool, ...] = ()


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key", ["number", "count", "word"])
def test_a_truth_value_is_no_number_and_no_word(key: str, value: bool) -> None:
    with pytest.raises(UserError, match=rf"f: {key}: found {str(value).lower()}: a truth value, where"):
        check(Kinds, {key: value}, "f")


def test_a_truth_value_in_a_range_is_none() -> None:
    with pytest.raises(UserError, match=r"f: pair: found .*: a truth value, where a number is expected"):
        check(Kinds, {"pair": [False, 1.0]}, "f")
    for key, value in (("flag", True), ("either", True), ("named", True), ("names", (True, "x"))):
        assert getattr(check(Kinds, {key: value}, "f"), key) == value


def test_a_key_of_another_section_is_meant_if_it_is_the_same_to_the_letter() -> None:
    class Inner(Section):
        tasks: int = 1

    class Whole(Section):
        task: int = 1
        engine: Inner = Inner()

    for key, meant in (("tasks", "engine.tasks"), ("taks", "task"), ("trials", "study.trials")):
        with pytest.raises(UserError, match=f"unknown key '{key}', did you mean '{meant}'"):
            check(Whole, {key: 1}, "f", ["study.trials"])
