"""Trained learners from the runs that they come of, and what pictures show."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType

from raymeta.api.learners import CHECKPOINT, LoadedLearner, load_folder
from raymeta.api.studies import Study
from raymeta.errors import UserError, shown, suggest
from raymeta.finals.results import best_on_validation
from raymeta.problem import open_problem
from raymeta.problems.images.reading.files import sentence
from raymeta.problems.images.reading.trees import Tree
from raymeta.report.remarks import say
from raymeta.report.shown import Shown
from raymeta.report.tables import predictions_table
from raymeta.storage.files import missing, studies_folder
from raymeta.storage.places import AnyPath, any_path, expanded
from raymeta.study.record.record import StudyRecord
from raymeta.training.loading import read_weights

FINALS = "finals"


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
    return load_folder(run.trial_folder() if isinstance(run, Study) else _folder(run), ensemble=ensemble, device=device)


def _folder(run: str | AnyPath) -> AnyPath:
    """The folder with the checkpoint that a path or a name stands for."""
    at = any_path(run) if isinstance(run, str) else run
    if at.name == CHECKPOINT and at.is_file():
        return at.parent
    for folder in (at, studies_folder() / at.name, studies_folder() / FINALS / at.name):
        if (folder / CHECKPOINT).is_file():
            return folder
        if (folder / "study.yaml").is_file():
            return Study(StudyRecord.load(folder)).trial_folder()
        results: list[AnyPath] = list(folder.glob("seed*/result.json"))
        if results:
            return _best_seed(sorted(results, key=str))
    names = [path.parent.name for path in studies_folder().glob("*/study.yaml")]
    names += [path.parent.parent.name for path in (studies_folder() / FINALS).glob("*/seed*/result.json")]
    raise UserError(f"{run}: neither a study nor a folder of a trial or a final run; {suggest(at.name, set(names))}")


def _best_seed(results: Sequence[AnyPath]) -> AnyPath:
    """Of a final run's seeds the folder of the one that is best on validation."""
    scores = {path.parent: float(json.loads(path.read_text())["val"]) for path in results}
    config, _ = read_weights(results[0].parent / CHECKPOINT, torch.device("cpu"))
    return best_on_validation(scores, open_problem(config.task).metric)


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
        UserError: there is no such run, folder or picture, the run is of tasks without classes, or there are too many.
    """
    learner = load(run, ensemble=ensemble)
    if "images" not in learner.problem.offers:
        raise UserError(f"{run}: was trained on {learner.problem.name}, which is not made of images")
    if "labels" not in learner.problem.offers:
        raise UserError(f"{run}: was trained on {learner.problem.name}, whose tasks have no classes to learn")
    known = {shown(folder.name): _pictures(folder) for folder in _below(expanded(support)) if folder.is_dir()}
    known = {name: files for name, files in known.items() if files}
    if not known:
        raise UserError(f"{support}: no folders with pictures are in it, one for each class")
    new = [file for one in map(expanded, images) for file in (_pictures(one) if one.is_dir() else [one])]
    for file in new:
        if not file.exists():
            raise missing(file)
    files, labels = zip(*((file, name) for name, files in known.items() for file in files), strict=True)
    probabilities = learner.adapt(files, labels).predict(new)
    together = getattr(learner.config.model, "norm", "none") in ("batch", "per_step")
    return Predictions(new, list(known), probabilities, together)


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder and in the folders in it; what else lies there is said."""
    tree = Tree(folder)
    if left := sentence(tree.left_out(tree.pictures)):
        say(f"{shown(folder)}: {left}")
    return [folder / path for path in tree.pictures]


def _below(folder: Path) -> list[Path]:
    """What is in a folder, by name, but hidden files."""
    if not folder.is_dir():
        raise missing(folder, "folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
