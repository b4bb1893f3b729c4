"""Trained learners in use: adapt to a few labelled examples, predict the rest."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raymeta.api.given import GivenTask, given_task
from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import in_evaluation
from raymeta.learner import Learner
from raymeta.problem import Examples, Problem, Tasks, open_problem
from raymeta.storage.places import AnyPath
from raymeta.training.loading import learner_with, read_weights

CHECKPOINT = "checkpoint.pt"


class LoadedLearner:
    """A trained learner at its best validated weights. Its data set need not be on this machine.

    Attributes:
        config: of the trial or the final run.
        folder: where it was loaded from.
        problem: that it was trained on.
    """

    def __init__(self, config: TrialConfig, folder: AnyPath, problem: Problem, members: list[Learner]) -> None:
        self.config, self.folder = config, folder
        self.problem, self._members = problem, members

    def adapt(self, x: Any, y: Any, *, steps: int | None = None) -> "AdaptedLearner":
        """Learn a task from its labelled examples. Nothing of the learner itself changes.

        Args:
            x: of images an array [n, H, W], [n, H, W, C] or [n, C, H, W] (uint8 in 0..255 or floats in 0..1), or a
                sequence of Pillow's images, paths or arrays; size, colour and scaling become the training data's. Else
                numbers [n, D].
            y: a label for each, of any kind that can be a dict's key; of a regression a number for each.
            steps: inner steps; None: as in evaluation.

        Raises:
            UserError: not of such a form, or more classes than the learner has outputs for.
        """
        return AdaptedLearner(self.problem, self._members, given_task(self.problem, x, y), steps)

    @property
    def learner(self) -> Learner:
        """The learner at its best validated weights."""
        return self._members[0]

    def __repr__(self) -> str:
        several = f", {len(self._members)} sets of weights" if len(self._members) > 1 else ""
        return f"<{self.config.spec} trained on {self.config.task.name}{several}: {self.folder}>"


class AdaptedLearner:
    """A learner adapted to one task.

    Attributes:
        classes: the labels that it knows, in the order of their first appearance; None: it predicts values.
    """

    def __init__(self, problem: Problem, members: list[Learner], task: GivenTask, steps: int | None) -> None:
        self.classes: list[Hashable] | None = task.classes
        self._problem, self._members, self._task = problem, members, task
        self._device = next((tensor.device for tensor in members[0].state_dict().values()), torch.device("cpu"))
        support = Examples(task.x.to(self._device), task.y.to(self._device))
        with torch.no_grad():
            alone = Examples(*(tensor[None] for tensor in support))
            given = Tasks(alone, alone)
            contexts = [in_evaluation(one, given, outputs=task.outputs, steps=steps) for one in members]
            self._adapted = [one.adapt(support, own) for one, own in zip(members, contexts, strict=True)]

    def predict(self, x: Any) -> NDArray[np.float32]:
        """What new examples are.

        Args:
            x: as of `LoadedLearner.adapt`. A learner with `model.norm` batch or per_step normalises them together, so
                that what it says of one depends on the others.

        Returns:
            Probabilities [m, classes], in the order of `classes`; of a regression values in the form of `y`.
        """
        new = self._problem.inputs(x).to(self._device)
        with torch.no_grad():
            pairs = zip(self._members, self._adapted, strict=True)
            outputs = torch.stack([one.predict(adapted, new) for one, adapted in pairs]).mean(0)
        return self._task.answers(self._problem.answers(outputs))

    def labels(self, x: Any) -> list[Hashable]:
        """The most probable label of each new example.

        Raises:
            UserError: the learner predicts values, not classes.
        """
        if self.classes is None:
            raise UserError("labels: this learner predicts values; see predict")
        return [self.classes[number] for number in self.predict(x).argmax(-1)]


def load_folder(folder: AnyPath, *, ensemble: bool = False, device: str | None = None) -> LoadedLearner:
    """The learner in the checkpoint of a trial or of a seed of a final run; see `raymeta.load`."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config, top = read_weights(folder / CHECKPOINT, where)
    if not top:
        raise UserError(f"{folder}: nothing was validated yet, so there are no weights to load")
    problem, chosen = open_problem(config.task), top if ensemble else top[:1]
    members = [learner_with(entry["weights"], config, problem, where, folder / CHECKPOINT) for entry in chosen]
    return LoadedLearner(config, folder, problem, members)
