"""Trained learners in use: adapt to a few labelled examples, predict the rest."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import RenderableType

from raymeta.api.studies import Study
from raymeta.config import TrialConfig, parse_trial
from raymeta.engine.noise import EVALUATION, Noise, task_keys
from raymeta.errors import UserError, suggest
from raymeta.inner import Context
from raymeta.learner import Method, build_method
from raymeta.problems.given import GivenTask, given_task, inputs
from raymeta.problems.images.store import Dataset, ImageDataset, open_dataset
from raymeta.report.shown import Shown
from raymeta.report.tables import predictions_table
from raymeta.storage import checkpoints
from raymeta.storage.files import studies_folder
from raymeta.storage.places import AnyPath, place
from raymeta.study.record.record import StudyRecord
from raymeta.training.evaluation import metric_of
from raymeta.training.trainer import CHECKPOINT_VERSION

CHECKPOINT = "checkpoint.pt"
FINALS = "finals"


class LoadedLearner:
    """A trained learner at its best validated weights. Its data set need not be on this machine.

    Attributes:
        config: of the trial or the final run.
        folder: where it was loaded from.
        dataset: that it was trained on.
    """

    def __init__(self, config: TrialConfig, folder: AnyPath, dataset: Dataset, members: list[Method]) -> None:
        self.config, self.folder = config, folder
        self.dataset, self._members = dataset, members

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
        task = given_task(x, y, self.dataset, self.config.task.most_ways)
        return AdaptedLearner(self.dataset, self._members, task, steps)

    def __repr__(self) -> str:
        several = f", {len(self._members)} sets of weights" if len(self._members) > 1 else ""
        return f"<{self.config.spec} trained on {self.config.task.name}{several}: {self.folder}>"


class AdaptedLearner:
    """A learner adapted to one task.

    Attributes:
        classes: the labels that it knows, in the order of their first appearance; None: it predicts values.
    """

    def __init__(self, dataset: Dataset, members: list[Method], task: GivenTask, steps: int | None) -> None:
        self.classes: list[Hashable] | None = task.classes
        self._dataset, self._members, self._task = dataset, members, task
        self._device = next((tensor.device for tensor in members[0].state_dict().values()), torch.device("cpu"))
        x, y = task.x.to(self._device), task.y.to(self._device)
        with torch.no_grad():
            self._adapted = [one.adapt(x, y, self._context(one, steps)) for one in members]

    def _context(self, member: Method, steps: int | None) -> Context:
        """As in evaluation, as the first task of a bank."""
        key = task_keys(0, 0, torch.zeros(1, dtype=torch.int32, device=self._device), EVALUATION)[0]
        acting = tuple(one for one in member.regularizers if one.in_evaluation)
        return Context(False, 0.0, False, Noise(key), acting, steps=steps, ways=self._task.ways)  # type: ignore[arg-type]

    def predict(self, x: Any) -> NDArray[np.float32]:
        """What new examples are.

        Args:
            x: as of `LoadedLearner.adapt`. A learner with `model.norm` batch or per_step normalises them together, so
                that what it says of one depends on the others.

        Returns:
            Probabilities [m, classes], in the order of `classes`; of a regression values in the form of `y`.
        """
        new = inputs(x, self._dataset).to(self._device)
        with torch.no_grad():
            pairs = zip(self._members, self._adapted, strict=True)
            outputs = torch.stack([one.predict(adapted, new) for one, adapted in pairs]).mean(0)
        return self._task.answers(outputs)

    def labels(self, x: Any) -> list[Hashable]:
        """The most probable label of each new example.

        Raises:
            UserError: the learner predicts values, not classes.
        """
        if self.classes is None:
            raise UserError("labels: this learner predicts values; see predict")
        return [self.classes[number] for number in self.predict(x).argmax(-1)]


def load(run: "str | Path | AnyPath | Study", *, ensemble: bool = False, device: str | None = None) -> LoadedLearner:
    """A trained learner, at the weights that were best on validation.

    Args:
        run: a study or its name (its best trial); a trial's folder; a final run's folder (of its seeds the best on
            validation), or the folder of one seed.
        ensemble: predict the mean of the best validated weights' outputs (`budget.ensemble` of them, as in training).
        device: as torch names it; None: the GPU if there is one.

    Raises:
        UserError: there is no such run, it was not validated yet, or its checkpoint is damaged.
    """
    folder = _of_study(run) if isinstance(run, Study) else _folder(run)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config, top = _weights(folder, where)
    if not top:
        raise UserError(f"{folder}: nothing was validated yet, so there are no weights to load")
    dataset = open_dataset(config.task)
    members = []
    for entry in top if ensemble else top[:1]:
        member = build_method(config, dataset).to(where)
        try:
            member.load_state_dict(entry["weights"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise UserError(f"{folder / CHECKPOINT}: its weights are not those of its config") from error
        members.append(member.eval())
    return LoadedLearner(config, folder, dataset, members)


def _weights(folder: AnyPath, device: torch.device) -> tuple[TrialConfig, list[dict[str, Any]]]:
    """The config in a checkpoint, and its best validated weights."""
    path = folder / CHECKPOINT
    state = checkpoints.read(path, device)
    try:
        version, config, top = state["version"], state["config"], list(state["top"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint of a trial") from error
    if version != CHECKPOINT_VERSION:
        raise UserError(f"{path}: has version {version}, this raymeta reads {CHECKPOINT_VERSION}")
    return parse_trial(config, str(path)), top


def _folder(run: str | AnyPath) -> AnyPath:
    """The folder with the checkpoint that a path or a name stands for."""
    at = place(run) if isinstance(run, str) else run
    if at.name == CHECKPOINT and at.is_file():
        return at.parent
    for folder in (at, studies_folder() / at.name, studies_folder() / FINALS / at.name):
        if (folder / CHECKPOINT).is_file():
            return folder
        if (folder / "study.yaml").is_file():
            return _of_study(Study(StudyRecord.load(folder)))
        results: list[AnyPath] = list(folder.glob("seed*/result.json"))
        if results:
            return _best_seed(sorted(results, key=str))
    names = [path.parent.name for path in studies_folder().glob("*/study.yaml")]
    names += [path.parent.parent.name for path in (studies_folder() / FINALS).glob("*/seed*/result.json")]
    raise UserError(f"{run}: neither a study nor a folder of a trial or a final run; {suggest(at.name, set(names))}")


def _of_study(study: Study) -> AnyPath:
    if (best := study.best) is None:
        raise UserError(f"the study '{study.name}' has no validation of any trial yet")
    return study.record.trial_folder(best.number)


def _best_seed(results: Sequence[AnyPath]) -> AnyPath:
    """Of a final run's seeds the folder of the one that is best on validation; the test score chooses nothing."""
    config, _ = _weights(results[0].parent, torch.device("cpu"))
    metric, best = metric_of(open_dataset(config.task)), results[0]
    scores = {path: float(json.loads(path.read_text())["val"]) for path in results}
    for path, score in scores.items():
        if metric.better(score, scores[best]):
            best = path
    return best.parent


@dataclass(frozen=True, repr=False)
class Predictions(Shown):
    """What pictures show.

    Attributes:
        images: their files.
        classes: the classes, as their folders are named.
        probabilities: [images, classes].
        together: the pictures were normalised together, so that what is said of one depends on the others.
    """

    images: list[Path]
    classes: list[str]
    probabilities: NDArray[np.float32]
    together: bool

    @property
    def labels(self) -> list[str]:
        """The most probable class of each."""
        return [self.classes[number] for number in self.probabilities.argmax(-1)]

    def as_dict(self) -> list[dict[str, Any]]:
        """Plain data, an entry for each picture."""
        rows = zip(self.images, self.labels, self.probabilities.tolist(), strict=True)
        return [
            {"image": str(image), "label": label, "probabilities": dict(zip(self.classes, found, strict=True))}
            for image, label, found in rows
        ]

    def __rich__(self) -> RenderableType:
        return predictions_table(self.images, self.classes, self.probabilities.tolist())


def predict(
    run: "str | Path | AnyPath | Study",
    support: str | Path,
    images: Sequence[str | Path],
    *,
    ensemble: bool = False,
) -> Predictions:
    """Learn classes from folders of a few pictures each, and say what other pictures show.

    Args:
        run: see `load`.
        support: a folder with a folder for each class.
        images: files, or folders of them.
        ensemble: see `load`.

    Raises:
        UserError: there is no such run, folder or picture, or too many classes.
    """
    learner = load(run, ensemble=ensemble)
    if not isinstance(learner.dataset, ImageDataset):
        raise UserError(f"{run}: was trained on {learner.config.task.dataset}, which is not made of images")
    known = {folder.name: _pictures(folder) for folder in _below(Path(support)) if folder.is_dir()}
    known = {name: files for name, files in known.items() if files}
    if not known:
        raise UserError(f"{support}: no folders with pictures are in it, one for each class")
    new = [file for one in map(Path, images) for file in (_pictures(one) if one.is_dir() else [one])]
    files, labels = zip(*((file, name) for name, files in known.items() for file in files), strict=True)
    probabilities = learner.adapt(files, labels).predict(new)
    together = getattr(learner.config.model, "norm", "none") in ("batch", "per_step")
    return Predictions(new, list(known), probabilities, together)


def _pictures(folder: Path) -> list[Path]:
    suffixes = Image.registered_extensions()
    return [path for path in _below(folder) if path.is_file() and path.suffix.lower() in suffixes]


def _below(folder: Path) -> list[Path]:
    """What is in a folder, by name, but hidden files."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
