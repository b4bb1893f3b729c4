"""Rows of papers' tables as final runs: what stands beside a published figure, what says it was shortened."""

import json
from pathlib import Path
from typing import Any

import pytest
from study.conftest import studies  # noqa: F401
from study.driving import parse, raymeta

import raymeta as package
from raymeta.api.finals import _configs
from raymeta.errors import UserError
from raymeta.finals.folders import folder_of
from raymeta.finals.results import FinalTable, SeedResult
from raymeta.finals.tracking import log_final
from raymeta.problem import open_problem
from raymeta.report.finals import draw_curves, final_table
from raymeta.report.frames import finals_frame
from raymeta.report.shown import text
from raymeta.study.plan.words import Given

TABLE = """
source: Somebody 2020, Table 1
interval: tasks
unit: MSE
maml: {inner_steps: 1}
model: {name: mlp, hidden: [8]}
outer: {tasks_per_step: 2}
budget: {outer_steps: 40, validate_every: 4, validation_tasks: 4, test_tasks: 6}
tasks:
  5s: {task: {problem: sinusoid, shots: 5}}
methods:
  maml: {spec: maml, published: {5s: 1.24 ± 0.10}, differs: [their points lay on a grid]}
  dropped: {spec: maml+dropgrad, published: {5s: 1.11}}
"""
RESULT = {"val": 2.0, "val_ci95": 0.2, "selected_at": 4, "ensemble": 2.0, "ensemble_ci95": 0.2}
ROUNDS = [{"outer_steps": 4, "seconds": 1.0, "val_mse": 2.0, "val_loss": 2.0, "train_loss": 3.0}]


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(TABLE)
    return f"{tmp_path}/mine.yaml"


def final(table: str, row: str = "5s-maml", *words: str, scale: float = 1.0, **given: Any) -> FinalTable:
    """A row with results that were never trained for."""
    (one,) = _configs([], Given.of(list(words)), given.get("task"), f"{table}/{row}", scale)
    metric, seeds = open_problem(one.config.task).metric, [SeedResult(0, [2.0, 3.0], rounds=ROUNDS, **RESULT)]
    return FinalTable(one.name, one.config, metric, folder_of(one.name, one.config), seeds, one.origin)


def test_a_whole_row_is_beside_its_published_figure(table: str) -> None:
    row = final(table)
    shown = text(final_table([row]))
    assert "mine/5s-maml: maml, sinusoid 5-shot, norm: none" in shown
    assert "1.24 ± 0.10 MSE" in shown
    assert "published: Somebody 2020, Table 1; 95 % interval over test tasks" in shown
    assert "differs from its source: their points lay on a grid" in shown
    assert row.as_dict()["published"]["value"] == 1.24
    assert row.as_dict()["preset"]["name"] == "mine/5s-maml"
    both = text(final_table([row, final(table, "5s-dropped")]))
    assert "published" in both.splitlines()[2]
    assert "1.11 MSE" in both


def test_a_figure_that_was_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"evidence: R\n{TABLE}")
    assert "tasks; recalled, not checked" in text(final_table([final(f"{tmp_path}/mine.yaml")]))


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "in a comparison"])
def test_a_shortened_row_says_so_and_is_beside_no_figure(others: int, table: str) -> None:
    row = final(table, scale=0.5)
    rows = [row, *[final(table, "5s-dropped", scale=0.5)] * others]
    shown = text(final_table(rows))
    assert "shortened to 50 % of its preset's outer steps" in shown.splitlines()[0]
    assert "published" not in shown
    assert "1.24" not in shown
    assert "1.11" not in shown
    assert row.name == "mine/5s-maml@0.5"
    about = row.as_dict()
    assert (about["scale"], about["published"]) == (0.5, None)
    assert about["shortened"] == "shortened to 50 % of its preset's outer steps"
    assert "1.24" not in json.dumps(about)
    assert set(finals_frame(rows)["scale"]) == {0.5}


def test_no_table_has_a_shortened_run_and_a_published_figure(table: str) -> None:
    shown = text(final_table([final(table), final(table, "5s-dropped", scale=0.25)]))
    assert "sinusoid 5-shot, some shortened (NAME@SHARE), 1 seed" in shown.splitlines()[0]
    assert "mine/5s-dropped@0.25" in shown
    assert "1.24" not in shown


def test_a_changed_row_says_what_was_changed_and_is_beside_no_figure(table: str) -> None:
    row = final(table, "5s-maml", "outer.lr=0.5", "task.bank_seed=7", "engine.device=cpu")
    shown = text(final_table([row]))
    assert "not the preset's own: outer.lr" in shown
    assert "1.24" not in shown
    assert row.as_dict()["preset"]["changed"] == ["outer.lr"]
    assert final(table, "5s-maml", "task.bank_seed=7").published is not None
    assert "task.shots" in final(table, task="sinusoid-9s").as_dict()["preset"]["changed"]


def test_the_title_of_a_picture_says_it(table: str, tmp_path: Path) -> None:
    draw_curves([final(table, scale=0.5)], tmp_path / "curves.svg")
    title = "mine/5s-maml: maml, sinusoid 5-shot, shortened to 50 % of its preset's outer steps"
    assert f"<!-- {title} -->" in (tmp_path / "curves.svg").read_text()  # how matplotlib notes what it draws as paths


def test_a_whole_and_a_shortened_run_share_no_folder(table: str, studies: Path) -> None:  # noqa: F811
    folders = [final(table, scale=scale).folder for scale in (1.0, 0.5, 0.049, 0.05)]
    assert len(set(folders)) == 4
    same = [final(table, scale=scale).config.budget.outer_steps for scale in (0.049, 0.05)]
    assert same[0] == same[1]


def test_mlflow_has_it_in_tags_and_parameters(table: str, studies: Path) -> None:  # noqa: F811
    from mlflow.tracking import MlflowClient

    from raymeta.study.tracking.connection import connect

    run = log_final(final(table, scale=0.5), {"preset": "mine/5s-maml"})
    client: MlflowClient = connect()
    found = client.get_run(run).data
    assert {file.path for file in client.list_artifacts(run)} == {"config.yaml", "table.json", "curves.png"}
    assert found.tags["raymeta.score"] == "2.5000 ± 0.9800"
    assert found.params["budget.scale"] == "0.5"
    assert found.tags["raymeta.preset"] == "mine/5s-maml"
    assert found.tags["raymeta.shortened"] == "shortened to 50 % of its preset's outer steps"
    assert found.tags["mlflow.runName"].startswith("mine-5s-maml@0.5-sinusoid-5s-")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "final: found no config; name methods, .yaml files or, as --preset, a row of a table"),
    "a preset for all": (
        {"preset": "smoke"},
        "final: smoke is a preset for any method; name one, as in raymeta final maml --preset smoke",
    ),
    "no preset": (
        {"configs": "maml", "scale": 0.5},
        "--scale: it shortens a preset; name one with --preset (raymeta presets lists them)",
    ),
} | {
    f"scale {scale}": (
        {"configs": "maml", "preset": "smoke", "scale": scale},
        f"--scale {scale:g}: expected a share above 0 and at most 1, as in 0.05",
    )
    for scale in (0.0, -1.0, 1.01, float("nan"))
}


@pytest.mark.parametrize(("given", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        package.final(**given)
    assert str(caught.value) == sentence


@pytest.mark.slow
@pytest.mark.ray
def test_a_row_is_run_shortened_and_whole(table: str, studies: Path) -> None:  # noqa: F811
    words = ["final", "--preset", f"{table}/5s-maml", "--seeds", "1", "--json"]
    (short,) = parse(raymeta(*words, "--scale", "0.5").stdout)["rows"]
    (whole,) = parse(raymeta(*words).stdout)["rows"]
    assert (short["scale"], short["outer_steps"], short["published"]) == (0.5, 20, None)
    assert (whole["scale"], whole["outer_steps"], whole["published"]["value"]) == (1.0, 40, 1.24)
    assert short["folder"] != whole["folder"]
    for one in (short, whole):
        assert json.loads(Path(one["folder"], "table.json").read_text())["scale"] == one["scale"]
        assert f"scale: {one['scale']}" in Path(one["folder"], "config.yaml").read_text()
