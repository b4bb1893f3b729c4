"""A real search through the command line, its record, its MLflow runs, and what export and final make of it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from study.driving import (
    NAME,
    ONE,
    TINY,
    Finished,
    assert_mlflow_equals_record,
    load,
    parse,
    raymeta,
    runs_of,
    undisturbed,
)  # fmt: skip

from raymeta.config import parse_trial
from raymeta.report.export import read_export
from raymeta.study.tracking.connection import connect

pytestmark = pytest.mark.ray
VERSIONS = {"raymeta", "torch", "ray", "optuna", "mlflow", "numpy"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """The search, with the environment set to where it is."""
    finished = undisturbed(tmp_path_factory.getbasetemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(finished.studies))
        yield finished


def test_its_answer(found: Finished) -> None:
    answer, record = parse(found.done.stdout), load(NAME)
    best = record.best()
    assert best is not None
    assert answer["study"] == NAME
    assert answer["trials"]["completed"] >= 1
    assert answer["trials"]["pruned"] >= 1
    assert sum(answer["trials"].values()) == len(record.trials()) == 8
    assert answer["trials"]["running"] == answer["trials"]["failed"] == 0
    assert answer["best"]["trial"] == best.number
    assert parse_trial(answer["best"]["config"]) == record.config(best)
    assert 0 < answer["first_result_s"] < answer["wall_s"]
    assert 0 < answer["slot_efficiency"] <= 1
    assert found.done.stderr.splitlines()[-2:] == [
        f"report: {found.studies / NAME / 'report.html'}",
        f"next: raymeta export {NAME}   |   raymeta ui",
    ]
    assert f"Trial {best.number} is the best" in (found.studies / NAME / "report.html").read_text()


def test_trials_end_at_rungs_and_have_all_their_rounds(found: Finished) -> None:
    record = load(NAME)
    for trial in record.trials():
        assert [entry["outer_steps"] for entry in trial.rounds] == list(range(2, trial.outer_steps + 1, 2))
        assert trial.outer_steps in record.plan.rungs
        assert trial.state == ("completed" if trial.outer_steps == 54 else "pruned")
        assert (record.trial_folder(trial.number) / "checkpoint.pt").is_file()


def test_mlflow_has_one_parent_and_a_child_a_trial(found: Finished) -> None:
    assert_mlflow_equals_record(NAME)
    client, record = connect(), load(NAME)
    assert [e.name for e in client.search_experiments()] == [NAME]
    (parent,), children = runs_of(NAME)
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert names == {"base.yaml", "space.yaml", "best_config.yaml", "finalists.json", "search.png", "report.html"}
    best = record.best()
    assert best is not None
    assert parent.data.tags["raymeta.best_trial"] == str(best.number)
    assert parent.data.tags["raymeta.command"].startswith("raymeta search maml+dropgrad --task sinusoid-5s")
    assert parent.data.metrics["best_val_mse"] == (best.best(record.metric) or {})["val_mse"]
    kept = Path(client.download_artifacts(parent.info.run_id, "best_config.yaml"))
    assert parse_trial(yaml.safe_load(kept.read_text())) == record.config(best)
    picture = Path(client.download_artifacts(parent.info.run_id, "search.png"))
    assert picture.read_bytes() == (record.folder / "search.png").read_bytes()
    (model,) = client.search_logged_models([parent.info.experiment_id])
    assert (model.source_run_id, model.status) == (parent.info.run_id, "READY")
    assert parent.data.tags["raymeta.model_of"].startswith(f"trial {best.number} at ")
    weights = next(Path(unquote(urlsplit(model.artifact_location).path)).rglob("checkpoint.pt"))
    assert weights.read_bytes() == (record.trial_folder(best.number) / "checkpoint.pt").read_bytes()
    places = {int(run.data.tags["raymeta.trial"]): run.data for run in children}
    assert (places[best.number].tags["raymeta.role"], places[best.number].metrics["rank"]) == ("best", 1)
    assert sorted(data.metrics["rank"] for data in places.values() if "rank" in data.metrics) == list(
        range(1, len(record.ranking()) + 1)
    )


def test_a_name_that_exists_is_refused(found: Finished) -> None:
    before = (found.studies / NAME / "journal.log").read_bytes()
    done = raymeta("search", *ONE, "--name", NAME)
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"raymeta: the study '{NAME}' exists: go on with `raymeta resume {NAME}`, or give another --name\n"
    assert done.stderr == expected
    assert (found.studies / NAME / "journal.log").read_bytes() == before


# Export


def test_export_reads_back(found: Finished, tmp_path: Path) -> None:
    record = load(NAME)
    best = record.best()
    assert best is not None
    done = raymeta("export", NAME, "-o", str(tmp_path / "best.yaml"), "--json")
    assert done.returncode == 0
    config, provenance = read_export(tmp_path / "best.yaml")
    assert config == record.config(best)
    assert parse(done.stdout) == {"provenance": provenance, **config.as_dict()}
    assert (provenance["study"], provenance["trial"], provenance["trials"]) == (NAME, best.number, 8)
    entry = best.best(record.metric) or {}
    assert (provenance["val_mse"], provenance["val_ci95"]) == (entry["val_mse"], entry["val_ci95"])
    assert provenance["outer_steps"] == best.outer_steps == 54
    assert provenance["data"] == {"name": "sinusoid", "fingerprint": record.about["data"]["fingerprint"]}
    assert provenance["space_hash"] == record.plan.space.hash
    assert provenance["command"].startswith("raymeta search maml+dropgrad")
    assert set(provenance["versions"]) == VERSIONS
    run = connect().get_run(provenance["mlflow_run"])
    assert run.data.tags["raymeta.trial"] == str(best.number)
    assert "un-regularized start" in provenance["against_start"]

    other = next(trial.number for trial in record.trials() if trial.number != best.number)
    assert raymeta("export", NAME, "-o", str(tmp_path / "other.yaml"), "--trial", str(other)).returncode == 0
    config, provenance = read_export(tmp_path / "other.yaml")
    assert (config, provenance["trial"]) == (record.config(record.trial(other)), other)


# Final runs


@pytest.fixture(scope="module")
def exported(found: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "best.yaml"
    assert raymeta("export", NAME, "-o", str(path)).returncode == 0
    return path


def final_runs() -> tuple[list[Any], list[Any]]:
    client = connect()
    experiment = client.get_experiment_by_name("final runs")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if run not in parents]


def test_final_runs(exported: Path, found: Finished) -> None:
    done = raymeta("final", str(exported), "--seeds", "2")
    assert done.returncode == 0, done.stderr
    for word in ("maml+dropgrad", "test mse", "all", "10 test tasks"):
        assert word in done.stdout
    results = sorted((found.studies / "finals").glob("best-*/seed*/result.json"))
    assert [path.parent.name for path in results] == ["seed0", "seed1"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results}
    (parent,), children = final_runs()

    again = raymeta("final", str(exported), "--seeds", "2", "--json")
    assert again.returncode == 0, again.stderr
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results} == before
    (table,) = parse(again.stdout)["rows"]
    for row, (_, content) in zip(table["seeds"], before.values(), strict=True):
        assert row["test_mse"] == pytest.approx(sum(json.loads(content)["values"]) / 10)
    assert table["mean"] == pytest.approx((table["seeds"][0]["test_mse"] + table["seeds"][1]["test_mse"]) / 2)
    assert table["test_tasks"] == 10
    assert {seed["selected_at"] for seed in table["seeds"]} <= set(range(2, 55, 2))
    assert {seed["kernels"] for seed in table["seeds"]} == {"torch"}  # of an MLP

    (parent,), children = final_runs()  # and not doubled
    assert len(children) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert parent.data.metrics["test_mse"] == table["mean"]
    assert {run.data.params["seed"] for run in children} == {"0", "1"}


@pytest.mark.slow
def test_several_configs_are_one_table_and_one_picture(studies: Path, tmp_path: Path) -> None:
    words = ["maml", "metasgd", "--task", "sinusoid-5s", "--preset", "smoke", "--seeds", "1", "maml.inner_lr=1e30"]
    done = raymeta("final", *words, "--json", "--picture", str(tmp_path / "curves.svg"))
    assert done.returncode == 1
    answer = parse(done.stdout)
    (problem,) = answer["problems"]
    assert problem.startswith("maml, seed 0 diverged at ")
    assert done.stderr.splitlines()[-1] == f"raymeta: {problem}"
    (row,) = answer["rows"]  # what can be tested is, whatever becomes of the others
    assert row["method"] == "metasgd"
    assert (tmp_path / "curves.svg").read_text().count("metasgd: test") == 1
    _, (child,) = final_runs()
    curve = connect().get_metric_history(child.info.run_id, "val_mse")
    assert [point.step for point in curve] == list(range(2, 19, 2))
    assert min(point.value for point in curve) == row["seeds"][0]["val_mse"]


@pytest.mark.slow
def test_scores_by_inner_step(studies: Path, tmp_path: Path) -> None:
    """Also of runs that were tested before without them; the last step's are the test's."""
    words = ["maml", "maml:inner_lr=0.0", "--task", "sinusoid-5s", "--preset", "smoke", "--seeds", "2", "--json"]
    words += ["maml.inner_steps=2", "budget.outer_steps=4", "budget.validate_every=2", "study.first_rung=2"]
    first = raymeta("final", *words)
    assert first.returncode == 0, first.stderr
    done = raymeta("final", *words, "--by-step", str(tmp_path / "steps.svg"))
    assert done.returncode == 0, done.stderr
    for row, still, plain in zip(parse(done.stdout)["rows"], (False, True), parse(first.stdout)["rows"], strict=True):
        for tasks in ("training", "test"):
            means = [mean for mean, _ in row["by_step"][tasks]]
            assert len(means) == 3
            assert (means == pytest.approx([means[0]] * 3, rel=1e-6)) is still  # a rate of 0 moves nothing
        assert row["by_step"]["test"][-1][0] == pytest.approx(row["mean"], rel=1e-9)
        assert {**plain, "by_step": row["by_step"]} == row
    assert (tmp_path / "steps.svg").stat().st_size > 0
    refused = raymeta("final", "protonet", "--task", "glyphs-5w1s", "--by-step", str(tmp_path / "none.svg"))
    assert (refused.returncode, refused.stderr) == (2, "raymeta: --by-step: protonet has no inner steps\n")


@pytest.mark.slow
def test_a_choice_of_regularizers_is_searched_exported_and_run(studies: Path, tmp_path: Path) -> None:
    chosen = ["--choose", "dropgrad,dropout,none", "--name", "choice", "--slots", "1"]
    done = raymeta("search", "maml", *TINY[1:], *chosen)
    assert done.returncode == 0, done.stderr
    record = load("choice")
    trials = record.trials()
    assert [trial.point["regularizer"] for trial in trials[:3]] == ["dropgrad", "dropout", "none"]
    assert {record.config(trial).spec for trial in trials} >= {"maml+dropgrad", "maml+dropout", "maml"}
    assert raymeta("export", "choice", "-o", str(tmp_path / "best.yaml")).returncode == 0
    config, provenance = read_export(tmp_path / "best.yaml")
    best = record.best()
    assert best is not None
    assert config == record.config(best)
    assert "un-regularized start" in provenance["against_start"]
    final = raymeta("final", str(tmp_path / "best.yaml"), "--seeds", "1", "--json")
    assert final.returncode == 0, final.stderr
    assert parse(final.stdout)["rows"][0]["method"] == config.spec


def test_other_data_than_the_config_was_found_on(exported: Path, found: Finished, tmp_path: Path) -> None:
    content = yaml.safe_load(exported.read_text())
    mine = content["provenance"]["data"]["fingerprint"]
    content["provenance"]["data"]["fingerprint"] = "0" * 64
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(content))
    done = raymeta("final", str(tmp_path / "best.yaml"), "--seeds", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"raymeta: {tmp_path / 'best.yaml'}: was found on sinusoid with fingerprint {'0' * 12}, "
        f"but sinusoid on this machine has {mine[:12]}\n"
    )


def test_a_study_is_not_resumed_on_other_data(found: Finished, tmp_path: Path) -> None:
    shutil.copytree(found.studies / NAME, tmp_path / NAME)
    path = tmp_path / NAME / "study.yaml"
    about = yaml.safe_load(path.read_text())
    about["data"]["fingerprint"] = "0" * 64
    path.write_text(yaml.safe_dump(about))
    before = sorted(os.listdir(tmp_path / NAME))
    done = raymeta("resume", NAME, RAYMETA_STUDIES=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"raymeta: the study '{NAME}' was made on data with fingerprint 000")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(set(os.listdir(tmp_path / NAME)) - {"driver.lock"}) == sorted(set(before) - {"driver.lock"})
