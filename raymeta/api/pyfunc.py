"""What `mlflow.pyfunc.load_model` makes of a model that a study or a final run has left in MLflow.

MLflow calls `_load_pyfunc`, as the model's `MLmodel` says; what a model takes is in `raymeta/study/tracking/model.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymeta.api.learners import LoadedLearner, load_folder


class FewShot:
    """A trained learner that learns a task and predicts it in one call."""

    def __init__(self, learner: LoadedLearner) -> None:
        self.learner = learner

    def predict(self, model_input: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Adapt to the support set, and predict the query set.

        Args:
            model_input: `support_x` [n, ...], `support_y` [n, ...] and `query_x` [m, ...].
            params: none are known.

        Returns:
            Probabilities [m, N] of the classes in ascending order; of a regression values [m, D].

        Raises:
            UserError: not of such a form, or more classes than the learner has outputs for.
        """
        adapted = self.learner.adapt(model_input["support_x"], model_input["support_y"])
        predicted = adapted.predict(model_input["query_x"])
        return predicted if adapted.classes is None else predicted[:, np.argsort(np.array(adapted.classes))]


def _load_pyfunc(path: str) -> FewShot:
    """The learner in a checkpoint's file."""
    return FewShot(load_folder(Path(path).parent))
