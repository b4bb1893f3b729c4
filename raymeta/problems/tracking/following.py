"""A target followed from its first frame through the others."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from raymeta.errors import UserError
from raymeta.learner import Learner
from raymeta.problems.tracking.boxes import Array, within
from raymeta.problems.tracking.sequenced import Sequenced


class Track(NamedTuple):
    """Boxes [T, 4] of every frame, the first as given, and how sure each is, [T]: at most 0 where it was not found."""

    boxes: Array
    scores: Array


def track(learner: Learner, frames: int, read: Callable[[int], Image.Image], box: Array, seed: int = 0) -> Track:
    """Follow a target by the tracker of the learner's problem.

    Args:
        learner: trained on a problem of tracking.
        frames: T, how many there are.
        read: number of a frame to the frame.
        box: x, y, w, h of the target in the first one.
        seed: of the boxes that are tried.

    Raises:
        UserError: the learner or its network is of another kind, or the box has no area or lies outside.
    """
    problem = learner.problem
    if not isinstance(problem, Sequenced):
        raise UserError(f"{problem.name} is no task of tracking, and its learners follow nothing")
    first = read(0)
    if not (np.isfinite(box).all() and (box[2:] > 0).all()):
        raise UserError(f"--box: found {','.join(f'{one:g}' for one in box)}: expected x,y,w,h with w and h above 0")
    if not within(box, first.size):
        raise UserError(
            f"--box: found {','.join(f'{one:g}' for one in box)}, which lies outside the first frame, of "
            f"{first.size[0]}x{first.size[1]}"
        )
    tracker = problem.tracker(learner, first, box, seed)
    boxes, scores = [box], [float("nan")]
    for number in range(1, frames):
        found, score = tracker.follow(read(number))
        boxes.append(found)
        scores.append(score)
    return Track(np.stack(boxes), np.array(scores))
