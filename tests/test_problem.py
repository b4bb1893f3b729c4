"""Evaluation: a score depends on nothing but the weights and the task; and what names a problem."""

import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import CURVES, GLYPHS, joined, same_tasks, small_trial
from torch import Tensor
from torch.utils._pytree import tree_leaves

from raymeta.config import TaskConfig
from raymeta.errors import UserError
from raymeta.inner import Context, predictions
from raymeta.metric import Metric, Score
from raymeta.problem import CHUNK, Bank, Examples, Tasks, parse_task, task_section
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask
from raymeta.problems.sinusoid import SinusoidTask
from raymeta.training.trainer import Trainer


class Changed:
    """A bank whose batches are changed."""

    def __init__(self, drawn: Callable[[int, int], Tasks]) -> None:
        self._drawn = drawn

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        return self._drawn(first, count)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_scores_are_deterministic_and_do_not_depend_on_how_many_are_computed(engine: str) -> None:
    trainer = Trainer(small_trial(CURVES, engine={"tasks": engine}))
    bank = trainer.problem.bank("validation", 0)

    def run(tasks: int) -> Score:
        return trainer.evaluate(bank, tasks)

    assert CHUNK < 30 < 2 * CHUNK  # the two below are cut into other chunks
    many, few = run(60), run(30)
    assert torch.equal(run(30).values, few.values)
    if engine == "loop":
        assert torch.equal(many.values[:30], few.values)
    torch.testing.assert_close(many.values[:30], few.values, rtol=1e-5, atol=1e-6)  # vmap: other sizes of products
    assert len(many.values.unique()) == 60
    assert many.loss == pytest.approx(many.mean)


def test_accuracy_and_loss_by_hand(glyphs: ImageDataset) -> None:
    trainer = Trainer(small_trial(GLYPHS))
    bank = trainer.problem.bank("validation", 0)
    found = trainer.problem.evaluate(trainer.learner, bank, 5, device=torch.device("cpu"), vectorized=False)
    losses, context = [], Context(training=False)
    for i in range(5):
        task = bank.draw(i, 1).task(0)
        with torch.no_grad():
            logits = trainer.learner.predict(trainer.learner.adapt(task.support, context), task.query.x)
        labels = task.query.y
        right = [int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)]
        assert float(found.values[i]) == pytest.approx(sum(right) / len(right))
        losses.append(float(-logits.log_softmax(1)[range(len(labels)), labels].mean()))
    assert found.loss == pytest.approx(statistics.mean(losses))


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_task_is_scored_the_same_in_any_company(engine: str) -> None:
    trainer = Trainer(small_trial(CURVES, engine={"tasks": engine}))
    bank = trainer.problem.bank("validation", 0)
    turned = Changed(lambda first, count: bank.draw(9 - first - (count - 1), count).map(lambda part: part.flip(0)))
    there, back = (trainer.evaluate(one, 10).values for one in (bank, turned))
    torch.testing.assert_close(back.flip(0), there, rtol=1e-5, atol=1e-7)
    assert trainer.vectorized or torch.equal(back.flip(0), there)


def test_evaluation_changes_nothing_keeps_no_graph_and_does_not_use_its_querys_labels(glyphs: ImageDataset) -> None:
    trainer = Trainer(small_trial(GLYPHS, model={"norm": "running"}))
    before = {name: tensor.clone() for name, tensor in trainer.learner.state_dict().items()}
    generators = torch.get_rng_state()
    trainer.validate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.learner.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators)

    seen: list[Tensor] = []
    plain = trainer.learner.predict

    def predict(adapted: object, x: Tensor) -> Tensor:
        seen.append(plain(adapted, x))
        return seen[-1]

    trainer.learner.predict = predict  # type: ignore[method-assign]
    bank = trainer.problem.bank("validation", 0)

    def wrong(first: int, count: int) -> Tasks:
        tasks = bank.draw(first, count)
        return tasks._replace(query=Examples(tasks.query.x, tasks.query.y.flip(1)))

    banks: tuple[Bank, ...] = (bank, Changed(wrong))
    for each in banks:
        trainer.evaluate(each, 3)
    assert all(torch.equal(seen[i], seen[i + 3]) for i in range(3))
    assert not any(prediction.requires_grad for prediction in seen)


def test_members_predict_the_mean_of_their_outputs_and_leave_the_weights_as_they_were() -> None:
    """With members of other weights than the present ones, in chunks of more than one task."""
    trainer = Trainer(small_trial(CURVES))
    learner, bank, tasks = trainer.learner, trainer.problem.bank("validation", 0), CHUNK + 3
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    members = [{name: factor * tensor for name, tensor in before.items()} for factor in (0.5, 2.0)]
    found = trainer.evaluate(bank, tasks, members)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    drawn, outputs = bank.draw(0, tasks), []
    for member in members:
        learner.load_state_dict(member)
        with torch.no_grad():
            outputs.append(predictions(learner, drawn, vectorized=False))
    errors = (torch.stack(outputs).mean(0) - drawn.query.y).square().mean((1, 2))
    torch.testing.assert_close(found.values, errors.double(), rtol=1e-5, atol=1e-6)


def test_a_bank_is_given_the_learner_with_the_weights_that_are_scored() -> None:
    """One that makes its examples with the learner, as a bank of self-play would."""
    trainer = Trainer(small_trial(CURVES))
    bank, seen = trainer.problem.bank("validation", 0), []
    before = {name: tensor.clone() for name, tensor in trainer.learner.state_dict().items()}
    members = [{name: factor * tensor for name, tensor in before.items()} for factor in (0.5, 2.0)]

    class Asking:
        def draw(self, first: int, count: int, player: Any = None) -> Tasks:
            seen.append(player.learner.state_dict()["model.head.weight"].clone())
            return bank.draw(first, count, player)

    trainer.evaluate(Asking(), 2, members)
    assert len(seen) == len(members)
    assert all(torch.equal(w, member["model.head.weight"]) for w, member in zip(seen, members, strict=True))


def test_metrics_of_the_problems() -> None:
    assert Trainer(small_trial(CURVES)).metric == Metric("mse", "min")
    percent = Metric("accuracy", "max", unit="%", scale=100.0, digits=2)
    assert Trainer(small_trial(GLYPHS)).metric == percent


def test_a_task_of_several() -> None:
    bank = Trainer(small_trial(CURVES)).problem.bank("train", 0)
    tasks = bank.draw(0, 3)
    assert (tasks.size, tasks.device) == (3, torch.device("cpu"))
    assert same_tasks(tasks, joined(*(bank.draw(i, 1) for i in range(3))))
    doubled = tasks.map(lambda tensor: 2 * tensor)
    for i in range(3):
        one, two = tree_leaves(tasks.task(i)), tree_leaves(doubled.task(i))
        assert [tuple(tensor.shape) for tensor in one] == [tuple(tensor.shape[1:]) for tensor in tree_leaves(tasks)]
        assert all(torch.equal(2 * a, b) for a, b in zip(one, two, strict=True))
        by_tensor = tree_leaves(tasks.task(torch.tensor(i)))
        assert all(torch.equal(a, b) for a, b in zip(one, by_tensor, strict=True))


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("glyphs-5w1s", ImagesTask(dataset="glyphs", ways=5, shots=1)),
        ("omniglot-20w5s", ImagesTask(dataset="omniglot", ways=20, shots=5)),
        ("omniglot", ImagesTask(dataset="omniglot")),
        ("glyphs-metadataset", ImagesTask(dataset="glyphs", sampler="metadataset")),
        ("sinusoid-5s", SinusoidTask(shots=5)),
        ("sinusoid", SinusoidTask()),
    ],
)
def test_what_a_user_types_names_a_problem_and_its_section(text: str, section: TaskConfig) -> None:
    found = task_section(parse_task(text))
    assert found == section
    assert type(found) is type(section)
    if "-" in text:
        assert found.name == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("omniglot-5w1s", {"problem": "images", "dataset": "omniglot", "ways": 5, "shots": 1}),
        ("glyphs-20w15s", {"problem": "images", "dataset": "glyphs", "ways": 20, "shots": 15}),
        ("omniglot-metadataset", {"problem": "images", "dataset": "omniglot", "sampler": "metadataset"}),
        ("glyphs", {"problem": "images", "dataset": "glyphs"}),
        ("images-5w1s", {"problem": "images", "ways": 5, "shots": 1}),
        ("sinusoid-10s", {"problem": "sinusoid", "shots": 10}),
    ],
)
def test_what_a_user_types_says_nothing_of_other_keys(text: str, expected: dict[str, Any]) -> None:
    assert parse_task(text) == expected


@pytest.mark.parametrize("text", ["omniglot-", "omniglot-5w", "omniglot-1s5w", "sinusoid-5w1s", "sinusoid-"])
def test_what_is_not_of_its_form_is_a_sentence(text: str) -> None:
    forms = {
        "omniglot": "DATASET-<ways>w<shots>s, as in omniglot-5w1s, or DATASET-metadataset",
        "sinusoid": "sinusoid-<shots>s, as in sinusoid-10s",
    }
    with pytest.raises(UserError) as caught:
        parse_task(text)
    assert str(caught.value) == f"--task {text}: expected {forms[text.split('-')[0]]}"


@pytest.mark.parametrize("text", ["", "omniglot_5w1s", "Omniglot", "../x", "x-5w1s"])
def test_what_is_the_name_of_nothing_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown data set '{re.escape(text.split('-')[0])}': .*views\)?$"):
        parse_task(text)


def test_an_unknown_problem_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^unknown data set 'glyhps': did you mean 'glyphs'\? "):
        parse_task("glyhps-5w1s")
    with pytest.raises(UserError, match=r"^unknown problem 'sinusoidd': did you mean 'sinusoid'\? "):
        task_section({"problem": "sinusoidd"})
