"""How well a target was followed: success and precision curves, as OTB draws them (Wu, Lim, Yang, TPAMI 2015).

    success(th) = share of frames whose overlap is above th, for th = 0, .05, ..., 1;  AUC is its mean over the 21
    values precision(e) = share of frames whose centres are at most e pixels apart, for e = 0 .. 50;  the figure is that
    of e = 20

No overlap is above 1, so that a tracker without an error has an AUC of 20/21 = 0.952, not 1. That is OTB's grid, and
every published figure's. The first frame, whose box is given, counts as the others do. Frames without a box do not
count.
"""

from typing import NamedTuple

import numpy as np

from raymeta.problems.tracking.boxes import Array, overlap

THRESHOLDS = np.arange(21) / 20
ERRORS = np.arange(51.0)
FIGURE = 20  # pixels
CEILING = 20 / 21


class Followed(NamedTuple):
    """A sequence's curves, success [21] and precision [51], and the mean overlap."""

    success: Array
    precision: Array
    overlap: float

    @property
    def auc(self) -> float:
        """Area under the success curve, at most 20/21."""
        return float(self.success.mean())

    @property
    def precise(self) -> float:
        """Precision at 20 pixels."""
        return float(self.precision[FIGURE])


def followed(found: Array, truth: Array) -> Followed:
    """Curves of boxes [T, 4] against what is true; NaN where the target is absent."""
    there = ~np.isnan(truth).any(1)
    found, truth = found[there], truth[there]
    shared = overlap(found, truth)
    middles = [box[:, :2] + (box[:, 2:] - 1) / 2 for box in (found, truth)]
    apart = np.linalg.norm(middles[0] - middles[1], axis=1)
    success = (shared[:, None] > THRESHOLDS).mean(0)
    return Followed(success, (apart[:, None] <= ERRORS).mean(0), float(shared.mean()))
