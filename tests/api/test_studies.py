"""Studies from Python: without a search what is known of one, and a real one in the background, stopped and gone on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study.conftest import studies  # noqa: F401
from study.driving import WORDS, noted, rounds_noted, tiny_record, until

import raymeta
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.report.export import read_export
from raymeta.schema import merge, nest, parse_overrides
from raymeta.study.plan.words import Given
from raymeta.study.record.folder import driver_of

SPEC, TASK = "maml+dropgrad", "sinusoid-5s"


def test_importing_raymeta_imports_nothing_heavy_and_has_all_names() -> None:
    code = (
        "import sys, raymeta; assert set(raymeta.__all__) <= set(dir(raymeta))\n"
        "print({'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'pandas'} & set(sys.modules))\n"
        "import raymeta.finals.runs\n"
        "print(all(callable(getattr(raymeta, name)) for name in raymeta.__all__))\n"
        "print('pandas' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "True", "False False"], done.stderr
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        raymeta.serach  # noqa: B018


@pytest.mark.parametrize(
    "overrides",
    [
        {"maml.inner_lr": 0.1, "maml.order": "first", "model.hidden": [8, 8], "task.split": None},
        {"maml": {"inner_lr": np.float64(0.1), "order": "first"}, "model": {"hidden": (8, 8)}, "task": {"split": None}},
        ["maml.inner_lr=0.1", "maml.order=first", "model.hidden=[8,8]", "task.split=null"],
    ],
)
def test_overrides_in_every_form_are_the_same(overrides: Any) -> None:
    given = Given.of(overrides)
    assert merge(nest(given.values), parse_overrides(given.words)) == {
        "maml": {"inner_lr": 0.1, "order": "first"}, "model": {"hidden": [8, 8]}, "task": {"split": None},
    }  # fmt: skip


@pytest.mark.parametrize("word", ["1e-3", "true", "null", "a b", "é", "", "1", "[1]", "x: y", "#", 1e-30, -0.0, 2**63])
def test_overrides_keep_their_values(word: Any) -> None:
    assert Given.of({"a": {"key": word}}).values == {"a.key": word}


@pytest.mark.parametrize("overrides", ["maml.inner_lr=0.1", [1], {"a": float("nan")}, {"a": object()}, {"a": {1}}])
def test_overrides_that_are_none(overrides: Any) -> None:
    with pytest.raises(UserError, match=r"^overrides: (a: )?found .*: (expected a mapping|not a number, a word)"):
        Given.of(overrides)


def test_what_is_known_of_a_study(studies: Path) -> None:  # noqa: F811
    record = tiny_record("one", "study.trials=4", "study.finalists=0")
    for scores in ((3.0, 2.0), (1.0, 4.0), (5.0,)):
        noted(record, *scores)
    record.ask()
    study = raymeta.open_study("one")
    assert [trial.number for trial in study.trials()] == [0, 1, 2, 3]
    best = study.best
    assert best is not None
    assert best.number == 1
    assert study.config() == record.config(best)
    frame = study.frame()
    assert list(frame.index) == [0, 1, 2, 3]
    assert list(frame["val_mse"][:3]) == [2.0, 1.0, 5.0]
    assert frame["val_mse"].isna().tolist() == [False, False, False, True]
    assert list(frame["state"]) == ["completed"] * 3 + ["running"]
    assert set(record.plan.space.params) < set(frame.columns)
    assert frame.loc[0, "regularizers.dropgrad.rate"] == record.trial(0).point["regularizers.dropgrad.rate"]
    rounds = study.frame(rounds=True)
    assert list(rounds.index) == [(0, 17), (0, 18), (1, 17), (1, 18), (2, 18)]
    assert rounds.loc[(1, 18), "val_mse"] == 4.0
    shown = str(study).splitlines()
    assert shown[0].split() == ["trial", "state", "steps", "of", "18", "validation", "mse", "settings"]
    assert shown[-1] == str(study.status) == "go on with: raymeta resume one"
    assert "text/plain" in study._repr_mimebundle_([], [])  # type: ignore[arg-type]
    assert [one.name for one in raymeta.studies()] == ["one"]


def test_nothing_is_known_of_an_empty_study(studies: Path, tmp_path: Path) -> None:  # noqa: F811
    tiny_record("empty")
    study = raymeta.open_study("empty")
    assert (study.best, study.trials(), study.finalists, study.running) == (None, [], None, False)
    assert len(study.frame()) == len(study.frame(rounds=True)) == 0
    for ask in (study.config, study.export, study.load):
        with pytest.raises(UserError, match=r"^the study 'empty' has no validation of any trial yet$"):
            ask()
    assert study.wait(1) is study
    study.stop()  # nothing drives it
    with pytest.raises(UserError, match=r"^no study 'emptyy' in .*: did you mean 'empty'\?"):
        raymeta.open_study("emptyy")


def test_an_export_is_read_back(studies: Path, tmp_path: Path) -> None:  # noqa: F811
    record = tiny_record("one", "study.finalists=0")
    noted(record, 3.0)
    noted(record, 2.0)
    study = raymeta.open_study("one")
    path = study.export(tmp_path / "best.yaml")
    config, provenance = read_export(path)
    assert (config, provenance["trial"]) == (study.config(), 1)
    assert read_export(study.export(tmp_path / "other.yaml", trial=0))[1]["trial"] == 0
    assert study.draw(tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_preview_starts_nothing(
    studies: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = raymeta.preview(SPEC, TASK, trials=3, overrides=WORDS)
    assert (len(shown.points), shown.rungs) == (3, [2, 6, 18])
    assert "maml.inner_lr" in raymeta.space(SPEC, TASK).space.params
    assert "maml.inner_lr" not in raymeta.space(SPEC, TASK, overrides={"maml.inner_lr": 0.1}).space.params
    ranges = {"maml.inner_lr": "0.01..0.5:log", "maml.order": ["first", "second"]}
    own = raymeta.space(SPEC, TASK, space=ranges, write="my.yaml").space
    assert (own.params["maml.inner_lr"].float_, own.params["maml.order"].choice) == ((0.01, 0.5), ("first", "second"))
    assert raymeta.space(SPEC, TASK, space="my.yaml").space.params == own.params
    assert not studies.exists()


def test_who_drives_a_study(studies: Path) -> None:  # noqa: F811
    import os

    record = tiny_record("one")
    assert driver_of(record.folder) is None
    with record.locked():
        assert driver_of(record.folder) == os.getpid()
        killed = (record.folder / "driver.json").read_bytes()
    assert driver_of(record.folder) is None
    (record.folder / "driver.json").write_bytes(killed)  # of a driver that could not take it away
    assert driver_of(record.folder) is None


@pytest.mark.ray
def test_a_search_in_the_background_is_stopped_and_gone_on_with(studies: Path) -> None:  # noqa: F811
    words = [*WORDS, "budget.outer_steps=6000", "study.first_rung=6000", "study.finalists=0"]
    study = raymeta.search(
        SPEC, TASK, trials=2, overrides=words, name="behind", slots=1, background=True, quiet=True
    )  # fmt: skip
    assert study.running
    assert study.session is None
    until(lambda: rounds_noted("behind") > 2)
    with pytest.raises(TimeoutError, match=r"the study 'behind' is still running after 0\.1 s"):
        study.wait(0.1)
    with pytest.raises(UserError, match="the study 'behind' is being driven by another process"):
        raymeta.open_study("behind").resume()
    raymeta.open_study("behind").stop(now=True)  # from another notebook
    study.wait(60)
    assert not study.running
    assert [trial.state for trial in study.trials()] == ["running"]
    assert study.record.about["command"].startswith("raymeta.search('maml+dropgrad', task='sinusoid-5s', trials=2, ")
    assert "leaving; what runs is saved first" in (study.folder / "driver.log").read_text()


def test_what_a_driver_in_the_background_ends_with_is_raised(studies: Path) -> None:  # noqa: F811
    record = tiny_record("one")
    path = record.folder / "study.yaml"
    path.write_text(path.read_text().replace(record.about["data"]["fingerprint"], "a" * 64))
    with pytest.raises(UserError, match=r"^the study 'one' was made on data with fingerprint aaa"):
        raymeta.open_study("one").resume(background=True).wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_search_to_final_runs_and_predictions(studies: Path, tmp_path: Path) -> None:  # noqa: F811
    words = parse_overrides(WORDS)
    study = raymeta.search(SPEC, TASK, trials=1, overrides=words, slots=1, quiet=True)
    assert study.session is not None
    assert len(study.trials()) == 1
    assert study.status.over
    study.extend(1, slots=1, background=True).wait(300)
    assert len(study.trials()) == 2
    path = study.export(tmp_path / "best.yaml")
    result = raymeta.final([path, "maml", study], seeds=[3], overrides={"model.hidden": [8], **_budget()}, slots=1)
    assert [row.name for row in result.rows] == ["best", "maml", study.name]
    assert {row.config.task.name for row in result.rows} == {TASK}  # also the method's
    assert list(result.frame().index) == [(row.name, seed) for row in result.rows for seed in (3,)]
    frame = result.frame().groupby("config")["test_mse"].mean()
    assert frame["maml"] == pytest.approx(result.rows[1].mean)
    assert "test mse" in str(result.table())
    assert result.problems == []
    assert yaml.safe_load(path.read_text())["provenance"]["study"] == study.name
    learner = raymeta.load(result.rows[0].folder)
    assert learner.config == parse_trial(result.rows[0].config.as_dict() | {"seed": learner.config.seed})
    assert learner.adapt([0.0, 1.0], [0.0, 1.0]).predict([0.5]).shape == (1,)


def _budget() -> dict[str, Any]:
    return {"budget.outer_steps": 4, "budget.validate_every": 2, "budget.validation_tasks": 4, "budget.test_tasks": 4}


@pytest.mark.parametrize(
    ("configs", "options", "sentence"),
    [
        ([], {}, "final: found no config"),
        ("mamm", {}, "unknown method 'mamm': did you mean 'maml'"),
        ("bset.yaml", {}, r"bset\.yaml: no such file, did you mean 'best\.yaml'\?"),
        ("maml", {"seeds": 0}, "seeds: found 0: at least one"),
        ("maml", {"seeds": [1, 1]}, r"seeds: found \[1, 1\]: at least one, and each once"),
        ("best.yaml", {"task": "glyphs-5w1s"}, "--task and --preset are for a method's name"),
        (["maml", "maml"], {"task": TASK}, "a config of the name 'maml' is given twice"),
    ],
)
def test_final_runs_that_cannot_be(
    configs: Any, options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text("method: maml\n")
    with pytest.raises(UserError, match=sentence):
        raymeta.final(configs, **options)


@pytest.mark.parametrize("wrong", [{"data_root": "~nosuchuser/x"}, {"slots": 10**6}])
def test_a_study_is_not_extended_by_a_command_that_is_refused(studies: Path, wrong: dict[str, Any]) -> None:  # noqa: F811
    tiny_record("one")
    with pytest.raises(UserError):
        raymeta.open_study("one").extend(3, **wrong)
    assert raymeta.open_study("one").record.plan.study.trials == 8


def test_a_study_that_is_driven_is_not_copied_by_another(studies: Path) -> None:  # noqa: F811
    record = tiny_record("one")
    with record.locked(), pytest.raises(UserError, match="the study 'one' is in use by another process"):
        raymeta.open_study("one").sync()


def test_a_study_that_was_moved_is_not_copied_under_its_old_name(studies: Path) -> None:  # noqa: F811
    tiny_record("one")
    study = raymeta.open_study("one")
    raymeta.move("one", "two")
    with pytest.raises(UserError, match=r"the study 'one' is not in .* any more: it was moved or removed"):
        study.sync()
    assert not (studies / "one").exists()
    assert not (studies / "mlflow.db").exists()
