"""The landscape of the support loss along the inner gradient.

Lee et al.: Contextual Gradient Scaling (WACV 2022), appendix C, after Santurkar et al.: How Does Batch Normalization
Help Optimization? (NeurIPS 2018). At every inner step s of a task, with h = grad Ls and rates a_j = alpha j / 2,
j = 1..8:

    theta(j) = theta_s - a_j h(theta_s)
    loss                Ls(theta(j)), the range over j
    gradient            ||h(theta(j)) - h(theta_s)||, the range over j: how well h(theta_s) predicts
    smoothness          max over j of ||h(theta(j)) - h(theta_s)|| / ||a_j h(theta_s)||

On a quadratic loss with Hessian H smoothness is ||H h|| / ||h|| for every j. The paper prints h(theta_i) for the
reference and says "the certain step", which is read as h(theta_s). It draws over meta-training; here x is the inner
step.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.analysis import Analysis, AnalysisConfig, Row, Subject, over_tasks
from raymeta.errors import UserError
from raymeta.inner import Step, gradients
from raymeta.models import Weights
from raymeta.registry import analysis
from raymeta.report.style import panels

if TYPE_CHECKING:
    import pandas


class LandscapeConfig(AnalysisConfig):
    """The rates are rate * spacing * j for j from 1 to points."""

    tasks: int = Field(50, ge=1, description="How many tasks, the first ones of the bank.")
    points: int = Field(8, ge=1, description="Rates a_j; the paper: 8.")
    spacing: float = Field(0.5, gt=0, description="Between two rates, in units of alpha; the paper: 0.5.")
    rate: float | None = Field(None, gt=0, description="alpha; null: the learner's inner_lr.")


@analysis("landscape")
class Landscape(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = (
        "Loss and gradient on the way down the inner gradient: narrow bands and small values are a smooth landscape."
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})
    Config = LandscapeConfig
    smallest: ClassVar[dict[str, Any]] = {"tasks": 1, "points": 1}

    def measure(self, subject: Subject) -> list[Row]:
        rate = self.settings.rate or getattr(subject.learner.settings, "inner_lr", None)
        if not rate:
            name = subject.learner.name
            raise UserError(f"landscape.rate: {name} has no inner_lr above 0; say a rate, as in landscape:rate=0.1")
        rates = [rate * self.settings.spacing * (j + 1) for j in range(self.settings.points)]
        return [
            {"task": case.number, "step": step.number + 1, **row}
            for case in subject.cases(self.settings.tasks)
            for step in case.inner_steps()
            for row in along(step, rates)
        ]

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((loss, change, smooth),) = panels(1, 3, 2.13, 2.6)
        inner = found.groupby(["seed", "task", "step"])
        for axis, column, name in ((loss, "loss", "support loss"), (change, "change", "change of the gradient")):
            whole = inner[column].agg(["min", "max", "mean"]).reset_index()
            low, high, mean = (over_tasks(whole, ["step"], kind) for kind in ("min", "max", "mean"))
            axis.fill_between(low["step"], low["mean"], high["mean"], color="C0", alpha=0.25, lw=0, label="range")
            axis.plot(mean["step"], mean["mean"], color="C0", marker="o", ms=4, label="mean")
            axis.set_title(name, fontsize=9)
        worst = over_tasks(inner["ratio"].max().reset_index(), ["step"], "ratio")
        smooth.errorbar(worst["step"], worst["mean"], worst["ci95"], color="C3", marker="o", ms=4, capsize=3)
        smooth.set_title("change per length, largest", fontsize=9)
        loss.legend(frameon=False, fontsize=8)
        for axis in (loss, change, smooth):
            axis.set_ylim(bottom=0)
            axis.set_xlabel("inner step")
            axis.set_xticks(sorted(found["step"].unique())[:: max(1, found["step"].max() // 5)])
            axis.grid(axis="y", alpha=0.25)
        return figure


def along(step: Step, rates: list[float]) -> list[Row]:
    """Loss and gradient at every rate down the gradient of a step: columns rate, loss, change and ratio."""
    start, rows = step.gradients, []
    length = norm(start)
    for rate in rates:
        there = {name: weight - rate * start[name] for name, weight in step.weights.items()}
        loss, found = value_and_gradient(step.loss, there)
        change = norm({name: gradient - start[name] for name, gradient in found.items()})
        ratio = change / (rate * length) if length else math.nan
        rows.append({"rate": rate, "loss": loss, "change": change, "ratio": ratio})
    return rows


def value_and_gradient(loss: Callable[[Weights], Tensor], weights: Weights) -> tuple[float, Weights]:
    """A loss at given weights and its gradient for them."""
    seen = []

    def noted(weights: Weights) -> Tensor:
        seen.append(loss(weights))
        return seen[-1]

    found = gradients(noted, weights, second_order=False, vectorized=False)
    return float(seen[-1].detach()), found


def norm(tensors: Weights) -> float:
    """Euclidean norm of all of them together."""
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())
