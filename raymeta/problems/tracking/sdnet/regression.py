"""Box regression: from what the convolutions make of a box to how it should move (Girshick et al. 2014, as in MDNet).

A ridge regression of (dx/w, dy/h, log w'/w, log h'/h) on features, fitted to boxes of the first frame that overlap with
the target.
"""

import numpy as np

from raymeta.problems.tracking.boxes import Array


class BoxRegression:
    """Fitted on features [n, F] of boxes [n, 4] and the target's box [4], with a strength.

    The features are centred; as they are more than the boxes, it is solved in the boxes' space: W = X' (X X' + strength
    I)^-1 Y.
    """

    def __init__(self, features: Array, boxes: Array, target: Array, strength: float) -> None:
        self._mean = features.mean(0)
        x, y = features - self._mean, moves(boxes, target)
        self._shift = y.mean(0)
        gram = x @ x.T
        self._weights = x.T @ np.linalg.solve(gram + strength * np.eye(len(x)), y - self._shift)

    def __call__(self, features: Array, boxes: Array) -> Array:
        """Boxes [n, 4] moved."""
        return moved(boxes, (features - self._mean) @ self._weights + self._shift)


def moves(boxes: Array, target: Array) -> Array:
    """What takes boxes [n, 4] to a target."""
    middles, middle = boxes[:, :2] + boxes[:, 2:] / 2, target[:2] + target[2:] / 2
    return np.concatenate([(middle - middles) / boxes[:, 2:], np.log(target[2:] / boxes[:, 2:])], 1)


def moved(boxes: Array, by: Array) -> Array:
    """Boxes [n, 4] after such moves."""
    middles = boxes[:, :2] + boxes[:, 2:] / 2 + by[:, :2] * boxes[:, 2:]
    sizes = boxes[:, 2:] * np.exp(by[:, 2:])
    return np.concatenate([middles - sizes / 2, sizes], 1)
