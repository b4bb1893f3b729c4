"""Evaluation on a fixed bank of episodes: a mean and its task-level 95 % interval. No outer graph is built here."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import torch
from torch import Tensor

from raymeta.engine.noise import EVALUATION, Noise, task_keys
from raymeta.inner import Context
from raymeta.learner import Method
from raymeta.problems.images.episodes import EpisodeBank, Episodes
from raymeta.problems.images.store import Dataset

CHUNK = 25  # tasks drawn (and, under vmap, computed) at a time, if they are of one shape


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


def half_width(values: Sequence[float]) -> float:
    """Half-width of the normal 95 % interval of a mean: 1.96 sd / sqrt(n)."""
    return 1.96 * statistics.stdev(values) / sqrt(len(values))


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


def evaluate(
    method: Method,
    bank: EpisodeBank,
    tasks: int,
    *,
    device: torch.device,
    vectorized: bool,
    members: Sequence[dict[str, Tensor]] | None = None,
    steps: int | None = None,
) -> Score:
    """Adapt to episodes 0 .. tasks-1 of a bank and score the predictions for their query sets.

    The loss is the mean loss of the predictions, whatever the method adds to it in training.

    Args:
        method: with its present weights, which it has again afterwards.
        bank: whose episodes.
        tasks: how many of them.
        device: where to compute.
        vectorized: batch the tasks with vmap.
        members: state dicts of an ensemble, which predicts the mean of its members' outputs; None: the present weights.
        steps: inner steps; None: the method's own.
    """
    now = {name: tensor.clone() for name, tensor in method.state_dict().items()} if members else {}
    chunk = CHUNK if method.one_shape else 1
    scores, losses = [], []
    with torch.no_grad():
        for first in range(0, tasks, chunk):
            episodes = bank.batch(first, min(chunk, tasks - first)).to(device)
            outputs = []
            for member in members or [{}]:
                method.load_state_dict(member or method.state_dict())
                numbers = range(first, first + episodes.tasks)
                outputs.append(predictions(method, episodes, vectorized, numbers, steps))
            together = torch.stack(outputs).mean(0)
            for prediction, y in zip(together, episodes.query_y, strict=True):
                losses.append(method.loss(prediction, y))
                scores.append(losses[-1] if y.is_floating_point() else (prediction.argmax(-1) == y).double().mean())
    if members:
        method.load_state_dict(now)
    return Score(torch.stack(scores).double().cpu(), float(torch.stack(losses).double().mean()))


def predictions(
    method: Method,
    episodes: Episodes,
    vectorized: bool,
    numbers: Sequence[int] | None = None,
    steps: int | None = None,
) -> Tensor:
    """Outputs for the query sets, each task adapted to by itself: [tasks, n, outputs].

    Args:
        method: with its present weights.
        episodes: the tasks.
        vectorized: batch them with vmap.
        numbers: of the episodes in their bank, the seeds of what noise there is in evaluation; None: 0, 1, ...
        steps: inner steps; None: the method's own.
    """
    device, ways = episodes.support_x.device, method.ways_of(episodes)
    regularizers = tuple(one for one in method.regularizers if one.in_evaluation)
    of_bank = range(episodes.tasks) if numbers is None else numbers
    keys = task_keys(0, 0, torch.tensor(of_bank, dtype=torch.int32, device=device), EVALUATION)

    def predict(key: Tensor, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        context = Context(False, 0.0, vectorized, Noise(key), regularizers, steps=steps, ways=ways)  # type: ignore[arg-type]
        return method.predict(method.adapt(support_x, support_y, context), query_x)

    if vectorized:
        batched: Tensor = torch.vmap(predict)(keys, episodes.support_x, episodes.support_y, episodes.query_x)
        return batched
    return torch.stack([predict(keys[i], *episodes.task(i)[:3]) for i in range(episodes.tasks)])
