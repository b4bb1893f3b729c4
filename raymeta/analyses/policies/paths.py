"""Where a policy goes in the plane before adaptation and after it.

Finn, Abbeel, Levine (ICML 2017), figure 4: paths of a policy that has not seen a task scatter from where all start, and
after a gradient step they go to the task's goal.
"""

from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from raymeta.analysis import Analysis, AnalysisConfig, Row, Subject
from raymeta.errors import UserError
from raymeta.registry import analysis
from raymeta.report.style import BEST, REST, panels

if TYPE_CHECKING:
    import pandas

MOMENTS = {"before": ("before adaptation", REST), "after": ("after adaptation", BEST)}


class PathsConfig(AnalysisConfig):
    """Few tasks, as each is a panel."""

    tasks: int = Field(6, ge=1, le=24, description="How many tasks, the first ones of the bank.")
    paths: int = Field(3, ge=1, description="Of each task, at most those that it is scored with.")


@analysis("paths")
class Paths(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "Where the policy goes before adaptation and after it; a cross is the task's goal."
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop", "plane"})
    of_policies: ClassVar[bool] = True
    Config = PathsConfig
    one_seed: ClassVar[bool] = True

    def measure(self, subject: Subject) -> list[Row]:
        problem: Any = subject.learner.problem
        if not subject.eval_steps:
            raise UserError(f"paths: {subject.learner.name} makes no inner steps here, so there is no before and after")
        return [
            {
                "task": case.number, "moment": moment, "path": number, "step": step, "x": x, "y": y,
                "return": float(problem.score(made.x, made.y)),
            }
            for case in subject.cases(self.settings.tasks)
            for moment, made in (
                ("before", problem.of_step(case.task.support, 0)), ("after", case.task.query),
            )
            for number, path in enumerate(problem.paths(made)[: self.settings.paths].tolist())
            for step, (x, y) in enumerate(path)
            if isfinite(x)
        ]  # fmt: skip

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        tasks = sorted(found["task"].unique())
        columns = min(len(tasks), 3)
        figure, axes = panels(-(-len(tasks) // columns), columns, 2.6, 2.7)
        bank: Any = subject.bank
        goals = {int(task): bank.goals(int(task), 1)[0] for task in tasks}
        most = np.quantile(np.abs(found[["x", "y"]].to_numpy()), 0.98)  # the few that leave are cut off
        far = 1.1 * max(float(most), *(float(np.abs(goal).max()) for goal in goals.values()))
        for place, axis in enumerate(axes.flat):
            if place >= len(tasks):
                axis.set_axis_off()
                continue
            own = found[found["task"] == tasks[place]]
            for moment, (label, colour) in MOMENTS.items():
                for number, (_, path) in enumerate(own[own["moment"] == moment].groupby("path")):
                    axis.plot(path["x"], path["y"], color=colour, lw=0.8, alpha=0.7, label=None if number else label)
            axis.plot(*goals[int(tasks[place])], "kx", ms=7)
            means = [own[own["moment"] == moment]["return"].iloc[0] for moment in MOMENTS]
            axis.set_title(f"task {tasks[place]}: {means[0]:.1f} to {means[1]:.1f}", fontsize=8)
            axis.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        return figure
