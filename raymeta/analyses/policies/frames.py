"""How a body moves before adaptation and after it, seen from the side.

Of a trajectory of each task the body is drawn at some steps, the later the darker, as in a picture of many exposures.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raymeta.analyses.policies.paths import MOMENTS
from raymeta.analysis import Analysis, AnalysisConfig, Row, Subject
from raymeta.errors import UserError
from raymeta.problems.rl.control import QUERY
from raymeta.problems.rl.trajectories import Steps
from raymeta.registry import analysis
from raymeta.report.style import ordered, panels

if TYPE_CHECKING:
    import pandas

LIMB = ["x1", "z1", "x2", "z2", "radius"]  # in m, from the side


class FramesConfig(AnalysisConfig):
    """Few tasks, as each is two panels."""

    tasks: int = Field(2, ge=1, le=12, description="How many tasks, the first ones of the bank.")
    frames: int = Field(8, ge=2, description="Of each trajectory, the first and the last among them.")


@analysis("frames")
class Frames(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "How the body moves before adaptation and after it: the later, the darker."
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop", "body"})
    of_policies: ClassVar[bool] = True
    Config = FramesConfig
    smallest: ClassVar[dict[str, Any]] = {"tasks": 1, "frames": 2}
    one_seed: ClassVar[bool] = True

    def measure(self, subject: Subject) -> list[Row]:
        problem: Any = subject.learner.problem
        bank: Any = subject.bank
        if not subject.eval_steps:
            raise UserError(
                f"frames: {subject.learner.name} makes no inner steps here, so there is no before and after"
            )
        rows: list[Row] = []
        for case in subject.cases(self.settings.tasks):
            before, after = problem.of_step(case.task.support, 0), case.task.query
            for moment, made, of_step in (("before", before, 0), ("after", after, QUERY)):
                whole = {"task": case.number, "moment": moment, "return": float(problem.score(made.x, made.y))}
                long = int((Steps.of(made.y).weights[: problem.task.horizon] > 0).sum())
                shown = set(np.linspace(0, long, self.settings.frames).round().astype(int).tolist())
                rows += [
                    whole | {"step": step, "limb": limb} | dict(zip(LIMB, place, strict=True))
                    for step, bodies in enumerate(bank.replayed(case.number, made, of_step))
                    if step in shown
                    for limb, place in enumerate(bodies.limbs(0).tolist())
                ]
        return rows

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        from matplotlib.collections import PolyCollection

        trajectories = [
            (task, moment, own) for task, each in found.groupby("task")
            for moment in MOMENTS
            for own in [each[each["moment"] == moment]]
        ]  # fmt: skip
        figure, axes = panels(len(trajectories), 1, 8.0, 1.5)
        edge = found["radius"].max()
        sides = found[["x1", "x2"]].to_numpy().min() - edge, found[["x1", "x2"]].to_numpy().max() + edge
        top = found[["z1", "z2"]].to_numpy().max() + edge
        for axis, (task, moment, own) in zip(axes.flat, trajectories, strict=True):
            steps = sorted(own["step"].unique())
            for step, colour in zip(steps, ordered(len(steps)), strict=True):
                limbs = own.loc[own["step"] == step, LIMB].to_numpy()
                axis.add_collection(PolyCollection([outline(*limb) for limb in limbs], facecolor=colour, alpha=0.6))
            axis.axhline(0, color="0.7", lw=0.8)
            axis.set(xlim=sides, ylim=(-0.1, top), aspect="equal", yticks=[])
            axis.set_title(
                f"task {task}, {MOMENTS[moment][0]}: return {own['return'].iloc[0]:.1f}", fontsize=8, loc="left"
            )
        axes.flat[-1].set_xlabel("m")
        return figure


def outline(x1: float, z1: float, x2: float, z2: float, radius: float) -> NDArray[np.float64]:
    """The rim of a capsule between two points, [24, 2]."""
    turn = np.arctan2(z2 - z1, x2 - x1) + np.linspace(-np.pi / 2, np.pi / 2, 12)
    half = radius * np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.concatenate([np.array([x2, z2]) + half, np.array([x1, z1]) - half])
