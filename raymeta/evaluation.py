"""Evaluation on a fixed bank of episodes: a mean and its task-level 95 % interval. No outer graph is built here."""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import torch
from torch import Tensor

from raymeta.data.episodes import EpisodeBank, Episodes
from raymeta.data.store import Dataset
from raymeta.inner import Context
from raymeta.method import Method

CHUNK = 25  # tasks drawn (and, under vmap, computed) at a time


@dataclass(frozen=True)
class Metric:
    """What a data set is scored by."""

    name: Literal["accuracy", "mse"]
    mode: Literal["max", "min"]

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another; anything finite beats None."""
        return isfinite(value) and (than is None or (value > than if self.mode == "max" else value < than))


def metric_of(dataset: Dataset) -> Metric:
    """Accuracy for classification, mean squared error for regression."""
    return Metric("mse", "min") if dataset.kind == "regression" else Metric("accuracy", "max")


@dataclass(frozen=True)
class Score:
    """Scores of the tasks of an evaluation.

    Attributes:
        values: a score per task, [tasks].
        loss: mean query loss.
    """

    values: Tensor
    loss: float

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return float(self.values.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the normal 95 % interval over tasks: 1.96 sd / sqrt(tasks)."""
        return 1.96 * float(self.values.std()) / sqrt(len(self.values))


def evaluate(method: Method, bank: EpisodeBank, tasks: int, *, device: torch.device, vectorized: bool) -> Score:
    """Adapt to episodes 0 .. tasks-1 of a bank and score the predictions for their query sets.

    The loss is the mean loss of the predictions, whatever the method adds to it in training.
    """
    context = Context(training=False, vectorized=vectorized)

    def task(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
        prediction = method.predict(method.adapt(support_x, support_y, context), query_x)
        loss = method.loss(prediction, query_y)
        if query_y.is_floating_point():
            return loss, loss
        return (prediction.argmax(-1) == query_y).double().mean(), loss

    def run(episodes: Episodes) -> tuple[Tensor, Tensor]:
        if vectorized:
            result: tuple[Tensor, Tensor] = torch.vmap(task)(*episodes)
            return result
        pairs = [task(*episodes.task(i)) for i in range(episodes.tasks)]
        return torch.stack([score for score, _ in pairs]), torch.stack([loss for _, loss in pairs])

    with torch.no_grad():
        parts = [run(bank.batch(first, min(CHUNK, tasks - first)).to(device)) for first in range(0, tasks, CHUNK)]
    values = torch.cat([score for score, _ in parts]).double().cpu()
    return Score(values, float(torch.cat([loss for _, loss in parts]).double().mean()))
