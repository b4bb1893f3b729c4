"""A task that a user brings: labels to numbers and back, whatever the problem is."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raymeta.engine.arrays import as_numbers
from raymeta.errors import UserError
from raymeta.problem import Problem


@dataclass(frozen=True)
class GivenTask:
    """The labelled examples of a task.

    Attributes:
        x: as models see them, [n, ...]; those of one class together.
        y: numbers of their classes [n], or values [n, outputs].
        classes: the labels, in the order of their numbers, which is that of their first appearance; None: values.
        shape: of a user's values behind the n; (): one number each.
    """

    x: Tensor
    y: Tensor
    classes: list[Hashable] | None
    shape: tuple[int, ...] = ()

    @property
    def outputs(self) -> int | None:
        """Of the model that the task uses; None: all."""
        return len(self.classes) if self.classes is not None else None

    def answers(self, outputs: Tensor) -> NDArray[np.float32]:
        """Outputs [m, ...] as probabilities of the classes [m, classes], or as values in the form that was given."""
        if self.classes is not None:
            found = outputs[:, : len(self.classes)].softmax(-1)
        else:
            found = outputs.reshape(len(outputs), *self.shape)
        answers: NDArray[np.float32] = found.float().cpu().numpy()
        return answers


def given_task(problem: Problem, x: Any, y: Any) -> GivenTask:
    """A user's labelled examples as a task of a problem.

    Args:
        problem: whose models are to learn it.
        x: see `Problem.inputs`.
        y: a label for each, of any kind that can be a dict's key; or if the problem's y are values, numbers.

    Raises:
        UserError: not of such a form, not one `y` for each `x`, or more classes than models have outputs for.
    """
    examples = problem.inputs(x)
    if problem.labels is None:
        return _valued(examples, y, problem.outputs)
    return _labelled(examples, y, problem.labels)


def _labelled(x: Tensor, y: Any, most: int) -> GivenTask:
    """Examples x [n, ...] with labels as a task of at most so many classes."""
    labels = y.tolist() if isinstance(y, np.ndarray | Tensor) else list(y)
    _one_each(len(x), len(labels))
    classes = _classes(labels)
    if len(classes) > most:
        raise UserError(f"y: found {len(classes)} classes: this learner was trained for at most {most}")
    numbers = torch.tensor([classes.index(label) for label in labels])
    order = numbers.argsort(stable=True)  # by class, as in training
    return GivenTask(x[order], numbers[order], classes)


def _valued(x: Tensor, y: Any, outputs: int) -> GivenTask:
    """Examples x [n, ...] with values y [n, outputs], of one number also [n], as a task."""
    values = as_numbers(y, "y")
    _one_each(len(x), len(values) if values.ndim else 0)
    if values.numel() != len(x) * outputs:
        raise UserError(f"y: found shape {list(values.shape)}: expected [n, {outputs}]{' or [n]' * (outputs == 1)}")
    return GivenTask(x, values.reshape(-1, outputs), None, tuple(values.shape[1:]))


def _classes(labels: Sequence[Any]) -> list[Hashable]:
    try:
        return list(dict.fromkeys(labels))
    except TypeError:
        odd = next(label for label in labels if not isinstance(label, Hashable))
        raise UserError(f"y: found the label {odd!r}, which cannot be a dict's key; use a word or a number") from None


def _one_each(examples: int, labels: int) -> None:
    if examples != labels:
        raise UserError(f"y: found {labels} labels for {examples} examples: expected one each")
