"""The best weights as a model of MLflow's: what `mlflow.pyfunc.load_model` predicts is what the test scored."""

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.models import convert_input_example_to_serving_input, validate_serving_input
from numpy.typing import NDArray
from reference import CURVES, GLYPHS, small_trial
from study.driving import tiny_record

import raymeta
from raymeta.problem import Problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.storage.files import write_atomically
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.for_mlflow import study_content, summary_content
from raymeta.study.tracking.connection import connect, experiment, tracking_uri
from raymeta.study.tracking.mlflow_copy import Copy
from raymeta.study.tracking.model import FewShotModel, described, keep
from raymeta.training.trainer import Trainer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of studies for all of them: a database takes seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("home") / "studies"))
        yield Path(os.environ["RAYMETA_STUDIES"])


def trained(folder: Path, data: dict[str, Any]) -> Trainer:
    trainer = Trainer(small_trial(data=data))
    trainer.round()
    trainer.save(folder / "checkpoint.pt")
    return trainer


def kept(model: FewShotModel) -> tuple[str, str]:
    """A model in MLflow: the run that has it, and its address."""
    client = connect()
    place = experiment(client, "one")
    run = client.create_run(place).info.run_id
    return run, f"models:/{keep(client, place, run, model)}"


def loaded(uri: str) -> Any:
    mlflow.set_tracking_uri(tracking_uri())
    return mlflow.pyfunc.load_model(uri)


def scored(problem: Problem, model: Any, tasks: int) -> list[float]:
    """The scores of a model on the first test tasks, which are given to it as users have them."""
    bank, scores = problem.bank("test", 0, final=True), []
    for number in range(tasks):
        support, query = bank.draw(number, 1).task(0)
        given = {
            "support_x": problem.given(support.x),
            "support_y": support.y.numpy(),
            "query_x": problem.given(query.x),
        }
        scores.append(float(problem.score(torch.from_numpy(model.predict(given)), query.y)))
    return scores


@pytest.mark.parametrize("data", [GLYPHS, CURVES], ids=["pictures", "numbers"])
def test_it_predicts_what_the_test_did(home: Path, tmp_path: Path, glyphs: ImageDataset, data: dict[str, Any]) -> None:
    trainer = trained(tmp_path, data)
    expected = trainer.test()[0].values
    problem = trainer.problem
    run, uri = kept(described(problem, str(tmp_path / "checkpoint.pt"), "of seed 0", {"maml.inner_lr": 0.1}))
    model = loaded(uri)
    assert np.allclose(scored(problem, model, len(expected)), expected.numpy(), atol=1e-5)
    example = model.input_example
    adapted = raymeta.load(tmp_path).adapt(example["support_x"], example["support_y"])
    assert np.array_equal(model.predict(example), adapted.predict(example["query_x"]))
    assert np.array_equal(loaded(f"runs:/{run}/learner").predict(example), model.predict(example))
    sent = json.loads(convert_input_example_to_serving_input(example))
    assert set(sent["inputs"]) == {"support_x", "support_y", "query_x"}
    served = np.array(validate_serving_input(uri, json.dumps(sent)))
    assert np.allclose(served, model.predict(example), atol=1e-6)
    about = model.metadata
    assert about.flavors["python_function"]["code"] is None
    assert str(home) not in about.to_yaml()  # which may be moved
    assert set(about.load_input_example()) == set(example)
    assert [spec.name for spec in about.signature.inputs] == ["support_x", "support_y", "query_x"]
    assert connect().get_logged_model(uri.removeprefix("models:/")).params == {"maml.inner_lr": "0.1"}


def test_columns_are_the_classes_in_ascending_order(home: Path, tmp_path: Path, glyphs: ImageDataset) -> None:
    trainer = trained(tmp_path, GLYPHS)
    model = loaded(kept(described(trainer.problem, str(tmp_path / "checkpoint.pt"), "it", {}))[1])
    support, query = trainer.problem.bank("validation", 0).draw(0, 1).task(0)
    x, y, new = (
        np.ascontiguousarray(found) for found in (trainer.problem.given(support.x), support.y, glyphs.given(query.x))
    )
    words = 9 - 2 * y.astype(np.int64)
    adapted = raymeta.load(tmp_path).adapt(x, words.tolist())
    assert adapted.classes == [9, 7, 5][: len(adapted.classes or [])]
    found = model.predict({"support_x": x, "support_y": words, "query_x": new})
    assert np.array_equal(found, adapted.predict(new)[:, ::-1])
    larger = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)  # of another size: made as the data set makes its own
    assert model.predict({"support_x": larger, "support_y": words, "query_x": new}).shape == found.shape


def test_its_data_need_not_be_there(
    home: Path, tmp_path: Path, glyphs: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, GLYPHS)
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "empty"))
    problem = raymeta.load(tmp_path).problem
    model = described(problem, str(tmp_path / "checkpoint.pt"), "it", {})
    assert model.example is None
    assert model.forms["support_x"] == ("uint8", (-1, -1, -1, 1))
    assert loaded(kept(model)[1]).input_example is None


# Of a study


def copied(record: StudyRecord) -> Copy:
    copy = Copy(study_content(record))
    copy.take(summary_content(record, None))
    while not copy.whole:
        copy.send_one()
    return copy


def models_of(name: str) -> list[Any]:
    client = connect()
    return list(client.search_logged_models([client.get_experiment_by_name(name).experiment_id]))


def noted(record: StudyRecord, score: float, checkpoint: bool = True) -> None:
    number = record.ask().number
    record.add_round(number, {"outer_steps": 18, "val_mse": score, "val_ci95": 0.1, "at": 1.0, "diverged": False})
    record.finish(number, "completed")
    if checkpoint:
        trainer = Trainer(record.config(record.trial(number)))
        trainer.round()
        trainer.save(record.trial_folder(number) / "checkpoint.pt")


def test_a_study_has_one_of_its_best(home: Path) -> None:
    record = tiny_record("tiny", "study.trials=2", "study.finalists=0")
    for score, best in ((3.0, 0), (2.0, 1)):
        noted(record, score)
        for _ in range(2):  # the second time there is nothing to keep
            assert copied(record).lacking == ""
            (model,) = models_of("tiny")
            assert model.status == "READY"
            run = connect().get_run(model.source_run_id)
            assert run.data.tags["raymeta.model"] == f"models:/{model.model_id}"
            assert run.data.tags["raymeta.model_of"] == f"trial {best} at 18 outer steps"
    example: dict[str, NDArray[Any]] = loaded(f"models:/{model.model_id}").input_example
    expected = raymeta.load("tiny").adapt(example["support_x"], example["support_y"]).predict(example["query_x"])
    assert np.array_equal(loaded(f"models:/{model.model_id}").predict(example), expected)


def test_without_it_the_copy_is_whole_and_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*about: Any, **more: Any) -> None:
        raise OSError("no space left")

    record = tiny_record("full", "study.trials=1", "study.finalists=0")
    noted(record, 3.0, checkpoint=False)
    assert (copied(record).lacking, models_of("full")) == ("", [])  # its file was pruned
    write_atomically(record.trial_folder(0) / "checkpoint.pt", "anything")
    monkeypatch.setattr(importlib.import_module("mlflow.pyfunc"), "save_model", full)  # not MLflow's lazy one
    copy = copied(record)
    assert copy.lacking == "it has no model of the best weights (OSError: no space left)"
    (run,) = connect().search_runs([copy._experiment], "tags.`raymeta.kind` = 'study'")
    assert run.info.status == "FINISHED"
    assert "raymeta.model" not in run.data.tags
    monkeypatch.undo()
    assert copied(record).lacking == ""
    assert [model.status for model in models_of("full")] == ["READY"]
