"""Navigation in the plane: go to a goal that only the reward knows of (Finn, Abbeel, Levine 2017, section 5.3).

    s_0 = 0,  s <- s + clip(a, -0.1, 0.1),  reward -|s - g|,  g ~ U[-0.5, 0.5]^2

An episode ends when both coordinates are within 0.01 of the goal's. The observation is s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.problem import SPLITS, Split
from raymeta.problems.rl.advantages import Array
from raymeta.problems.rl.control import Control, ControlTask, Trajectories

SIDE, STRIDE, NEAR = 0.5, 0.1, 0.01
GOALS = 100  # of each split in a picture


class Navigation2DTask(ControlTask):
    """Points in the plane."""

    problem: Literal["navigation2d"] = "navigation2d"


class Points:
    """B points in the plane; see the module's docstring."""

    def reset(self, goals: Array, noise: Array) -> Array:
        """All at 0."""
        self._goals, self._at = goals, np.zeros_like(goals)
        return self._at

    def step(self, actions: Array, going: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.bool_]]:
        """A stride of each."""
        self._at = self._at + actions.clip(-STRIDE, STRIDE)
        left = self._at - self._goals
        return self._at, -np.linalg.norm(left, axis=1), np.abs(left).max(1) < NEAR


@registry.problem("navigation2d")
class Navigation2D(Control):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = Navigation2DTask
    actions: ClassVar[int] = 2
    observations: ClassVar[int] = 2
    goal_numbers: ClassVar[int] = 2
    plane: ClassVar[tuple[int, int] | None] = (0, 1)

    def goals(self, uniform: Array, numbers: Sequence[int], split: Split) -> Array:
        return SIDE * (2 * uniform - 1)

    def environments(self, count: int) -> Points:
        return Points()

    def picture(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
        for axis, split in zip(figure.subplots(1, 2, sharey=True), SPLITS[:2], strict=True):
            _draw(axis, Trajectories(self, split, 0).goals(0, GOALS))
            axis.set_title(f"{split}: goals of {GOALS} tasks, and where all start", fontsize=9, loc="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)


def best_return(goal: Array, horizon: int) -> float:
    """What no policy's return can exceed: at every step each coordinate as near as strides can bring it."""
    left = np.abs(goal)[None] - STRIDE * np.arange(1, horizon + 1)[:, None]
    return float(-np.sqrt((left.clip(min=0) ** 2).sum(1)).sum())


def _draw(axis: Any, goals: Array) -> None:
    axis.plot(*goals.T, "x", markersize=4)
    axis.plot(0, 0, "ko", markersize=5)
    axis.set(xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), aspect="equal")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
