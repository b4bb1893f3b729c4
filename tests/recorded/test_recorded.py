"""What released versions wrote is read, gone on with, or refused in a sentence; see the READMEs of the recordings."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from study.driving import load, parse, raymeta

from raymeta import cli
from raymeta.api.studies import open_study
from raymeta.config import parse_trial
from raymeta.config.migration import VERSION, migrated
from raymeta.errors import UserError
from raymeta.finals.folders import FILE, folder_of
from raymeta.finals.runs import final
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask
from raymeta.report.export import read_export
from raymeta.schema import flatten, merge
from raymeta.storage import checkpoints
from raymeta.study.record.finalists import standings
from raymeta.study.record.record import StudyRecord
from raymeta.training.pretraining import _path
from raymeta.training.trainer import Trainer

HERE = Path(__file__).parent
VERSIONS = ["0.1.0"]
FINAL = ["budget.outer_steps=1200", "budget.validate_every=200"]  # of the final run that was killed
CPU = torch.device("cpu")


@pytest.fixture(params=VERSIONS)
def recorded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glyphs: Any) -> Path:
    """A copy of what a version wrote; its studies are those of this test."""
    shutil.unpack_archive(HERE / request.param / "recording.zip", tmp_path)
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    return tmp_path


def state_in(path: Path) -> dict[str, Any]:
    return dict(checkpoints.read(path, CPU))


# Studies


def said(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command prints as JSON, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["raymeta", *words, "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code in (0, None)
    return json.loads(capsys.readouterr().out)


def test_studies_are_listed_and_shown(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = said("ls", capsys=capsys)
    assert [row["study"] for row in rows] == ["choice", "glyphs", "sinusoid"]
    assert [row["over"] for row in rows] == [False, True, True]
    for name, row in zip(("glyphs", "sinusoid"), rows[1:], strict=True):
        record = load(name)
        trials = said("status", name, capsys=capsys)["trials"]
        assert [trial["state"] for trial in trials].count("completed") == row["trials"]["completed"] >= 1
        scored = standings(record)
        assert scored is not None
        assert scored.best is not None
        best = record.best()
        assert best is not None
        exported = yaml.safe_load((recorded / f"{name}.yaml").read_text())["provenance"]
        assert row["best"] == best.number
        assert (best.number, scored.best.mean) == (exported["trial"], exported[f"reevaluated_val_{record.metric.name}"])


@pytest.mark.parametrize("name", ["glyphs", "sinusoid"])
def test_what_is_exported_now_is_what_was_exported_then(recorded: Path, name: str) -> None:
    open_study(name).export(recorded / "again.yaml")
    (config, provenance), (then, about) = (read_export(recorded / file) for file in ("again.yaml", f"{name}.yaml"))
    assert config == then
    for one in (provenance, about):  # since then the scores of a shorter training are said in the problem's unit
        one["against_start"] = one["against_start"].partition("; at ")[0]
    assert provenance == about | {"mlflow_run": None}  # MLflow's files were not recorded


@pytest.mark.ray
def test_a_killed_study_is_finished(recorded: Path) -> None:
    before, folder = load("choice").trials(), recorded / "studies" / "choice"
    assert [trial.state for trial in before] == ["completed", "completed", "running"]
    done = raymeta("resume", "choice", "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    record = load("choice")
    *ended, last = record.trials()
    assert ended == before[:2]
    assert last.rounds[: len(before[2].rounds)] == before[2].rounds
    assert (last.state, last.outer_steps, last.point) == ("completed", 18, before[2].point)
    assert "damaged" not in done.stderr
    assert not list(folder.rglob("*.damaged"))
    scored = standings(record)
    assert scored is not None
    assert all(one.values for one in scored.finalists)  # by weights of then and now


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_is_extended(recorded: Path) -> None:
    before = load("sinusoid").trials()
    done = raymeta("extend", "sinusoid", "-n", "1", "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    record = load("sinusoid")
    *ended, new = record.trials()
    assert ended == before
    assert new.state in ("pruned", "completed")
    about = yaml.safe_load((record.folder / "study.yaml").read_text())
    assert (about["written_by"], about["versions"]["raymeta"]) == (VERSION, recorded_by(record))


def recorded_by(record: StudyRecord) -> str:
    return str(record.about["versions"]["raymeta"])


def test_a_plan_that_is_not_understood_says_what_to_do(recorded: Path) -> None:
    path = recorded / "studies" / "sinusoid" / "study.yaml"
    about = yaml.safe_load(path.read_text())
    about["plan"]["base"]["outer"]["beta"] = 0.9
    path.write_text(yaml.safe_dump(about))
    wrote = f"raymeta {about['versions']['raymeta']}"
    with pytest.raises(UserError) as refused:
        load("sinusoid")
    assert str(refused.value).startswith(f"{path}: unknown key 'outer.beta', ")
    assert str(refused.value).endswith(f" ({wrote} wrote it, this is {VERSION}: go on with {wrote}, or make it again)")
    path.write_text(yaml.safe_dump(about | {"written_by": VERSION}))
    with pytest.raises(UserError, match=r"weight_decay$"):  # by this version: an edit, or damage
        load("sinusoid")


# Final runs


def test_a_finished_final_run_is_found_again(recorded: Path) -> None:
    (folder,) = (recorded / "studies" / "finals").glob("glyphs-*")
    then, result = (json.loads((folder / file).read_text()) for file in ("table.json", "seed0/result.json"))
    (row,), problems, _ = final({"glyphs": read_export(recorded / "glyphs.yaml")[0]}, [0])
    assert not problems
    assert (row.folder, row.mean, row.ci95) == (folder, then["mean"], then["ci95"])
    assert (row.seeds[0].values, row.seeds[0].rounds) == (result["values"], result["rounds"])


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_final_run_goes_on(recorded: Path) -> None:
    (folder,) = (recorded / "studies" / "finals").glob("sinusoid-*")
    first = (folder / "seed0" / "result.json").read_text()
    rounds = state_in(folder / "seed1" / "checkpoint.pt")["rounds"]
    assert 0 < len(rounds) < 6
    done = raymeta("final", str(recorded / "sinusoid.yaml"), "--seeds", "2", "--slots", "1", "--json", *FINAL)
    assert done.returncode == 0, done.stderr
    (row,) = parse(done.stdout)["rows"]
    assert row["folder"] == str(folder)
    assert (folder / "seed0" / "result.json").read_text() == first
    second = json.loads((folder / "seed1" / "result.json").read_text())
    assert (len(second["rounds"]), second["rounds"][: len(rounds)]) == (6, rounds)


def test_the_folder_of_a_final_run_is_found_whatever_its_hash(recorded: Path) -> None:
    config, _ = read_export(recorded / "glyphs.yaml")
    (folder,) = (recorded / "studies" / "finals").glob("glyphs-*")
    renamed = folder.rename(folder.with_name("glyphs-glyphs-5w1s-00000000"))
    for _ in range(2):
        assert folder_of("glyphs", config) == renamed
        assert read_export(renamed / FILE)[1] == {"versions": {"raymeta": "0.1.0"}}  # so no checkpoint is read again
    other = parse_trial(merge(config.as_dict(), {"outer": {"lr": 0.5}}))
    assert folder_of("glyphs", other) not in (renamed, folder)
    assert folder_of("glyph", config) != renamed


# Files


def test_checkpoints_are_gone_on_from_and_their_weights_score_as_they_did(recorded: Path) -> None:
    paths = sorted(recorded.rglob("checkpoint.pt"))
    assert len(paths) > 10
    for path in paths:
        state = state_in(path)
        trainer = Trainer(parse_trial(state["config"]))
        trainer.load(path)
        assert trainer.rounds == state["rounds"]
        validation = trainer.problem.bank("validation", trainer.config.task.bank_seed)
        tasks = trainer.config.budget.validation_tasks
        for entry in trainer.top:
            found = trainer.evaluate(validation, tasks, [entry["weights"]])
            noisy = "metadropout" in trainer.config.spec  # in evaluation too, and the noise is drawn otherwise now
            assert found.mean == pytest.approx(entry["score"], abs=entry["ci95"] if noisy else 1e-6 * entry["score"])
        assert trainer.outer_update().isfinite()


def test_a_checkpoint_of_other_weights_says_what_to_do(recorded: Path) -> None:
    path = next(recorded.glob("studies/finals/glyphs-*/seed0/checkpoint.pt"))
    state = state_in(path)
    del state["method"]["model.head.weight"]
    checkpoints.write(path, state)
    with pytest.raises(UserError) as refused:
        Trainer(parse_trial(state["config"])).load(path)
    assert str(refused.value) == (
        f"{path}: its weights are not those of maml+dropgrad "
        f"(raymeta 0.1.0 wrote it, this is {VERSION}: go on with raymeta 0.1.0, or make it again)"
    )


def test_a_packed_store_is_opened(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMETA_CACHE", str(recorded / "cache"))
    dataset = open_problem(ImagesTask(dataset="folder", source="/recording/pictures", ways=2, queries=1))
    assert isinstance(dataset, ImageDataset)
    assert dataset.ready
    (meta,) = (recorded / "cache").glob("folder-*/meta.json")
    assert dataset.fingerprint == json.loads(meta.read_text())["fingerprint"]
    store = dataset.store
    assert [store.class_names[i] for i in store.classes("train")] == ["green", "red"]
    red = store.images[store.starts[store.class_names.index("red")]]
    assert red[:, 83, 0].tolist() == [255, 0, 0]
    assert dataset.bank("test", 0, final=True).draw(0, 1).support.x.shape == (1, 2, 3, 84, 84)


def test_a_pretrained_backbone_of_0_1_0_is_found_in_the_cache(glyphs: ImageDataset) -> None:
    model, pretraining = {"name": "conv4", "width": 2}, {"epochs": 1}
    config = parse_trial({"method": "maml", "model": model, "pretraining": pretraining})
    labelled = glyphs.labelled()
    assert labelled is not None
    assert _path(config, glyphs, labelled).name == "pretrained-9f82def4ace666a7.pt"


# Methods and regularizers


@pytest.mark.parametrize("version", VERSIONS)
def test_every_composition_has_the_settings_and_the_weights_it_had(
    version: str, tmp_path: Path, session_cache: Path, glyphs: Any
) -> None:
    shutil.unpack_archive(HERE / version / "recording.zip", tmp_path)
    compositions = json.loads((tmp_path / "compositions.json").read_text())
    assert len(compositions) > 40
    for spec, then in compositions.items():
        trainer = Trainer(parse_trial(then["config"], spec))
        assert trainer.config.spec == spec.split()[0]
        for section in ("outer", "budget", "model", trainer.config.method, "regularizers"):
            found, expected = (flatten(data[section]) for data in (trainer.config.as_dict(), migrated(then["config"])))
            assert expected.items() <= found.items(), spec
        weights = {name: list(tensor.shape) for name, tensor in trainer.learner.state_dict().items()}
        assert weights == then["weights"], spec
        groups = [[list(p.shape) for p in group["params"]] for group in trainer.update.optimizer.param_groups]
        assert groups == then["optimizer"], spec
