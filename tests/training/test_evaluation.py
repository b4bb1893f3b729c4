"""Scores, their interval, and that a score depends on nothing but the weights and the task."""

import math
import statistics

import pytest
import torch
from reference import CURVES, GLYPHS, small_trial
from torch import Tensor

from raymeta.inner import Context
from raymeta.problems.images.episodes import Episodes
from raymeta.problems.images.store import ImageDataset
from raymeta.training.evaluation import CHUNK, Metric, Score, evaluate, metric_of
from raymeta.training.trainer import Trainer

CPU = torch.device("cpu")


def test_the_interval_by_hand() -> None:
    score = Score(torch.tensor([0.2, 0.4, 0.9, 0.7], dtype=torch.float64), 1.0)
    # mean 0.55; deviations -.35 -.15 .35 .15, squares sum to .29; sd = sqrt(.29 / 3); 1.96 sd / sqrt(4)
    assert score.mean == pytest.approx(0.55)
    assert score.ci95 == pytest.approx(1.96 * math.sqrt(0.29 / 3) / 2)
    assert score.ci95 == pytest.approx(1.96 * statistics.stdev([0.2, 0.4, 0.9, 0.7]) / 2)


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        (Metric("accuracy", "max"), [0.2, 0.5, 0.5, math.nan, 0.4, 0.6], [0.2, 0.5, 0.6]),
        (Metric("mse", "min"), [math.nan, math.inf, 3.0, 4.0, 3.0, 2.0, -math.inf], [3.0, 2.0]),
    ],
)
def test_what_is_better(metric: Metric, values: list[float], kept: list[float]) -> None:
    best, seen = None, []
    for value in values:
        if metric.better(value, best):
            best = value
            seen.append(value)
    assert seen == kept


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_scores_are_deterministic_and_do_not_depend_on_how_many_are_computed(engine: str) -> None:
    trainer = Trainer(small_trial(CURVES, engine={"tasks": engine}))
    bank = trainer.dataset.bank("validation", 0)

    def run(tasks: int) -> Score:
        return evaluate(trainer.method, bank, tasks, device=CPU, vectorized=trainer.vectorized)

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
    bank = trainer.dataset.bank("validation", 0)
    found = evaluate(trainer.method, bank, 5, device=CPU, vectorized=False)
    losses, context = [], Context(training=False)
    for i in range(5):
        support_x, support_y, query_x, query_y = bank.batch(i, 1).task(0)
        with torch.no_grad():
            logits = trainer.method.predict(trainer.method.adapt(support_x, support_y, context), query_x)
        right = [int(row.argmax()) == int(label) for row, label in zip(logits, query_y, strict=True)]
        assert float(found.values[i]) == pytest.approx(sum(right) / len(right))
        losses.append(float(-logits.log_softmax(1)[range(len(query_y)), query_y].mean()))
    assert found.loss == pytest.approx(statistics.mean(losses))


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_task_is_scored_the_same_in_any_company(engine: str) -> None:
    trainer = Trainer(small_trial(CURVES, engine={"tasks": engine}))
    bank = trainer.dataset.bank("validation", 0)

    class Reversed:
        def batch(self, first: int, count: int) -> Episodes:
            return Episodes(*(tensor.flip(0) for tensor in bank.batch(9 - first - (count - 1), count)))

    there, back = (
        evaluate(trainer.method, b, 10, device=CPU, vectorized=trainer.vectorized).values for b in (bank, Reversed())
    )
    torch.testing.assert_close(back.flip(0), there, rtol=1e-5, atol=1e-7)
    assert trainer.vectorized or torch.equal(back.flip(0), there)


def test_evaluation_changes_nothing_keeps_no_graph_and_does_not_use_its_querys_labels(glyphs: ImageDataset) -> None:
    trainer = Trainer(small_trial(GLYPHS, model={"norm": "running"}))
    before = {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}
    generators = torch.get_rng_state()
    trainer.validate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators)

    predictions: list[Tensor] = []
    plain = trainer.method.predict

    def predict(adapted: object, query_x: Tensor) -> Tensor:
        predictions.append(plain(adapted, query_x))
        return predictions[-1]

    trainer.method.predict = predict  # type: ignore[method-assign]
    bank = trainer.dataset.bank("validation", 0)

    class Wrong:
        def batch(self, first: int, count: int) -> Episodes:
            episodes = bank.batch(first, count)
            return episodes._replace(query_y=episodes.query_y.flip(1))

    for each in (bank, Wrong()):
        evaluate(trainer.method, each, 3, device=CPU, vectorized=False)
    assert all(torch.equal(predictions[i], predictions[i + 3]) for i in range(3))
    assert not any(prediction.requires_grad for prediction in predictions)


def test_metrics_of_the_data_sets() -> None:
    assert metric_of(Trainer(small_trial(CURVES)).dataset) == Metric("mse", "min")
    assert metric_of(Trainer(small_trial(GLYPHS)).dataset) == Metric("accuracy", "max")
