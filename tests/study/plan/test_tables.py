"""Tables of presets: how a row is put together, how it is named, and one sentence for whatever is wrong in a file."""

from pathlib import Path
from typing import Any

import pytest
from foreign import found, install
from hypothesis import given
from hypothesis import strategies as st

from raymeta.config import BudgetConfig
from raymeta.errors import UserError
from raymeta.study.plan.plan import make_config, make_plan
from raymeta.study.plan.tables import Figure, names, read_table, row_of

TABLE = """
source: Somebody 2020, Table 1
interval: tasks
outer: {lr: 0.01, tasks_per_step: 2}
budget: {outer_steps: 600, validate_every: 20, validation_tasks: 60, test_tasks: 200, ensemble: 2}
study: {first_rung: 60}
differs: [their points lay on a grid]
tasks:
  5s: {task: {problem: sinusoid, shots: 5}, model: {name: mlp}, outer: {lr: 0.002}}
  9s: {task: {problem: sinusoid, shots: 9}, model: {name: mlp, hidden: [8]}, unit: mV}
methods:
  maml: {spec: maml, published: {5s: 1.24 ± 0.10, 9s: 0.5}, outer: {tasks_per_step: 3}}
  dropped: {spec: maml+dropgrad, published: {9s: null}, regularizers: {dropgrad: {rate: 0.3}}}
rows:
  9s-dropped: {outer: {lr: 0.03}, interval: seeds, differs: [they had other noise]}
lacking:
  20s-maml: {published: 0.49, needs: more points}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(TABLE)
    return file


def outer(preset: Any, spec: str = "maml") -> tuple[float, int]:
    config = make_config(spec, preset=preset)
    return config.outer.lr, config.outer.tasks_per_step


def test_a_row_is_the_table_its_task_its_method_and_its_own_from_the_bottom(table: Path) -> None:
    assert outer(f"{table}/5s-maml") == (0.002, 3)
    assert outer(table / "9s-maml") == (0.01, 3)
    assert outer(f"{table}/9s-dropped", "maml+dropgrad") == (0.03, 2)
    config = make_config("maml+dropgrad", preset=f"{table}/9s-dropped")
    assert config.regularizers.dropgrad.rate == 0.3  # type: ignore[attr-defined]
    assert (config.task.shots, config.model.hidden) == (9, (8,))  # type: ignore[attr-defined]
    assert make_config("alfa", preset=f"{table}/5s-maml").outer.lr == 0.002  # a preset like any other


def test_a_row_knows_what_its_source_says(table: Path) -> None:
    rows = read_table(table).rows
    assert list(rows) == ["5s-maml", "9s-maml", "9s-dropped"]
    assert rows["5s-maml"].figure == Figure(1.24, 0.10, "tasks", "%")
    assert rows["9s-maml"].figure == Figure(0.5, None, None, "mV")
    assert rows["9s-dropped"].figure is None
    assert rows["9s-dropped"].differs == ("their points lay on a grid", "they had other noise")
    assert rows["5s-maml"].source == "Somebody 2020, Table 1"
    assert [(row.name, row.spec, row.outer_steps) for row in rows.values()][2] == (
        "mine/9s-dropped", "maml+dropgrad", 600,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(56.8, None, None, "%"), "56.80 %"),
        (Figure(1.24, 0.1, "tasks", "MSE"), "1.24 ± 0.10 MSE"),
    ],
)
def test_a_figure_is_printed_as_papers_do(figure: Figure, text: str) -> None:
    assert str(figure) == text


def test_a_row_needs_nothing_of_its_data_sets_preset(table: Path) -> None:
    own = make_config("maml", "sinusoid")
    assert (own.outer.tasks_per_step, own.budget.outer_steps) == (25, 70_000)  # the preset sinusoid
    plan = make_plan("maml", preset=f"{table}/5s-maml")
    assert plan.base.settings.inner_steps == 5
    assert set(plan.origins.values()) == {"mine/5s-maml"}


def test_a_table_of_a_package_is_found_and_built_upon(tmp_path: Path) -> None:
    files = {
        "theirs/presets/tables/their-table.yaml": TABLE,
        "theirs/presets/longer.yaml": "base: their-table/5s-maml\nbudget: {outer_steps: 6000}",
    }
    with found(install(tmp_path, "theirs", {"presets": {"theirs": "theirs.presets"}}, files)):
        assert "their-table/9s-dropped" in names()
        assert outer("their-table/5s-maml") == outer("longer") == (0.002, 3)
        assert make_config("maml", preset="longer").budget.outer_steps == 6000
        with pytest.raises(UserError) as caught:
            make_config("maml", preset="their-table")
    first = "their-table is a table; name one of its rows: their-table/5s-maml, "
    assert str(caught.value).startswith(first)


def test_a_table_may_have_a_base(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("outer: {lr: 0.5, min_lr: 0.25}")
    (tmp_path / "mine.yaml").write_text(f"base: below.yaml\n{TABLE}")
    config = make_config("maml", preset=tmp_path / "mine.yaml/5s-maml")
    assert (config.outer.lr, config.outer.min_lr) == (0.002, 0.25)


ONE = "tasks: {x: }\nmethods: {maml: {spec: maml, published: {x: %s}}}"
WRONG = {
    "no task": (
        "tasks: {}\nmethods: {maml: {published: {x: 1}}}",
        "methods.maml: published: unknown task 'x': allowed: none",
    ),
    "no methods": ("tasks: {}", "the key 'methods' is missing"),
    "no figures": (
        "tasks: {}\nmethods: {maml: {spec: maml}}",
        "methods.maml: published: expected figures by task, found None",
    ),
    "no spec": (
        "tasks: {x: }\nmethods: {maml: {published: {x: 1}}}",
        "x-maml: spec: it is missing: which method a row trains, as in spec: maml+dropgrad",
    ),
    "figure": (
        ONE % "about 5",
        "x-maml: published: found 'about 5': expected a figure, as in 56.80 or 56.80 ± 0.49, or null",
    ),
    "rows": (f"{ONE % 1}\nrows: {{y-maml: {{}}}}", "rows: no task and method make 'y-maml'"),
    "lacking": (f"{ONE % 1}\nlacking: {{x-maml: {{needs: it}}}}", "lacking: there is a row 'x-maml'"),
    "evidence": (f"evidence: X\n{ONE % 1}", "evidence: found 'X': not a value of this key, allowed: C, J, M, P, R"),
    "section": (f"outer: 3\n{ONE % 1}", "outer: expected a section of keys, found 3 (keys of a table: "),
    "key": (f"{ONE % 1}\nouter: {{lrr: 1}}", "x-maml: unknown key 'outer.lrr', did you mean 'outer.lr'? ("),
    "regularizer": (
        f"{ONE % 1}\nregularizers: {{dropgrd: {{}}}}",
        "x-maml: regularizers: unknown regularizer 'dropgrd', did you mean 'dropgrad'? (",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_table_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        make_config("maml", preset=f"{file}/x-maml")
    assert str(caught.value).startswith(f"{file}: {sentence}")


NAMES = {
    "unknown row": ("{table}/5s-mml", "the table mine has no row '5s-mml': did you mean '5s-maml'? (allowed: "),
    "whole table": ("{table}", "{table}: it is a table; name one of its rows, as in {table}/TASK-METHOD"),
    "unknown table": ("alfa-tabel1/x", "unknown preset 'alfa-tabel1/x': "),
    "file": ("../nosuch/one", "../nosuch/one: no such file"),
}


@pytest.mark.parametrize(("preset", "sentence"), NAMES.values(), ids=NAMES)
def test_a_wrong_name_is_one_sentence(preset: str, sentence: str, table: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_config("maml", preset=preset.replace("{table}", str(table)))
    assert str(caught.value).startswith(sentence.replace("{table}", str(table)))


def test_a_preset_of_one_file_is_no_row() -> None:
    assert row_of("smoke") is None


@given(
    rounds=st.integers(1, 200),
    length=st.integers(1, 2000),
    tasks=st.integers(2, 3000),
    scale=st.floats(0, 1, exclude_min=True),
)
def test_a_shortened_budget_has_the_share_of_steps_and_tasks_enough(
    rounds: int, length: int, tasks: int, scale: float
) -> None:
    whole = BudgetConfig(
        outer_steps=rounds * length, validate_every=length, validation_tasks=tasks, test_tasks=tasks, ensemble=3
    )
    short = whole.shortened(scale)
    steps, count = short.outer_steps, short.outer_steps // short.validate_every
    assert (short.scale, short.ensemble) == (scale, 3)
    assert abs(steps - max(1, whole.outer_steps * scale)) <= count / 2 + 1
    assert min(rounds, 5, steps) <= count <= rounds
    assert min(tasks, 50) <= short.validation_tasks <= tasks
    assert min(tasks, 100) <= short.test_tasks <= tasks


def test_a_row_at_a_share_of_its_length(table: Path) -> None:
    budget = make_config("maml", preset=f"{table}/5s-maml", scale=0.05).budget
    assert (budget.outer_steps, budget.validate_every) == (30, 6)
    assert (budget.validation_tasks, budget.test_tasks, budget.scale) == (50, 100, 0.05)
    assert make_config("maml", preset=f"{table}/5s-maml", scale=1.0) == make_config("maml", preset=f"{table}/5s-maml")


@pytest.mark.parametrize("key", ["budget.outer_steps", "budget.validate_every", "budget.scale"])
def test_the_share_and_a_length_of_ones_own_exclude_each_other(key: str, table: Path) -> None:
    with pytest.raises(UserError, match=rf"^{key}: it is what `raymeta final --scale` sets; leave it out$"):
        make_config("maml", preset=f"{table}/5s-maml", words=[f"{key}=1"], scale=0.5)
    for word in ("0.5", "0.1..0.5"):
        with pytest.raises(UserError, match=r"^budget\.scale: it is what"):
            make_plan("maml", "sinusoid", words=[f"budget.scale={word}"])
