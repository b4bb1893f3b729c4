"""A task that a user brings: examples to tensors, labels to numbers, outputs to what was asked for."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raymeta.errors import UserError
from raymeta.problems.images.given import images
from raymeta.problems.images.store import Dataset, ImageDataset


@dataclass(frozen=True)
class GivenTask:
    """The labelled examples of a task.

    Attributes:
        x: as models of the data set see them, [n, ...]; those of one class together.
        y: numbers of their classes [n], or values [n, 1].
        classes: the labels, in the order of their numbers, which is that of their first appearance; None: values.
        shape: of a user's values behind the n; (): one number each.
    """

    x: Tensor
    y: Tensor
    classes: list[Hashable] | None
    shape: tuple[int, ...] = ()

    @property
    def ways(self) -> int | None:
        """Of how many classes; None: of values."""
        return len(self.classes) if self.classes is not None else None

    def answers(self, outputs: Tensor) -> NDArray[np.float32]:
        """Outputs [m, ...] as probabilities of the classes [m, classes], or as values in the form that was given."""
        if self.classes is not None:
            found = outputs[:, : len(self.classes)].softmax(-1)
        else:
            found = outputs.reshape(len(outputs), *self.shape)
        answers: NDArray[np.float32] = found.float().cpu().numpy()
        return answers


def inputs(x: Any, dataset: Dataset) -> Tensor:
    """Examples as models of a data set see them, float32 [n, ...].

    Args:
        x: images, see `raymeta.problems.images.given.images`; or numbers [n, D], of one dimension also [n].
        dataset: whose. Nothing of it is read.

    Raises:
        UserError: not of such a form.
    """
    if isinstance(dataset, ImageDataset):
        return images(x, dataset)
    found, shape = _numbers(x, "x"), dataset.input_shape
    if found.ndim == 1 and shape == (1,):
        found = found[:, None]
    if found.shape[1:] != shape or not len(found):
        raise UserError(f"x: found shape {list(found.shape)}: {dataset.name} has examples of shape {list(shape)} each")
    return found


def given_task(x: Any, y: Any, dataset: Dataset, most_classes: int) -> GivenTask:
    """Labelled examples as a task.

    Args:
        x: see `inputs`.
        y: a label for each, of any kind that can be a dict's key; or a real number for each.
        dataset: whose models are to learn it.
        most_classes: that they have outputs for.

    Raises:
        UserError: not of such a form, not one `y` for each `x`, or too many classes.
    """
    examples = inputs(x, dataset)
    if dataset.kind == "regression":
        values = _numbers(y, "y")
        _one_each(len(examples), len(values) if values.ndim else 0)
        if values[:1].numel() > 1:
            raise UserError(f"y: found shape {list(values.shape)}: {dataset.name} has one number each")
        return GivenTask(examples, values.reshape(-1, 1), None, tuple(values.shape[1:]))
    labels = y.tolist() if isinstance(y, np.ndarray | Tensor) else list(y)
    _one_each(len(examples), len(labels))
    classes = _classes(labels)
    if len(classes) > most_classes:
        raise UserError(f"y: found {len(classes)} classes: this learner was trained for at most {most_classes}")
    numbers = torch.tensor([classes.index(label) for label in labels])
    order = numbers.argsort(stable=True)  # by class, as in training
    return GivenTask(examples[order], numbers[order], classes)


def _classes(labels: Sequence[Any]) -> list[Hashable]:
    try:
        return list(dict.fromkeys(labels))
    except TypeError:
        odd = next(label for label in labels if not isinstance(label, Hashable))
        raise UserError(f"y: found the label {odd!r}, which cannot be a dict's key; use a word or a number") from None


def _one_each(examples: int, labels: int) -> None:
    if examples != labels:
        raise UserError(f"y: found {labels} labels for {examples} examples: expected one each")


def _numbers(given: Any, name: str) -> Tensor:
    try:
        found = torch.as_tensor(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, np.float32))
    except (TypeError, ValueError):
        raise UserError(f"{name}: found {type(given).__name__}: expected an array of numbers") from None
    if not found.isfinite().all():
        raise UserError(f"{name}: found a number that is not finite")
    return found
