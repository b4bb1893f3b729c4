"""A trained learner in use: for all learners what it says is what evaluation scores; its data need not be there."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import CURVES, GLYPHS, SMALL, small_trial
from study.conftest import studies  # noqa: F401
from study.driving import tiny_record

import raymeta
from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.inner import predictions
from raymeta.problems.images.dataset import ImageDataset
from raymeta.storage.files import write_atomically
from raymeta.training.trainer import Trainer

WORDS = ["eel", ("a", 1), 7, None, frozenset({2})]  # whatever can be a dict's key


def trained(folder: Path, config: TrialConfig | None = None, **trial: Any) -> Trainer:
    """A run of one round, saved as a trial saves itself."""
    trainer = Trainer(config or small_trial(**trial))
    trainer.round()
    trainer.save(folder / "checkpoint.pt")
    return trainer


@pytest.fixture(params=registry.names("method"))
def run(request: pytest.FixtureRequest, tmp_path: Path, glyphs: ImageDataset) -> tuple[Trainer, Path]:
    shared = {section: values for section, values in (SMALL | GLYPHS).items() if section != "maml"}
    config = parse_trial({**shared, "method": request.param})
    return trained(tmp_path / "run", config), tmp_path / "run"


def support_of(trainer: Trainer, dataset: ImageDataset) -> tuple[Any, Any, Any]:
    """The first validation episode as a user would have it: packed pixels and labels."""
    support, query = trainer.problem.bank("validation", 0).draw(0, 1).task(0)
    return dataset.store.pixels(support.x.numpy()), support.y.numpy(), dataset.store.pixels(query.x.numpy())


def test_probabilities_are_those_of_evaluation(run: tuple[Trainer, Path], glyphs: ImageDataset) -> None:
    trainer, folder = run
    x, y, new = support_of(trainer, glyphs)
    expected = predictions(trainer.learner, trainer.problem.bank("validation", 0).draw(0, 1), vectorized=False)[0]
    learner = raymeta.load(folder)
    adapted = learner.adapt(x, [WORDS[label] for label in y])
    assert adapted.classes == WORDS[: trainer.problem.labels]
    found = adapted.predict(new)
    assert np.allclose(found, expected.detach().softmax(-1).numpy(), atol=1e-6)
    assert np.array_equal(adapted.predict(new), found)  # it has learned nothing from being asked
    assert adapted.labels(new) == [WORDS[number] for number in found.argmax(-1)]
    state = trainer.top[0]["weights"]
    assert all(torch.equal(state[name], tensor) for name, tensor in learner._members[0].state_dict().items())


def test_fewer_classes_than_in_training_and_shots_of_any_number(
    run: tuple[Trainer, Path], glyphs: ImageDataset
) -> None:
    trainer, folder = run
    ways = trainer.problem.labels
    x = np.asarray(glyphs.store.images[: 4 * 20 : 5])[:, 0]
    y = ["a"] * 1 + ["b"] * 3
    adapted = raymeta.load(folder).adapt(x[[0, 4, 5, 6]], y)
    found = adapted.predict(x[8:12])
    assert found.shape == (4, 2)
    assert np.allclose(found.sum(1), 1, atol=1e-6)
    with pytest.raises(UserError, match=f"y: found {ways + 1} classes: this learner was trained for at most {ways}"):
        raymeta.load(folder).adapt(x[: ways + 1], range(ways + 1))


def test_the_order_of_the_examples_of_a_class_changes_nothing_else(tmp_path: Path, glyphs: ImageDataset) -> None:
    trainer = trained(tmp_path, data=GLYPHS)
    x, y, new = support_of(trainer, glyphs)
    learner = raymeta.load(tmp_path)
    plain = learner.adapt(x, y).predict(new)
    mixed = np.argsort(y % 2, kind="stable")  # other classes first: the columns change with them
    adapted = learner.adapt(x[mixed], y[mixed])
    assert adapted.classes == list(dict.fromkeys(y[mixed].tolist()))
    assert adapted.predict(new).shape == plain.shape


def test_inner_steps_and_ensembles(tmp_path: Path) -> None:
    trainer = trained(tmp_path, data=CURVES, budget={"ensemble": 2})
    trainer.round()
    trainer.save(tmp_path / "checkpoint.pt")
    assert len(trainer.top) == 2
    x, new = np.linspace(-4, 4, 5), np.linspace(-5, 5, 20)
    y = np.sin(x)
    learner, together = raymeta.load(tmp_path), raymeta.load(tmp_path, ensemble=True)
    still = learner.adapt(x, y, steps=0).predict(new)
    assert still.shape == (20,)
    assert np.array_equal(learner.adapt(x, -y, steps=0).predict(new), still)
    assert not np.allclose(learner.adapt(x, y).predict(new), still)
    columns = learner.adapt(x[:, None], y[:, None]).predict(torch.from_numpy(new)[:, None])
    assert np.array_equal(columns[:, 0], learner.adapt(x, y).predict(new))
    each = []
    for entry in trainer.top:
        trainer.learner.load_state_dict(entry["weights"])
        learner._members[0].load_state_dict(entry["weights"])
        each.append(learner.adapt(x, y).predict(new))
    assert np.allclose(together.adapt(x, y).predict(new), np.mean(each, 0), atol=1e-6)


def test_the_data_set_need_not_be_there(tmp_path: Path, glyphs: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run", data=GLYPHS)
    x = np.asarray(glyphs.store.images[:40:10])
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "empty"))
    assert raymeta.load(tmp_path / "run").adapt(x, "aabb").predict(x).shape == (4, 2)
    assert not (tmp_path / "empty").exists()


# What is loaded


def test_a_study_stands_for_its_best_trial(studies: Path) -> None:  # noqa: F811
    record = tiny_record("one", "study.trials=2", "study.finalists=0")
    for number, score in enumerate((3.0, 2.0)):
        trial = record.ask()
        trainer = Trainer(record.config(trial))
        trainer.round()
        trainer.save(record.trial_folder(number) / "checkpoint.pt")
        record.add_round(number, {"outer_steps": 18, "val_mse": score, "val_ci95": 0.1, "at": 1.0, "diverged": False})
        record.finish(number, "completed")
    best = record.trial_folder(1)
    study = raymeta.open_study("one")
    for run in ("one", study, record.folder, str(record.folder), best, best / "checkpoint.pt"):
        assert raymeta.load(run).folder == best
    assert study.load().folder == best
    assert study.load(0).folder == record.trial_folder(0)
    with pytest.raises(UserError, match=r"^onee: neither a study nor a folder .*; did you mean 'one'\?"):
        raymeta.load("onee")


def test_a_final_run_stands_for_its_seed_that_is_best_on_validation(studies: Path) -> None:  # noqa: F811
    folder = studies / "finals" / "maml-sinusoid-5s-0"
    for seed, (val, mean) in enumerate(((3.0, 1.0), (2.0, 9.0), (2.5, 2.0))):
        trained(folder / f"seed{seed}", data=CURVES, seed=seed)
        write_atomically(folder / f"seed{seed}" / "result.json", json.dumps({"val": val, "values": [mean]}))
    for run in (folder, str(folder), folder.name):
        assert raymeta.load(run).folder == folder / "seed1"
    assert raymeta.load(folder / "seed2").config.seed == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 99}, r"checkpoint\.pt: has version 99, this raymeta reads \d"),
        ({"top": []}, "nothing was validated yet, so there are no weights to load"),
        ({"top": [{"weights": {"other": torch.zeros(1)}}]}, "its weights are not those of its config"),
        ({"config": {"method": "mamm"}}, r"checkpoint\.pt.*|unknown method 'mamm': did you mean 'maml'"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    state = trained(tmp_path, data=CURVES).state_dict()
    torch.save({**state, **change}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=sentence):
        raymeta.load(tmp_path)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "too few labels": ([1.0, 2.0], [1.0], "y: found 1 labels for 2 examples: expected one each"),
    "shape": ([[1.0, 2.0]], [1.0], r"x: found shape \[1, 2\]: expected \[n, 1\]"),
    "words": (["a"], [1.0], "x: found list: expected an array of numbers"),
    "not finite": ([np.nan], [1.0], "x: found a number that is not finite"),
    "two values": ([1.0], [[1.0, 2.0]], r"y: found shape \[1, 2\]: expected \[n, 1\] or \[n\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_task_is_a_sentence(case: str, tmp_path: Path) -> None:
    x, y, sentence = WRONG[case]
    trained(tmp_path, data=CURVES)
    with pytest.raises(UserError, match=sentence):
        raymeta.load(tmp_path).adapt(x, y)


def test_labels_that_are_none(tmp_path: Path, glyphs: ImageDataset) -> None:
    trained(tmp_path, data=GLYPHS)
    x = np.asarray(glyphs.store.images[:2])
    with pytest.raises(UserError, match=r"y: found the label \[1\], which cannot be a dict's key"):
        raymeta.load(tmp_path).adapt(x, ["a", [1]])
    trained(tmp_path, data=CURVES)
    with pytest.raises(UserError, match="labels: this learner predicts values; see predict"):
        raymeta.load(tmp_path).adapt([1.0], [1.0]).labels([1.0])


# From the shell


@pytest.fixture
def letters(tmp_path: Path, glyphs: ImageDataset) -> Path:
    """Two classes of three drawings on paper, and a few new ones."""
    for name, row in (("one", 0), ("two", 60)):
        for number in range(4):
            folder = tmp_path / ("letters" if number < 3 else "new") / name
            folder.mkdir(parents=True, exist_ok=True)
            drawing = 255 - np.asarray(glyphs.store.images[row + number, 0])
            Image.fromarray(drawing).save(folder / f"{number}.png")
    (tmp_path / "letters" / "notes.txt").write_text("no picture")
    return tmp_path


def test_predict(letters: Path, glyphs: ImageDataset) -> None:
    trained(letters / "run", data=GLYPHS)
    said = raymeta.predict(letters / "run", letters / "letters", [letters / "new" / "one", letters / "new/two/3.png"])
    assert said.classes == ["one", "two"]
    assert [path.parent.name for path in said.images] == ["one", "two"]
    x = np.asarray(glyphs.store.images)[[0, 1, 2, 60, 61, 62]]
    new = np.asarray(glyphs.store.images)[[3, 63]]
    expected = raymeta.load(letters / "run").adapt(x, ["one"] * 3 + ["two"] * 3).predict(new)
    assert np.array_equal(said.probabilities, expected)
    assert [row["probabilities"]["one"] for row in said.as_dict()] == expected[:, 0].tolist()
    shown = str(said).splitlines()
    assert shown[0].split() == ["image", "label", "probability", "one", "two"]
    assert shown[1].split()[1:] == [said.labels[0], *(f"{p:.3f}" for p in (expected[0].max(), *expected[0]))]


def test_predict_without_what_it_needs(letters: Path) -> None:
    trained(letters / "run", data=GLYPHS)
    shutil.rmtree(letters / "letters" / "one")
    shutil.rmtree(letters / "letters" / "two")
    with pytest.raises(UserError, match="no folders with pictures are in it, one for each class"):
        raymeta.predict(letters / "run", letters / "letters", [letters / "new" / "one"])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        raymeta.predict(letters / "run", letters / "nowhere", [letters / "new"])
    trained(letters / "curves", data=CURVES)
    with pytest.raises(UserError, match="was trained on sinusoid, which is not made of images"):
        raymeta.predict(letters / "curves", letters / "letters", [letters / "new"])
