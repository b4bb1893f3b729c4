"""The score under attack: query images of adapted learners, changed by as much as a norm allows.

Meta-Dropout's third set of experiments, whose code was never published; its figure has the radii. A learner adapts to a
clean support set, as in evaluation; then its query images are attacked together (white box, by their own labels), in
pixels of [0, 1] before they are standardised. What FGSM and PGD are: raymeta/engine/attacks.py.

A learner whose gradients are of no use to an attack looks robust and is not (Athalye, Carlini, Wagner, ICML 2018). So
at each norm's middle radius a few tasks are attacked with more effort (steps, restarts) and with less: by changes drawn
on the ball's surface, and by an attack that was made on the learner before it had adapted. Gradients are masked where
more effort finds much more than PGD, or less as much.

With `against` another final run of the same task is attacked on the same images, and each run's attacks are tried on
the other one (transfer).
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from raymeta.analysis import Analysis, AnalysisConfig, Case, Row, Subject, over_tasks
from raymeta.engine.attacks import NORMS, Norm, diameter, drawn, fgsm, pgd, with_gradient
from raymeta.errors import UserError
from raymeta.metric import Metric
from raymeta.registry import analysis
from raymeta.report.style import GUIDE, panels

if TYPE_CHECKING:
    import pandas

MNIST = 784  # pixels of the images that the radii are of
RADII: dict[Norm, list[float]] = {
    "linf": [0.02, 0.04, 0.06, 0.08, 0.1],
    "l2": [1.0, 2.0, 3.0, 4.0, 5.0],
    "l1": [20.0, 40.0, 60.0, 80.0, 100.0],
}
TITLES = {"linf": "l-infinity", "l2": "l2", "l1": "l1"}
MORE = 4  # times the steps, or random starts
CLEAN, THIS = "none", "this"
CHECKS = {"noise": "random change", "unadapted": "made before adaptation", "fgsm": "FGSM", "pgd": "PGD"} | {
    "steps": f"PGD, {MORE}x the steps",
    "restarts": f"PGD, {MORE} random starts",
}


class RobustnessConfig(AnalysisConfig):
    """Radii: Meta-Dropout's figure, of 28x28 pixels; for d pixels those of l2 times sqrt(d/784), of l1 times d/784."""

    tasks: int = Field(30, ge=1, description="How many tasks, the first ones of the bank.")
    linf: list[float] | None = Field(None, description="Radii in pixels of 0..1; null: 0.02 to 0.1; []: not this norm.")
    l2: list[float] | None = Field(None, description="Radii; null: 1 to 5 of 28x28 pixels; []: not this norm.")
    l1: list[float] | None = Field(None, description="Radii; null: 20 to 100 of 28x28 pixels; []: not this norm.")
    steps: int = Field(10, ge=1, description="Of PGD from each start.")
    restarts: int = Field(0, ge=0, description="Random starts of PGD beside the one from the clean images.")
    checks: int = Field(5, ge=0, description="Tasks on which masked gradients are looked for.")
    against: str | None = Field(None, description="Another final run of the same task, by its name or folder.")

    @field_validator("linf", "l2", "l1")
    @classmethod
    def _above_0(cls, radii: list[float] | None) -> list[float] | None:
        for one in radii or []:
            if one <= 0:
                raise ValueError(f"found {one:g}: expected radii above 0; the clean images are always among them")
        return None if radii is None else sorted(set(radii))


@analysis("robustness")
class Robustness(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "The score on query images that are changed, within a radius, to mislead the learner."
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    Config = RobustnessConfig
    smallest: ClassVar[dict[str, Any]] = {"tasks": 1, "steps": 1, "checks": 0, "linf": [0.1], "l2": [], "l1": []}

    @property
    def others(self) -> list[str]:
        return [self.settings.against] if self.settings.against else []

    def refuse(self, subject: Subject) -> None:
        super().refuse(subject)
        radii_of(self.settings, subject.learner.problem.input_shape)

    def measure(self, subject: Subject) -> list[Row]:
        settings, rows = self.settings, []
        radii = radii_of(settings, subject.learner.problem.input_shape)
        other = subject.beside(settings.against) if settings.against else None
        for case in subject.cases(settings.tasks):
            targets = {THIS: Target(case)}
            if other is not None:
                targets[name_of(settings.against)] = Target(replace(case, learner=other))
            for norm, own in radii.items():
                rows += self._curves(targets, norm, own)
            if case.number < settings.checks:
                start = Target(case, 0) if case.learner.inner_loop else None
                for norm, own in radii.items():
                    rows += self._checks(targets[THIS], start, norm, own[len(own) // 2])
        return rows

    def _curves(self, targets: dict[str, "Target"], norm: Norm, radii: list[float]) -> list[Row]:
        rows = [target.row(norm, 0.0, CLEAN, name, name, target.clean) for name, target in targets.items()]
        for radius in radii:
            for made_on, target in targets.items():
                quick = fgsm(target.gradient, target.pixels, norm, radius)
                found = {"fgsm": quick, "pgd": self._pgd(target, norm, radius)}
                for attack, change in found.items():
                    rows += [one.row(norm, radius, attack, made_on, name, change) for name, one in targets.items()]
        return rows

    def _checks(self, target: "Target", start: "Target | None", norm: Norm, radius: float) -> list[Row]:
        """The attacks on the learner itself that only say whether its gradients are masked."""
        settings = self.settings
        found = {
            "noise": drawn(target.pixels, norm, radius, target.generator()),
            "steps": self._pgd(target, norm, radius, steps=MORE * settings.steps),
            "restarts": self._pgd(target, norm, radius, restarts=settings.restarts + MORE),
        }
        if start is not None:
            found["unadapted"] = self._pgd(start, norm, radius)
        return [target.row(norm, radius, attack, THIS, THIS, change) for attack, change in found.items()]

    def _pgd(self, target: "Target", norm: Norm, radius: float, **more: int) -> Tensor:
        effort = {"steps": self.settings.steps, "restarts": self.settings.restarts} | more
        return pgd(target.loss, target.pixels, norm, radius, generator=target.generator(), **effort)

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        metric, norms = subject.learner.problem.metric, list(found["norm"].unique())
        runs = list(found["tried_on"].unique())
        checked = found[(found["attack"] == "noise")]
        parts = {draw_curves: ""}
        if len(runs) > 1:
            parts[draw_differences] = f"this minus {runs[1]}, each under its own PGD"
        if len(checked):
            parts[draw_checks] = "gradients are masked where the score does not fall downwards"
        figure, axes = panels(len(parts), len(norms), 3.4 if len(norms) > 1 else 6.4, 2.7)
        for line, (part, title) in zip(axes, parts.items(), strict=True):
            line[0].set_title(title, loc="left", fontsize=8)
            for axis, norm in zip(line, norms, strict=True):
                part(axis, found[found["norm"] == norm], metric, norm)
            for axis in line[1:]:
                axis.set_ylabel("")
                if part is draw_checks:
                    axis.set_yticklabels([])
        lines = axes[0, 0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside upper left", ncols=4, frameon=False, fontsize=8)
        return figure

    def table(self, found: "pandas.DataFrame", metric: Metric) -> "pandas.DataFrame":
        import pandas

        rows: dict[str, dict[str, str]] = {}
        for (norm, radius), own in found.groupby(["norm", "radius"], sort=False):
            row = rows[f"{TITLES[norm]} {radius:g}"] = {}
            for attack, made_on, tried_on in own[["attack", "made_on", "tried_on"]].drop_duplicates().itertuples(False):
                part = own[(own["attack"] == attack) & (own["made_on"] == made_on) & (own["tried_on"] == tried_on)]
                if attack in (CLEAN, "fgsm", "pgd"):
                    (values,) = over_tasks(part, ["norm"], "score").itertuples(index=False)
                    row[label(attack, made_on, tried_on)] = metric.text(values.mean, values.ci95)
        return pandas.DataFrame.from_dict(rows, orient="index")

    @classmethod
    def across(cls, found: "Mapping[str, pandas.DataFrame]", metric: Metric) -> "pandas.DataFrame":
        """Each run under its own PGD, and what it has more than the first one on the same tasks."""
        import pandas

        own = pandas.concat(
            frame[(frame["tried_on"] == THIS) & (frame["made_on"] == THIS)].assign(run=run)
            for run, frame in found.items()
        )
        own = own[own["attack"].isin([CLEAN, "pgd"])]
        first, *others = found
        rows: dict[str, dict[str, str]] = {}
        for (norm, radius), part in own.groupby(["norm", "radius"], sort=False):
            by_task = part.pivot_table(index="task", columns="run", values="score").dropna()
            columns = {run: by_task[run] for run in found}
            columns |= {f"{run} - {first}": by_task[run] - by_task[first] for run in others}
            rows[f"{TITLES[norm]} {radius:g}"] = {
                name: metric.text(values.mean(), 1.96 * values.sem()) for name, values in columns.items()
            }
        return pandas.DataFrame.from_dict(rows, orient="index")


class Target:
    """Query images of a task and a learner that has adapted to it.

    Args:
        case: the task and the learner.
        steps: inner steps; None: the learner's own.
    """

    def __init__(self, case: Case, steps: int | None = None) -> None:
        self._learner, self._problem, self._number = case.learner, case.learner.problem, case.number
        self._adapted, self._query = case.adapted(steps), case.task.query
        self.pixels = self._problem.pixels(self._query.x)
        self.clean = torch.zeros_like(self.pixels)
        self.gradient = with_gradient(self.loss, self.clean)[1]

    def outputs(self, change: Tensor) -> Tensor:
        """Of the changed images, [n, outputs]."""
        return self._learner.predict(self._adapted, self._problem.changed(self._query.x, change))

    def loss(self, change: Tensor) -> Tensor:
        """The mean over the changed images, []."""
        return self._learner.loss(self.outputs(change), self._query.y)

    def generator(self) -> torch.Generator:
        """Of random changes, the same for every learner: a function of the task's number."""
        return torch.Generator().manual_seed(self._number)

    def row(self, norm: Norm, radius: float, attack: str, made_on: str, tried_on: str, change: Tensor) -> Row:
        """What a change does to this learner."""
        with torch.no_grad():
            outputs = self.outputs(change)
            return {
                "task": self._number, "norm": norm, "radius": radius, "attack": attack, "made_on": made_on,
                "tried_on": tried_on, "score": float(self._problem.score(outputs, self._query.y)),
                "loss": float(self._learner.loss(outputs, self._query.y)),
            }  # fmt: skip


def radii_of(settings: RobustnessConfig, shape: tuple[int, ...]) -> dict[Norm, list[float]]:
    """The radii of every norm that is asked for.

    Raises:
        UserError: one holds every image of the shape, or there is none.
    """
    pixels, found = prod(shape), {}
    factors: dict[Norm, float] = {"linf": 1.0, "l2": sqrt(pixels / MNIST), "l1": pixels / MNIST}
    for norm in NORMS:
        given, most = getattr(settings, norm), diameter(pixels, norm)
        own = [factors[norm] * one for one in RADII[norm]] if given is None else given
        for radius in own:
            if radius > most:
                raise UserError(
                    f"robustness.{norm}: found {radius:g}, but within {most:g} there is every image of "
                    f"{pixels} pixels; allowed: above 0, at most {most:g}"
                )
        if own:
            found[norm] = own
    if not found:
        raise UserError(f"robustness: no radius is left; give one of {', '.join(NORMS)} some, as in linf=[0.1]")
    return found


def name_of(run: str) -> str:
    """What a final run is called: the last part of a folder's path."""
    return run.rstrip("/").rpartition("/")[2]


def label(attack: str, made_on: str, tried_on: str) -> str:
    """`PGD`, or of another run `PGD on mine`, or of one run's tried on another `PGD of mine on this`."""
    words = CHECKS.get(attack, "clean")
    if made_on != tried_on:
        return f"{words} of {made_on} on {tried_on}"
    return words if tried_on == THIS else f"{words} on {tried_on}"


def draw_curves(axis: Any, found: "pandas.DataFrame", metric: Metric, norm: str) -> None:
    """The score by radius."""
    runs = list(found["tried_on"].unique())
    for colour, run in enumerate(runs):
        for attack, style in (("pgd", "-"), ("fgsm", "--")):
            for made_on in runs if attack == "pgd" else [run]:
                own = (found["tried_on"] == run) & (found["made_on"] == made_on) & (found["attack"] == attack)
                clean = (found["tried_on"] == run) & (found["attack"] == CLEAN)
                line = over_tasks(found[own | clean], ["radius"], "score")
                axis.errorbar(
                    line["radius"], metric.scale * line["mean"], metric.scale * line["ci95"], color=f"C{colour}",
                    marker="o", ms=3, capsize=2, lw=1.2, ls=style if made_on == run else ":",
                    label=label(attack, made_on, run),
                )  # fmt: skip
    unit = f", {metric.unit}" if metric.unit else ""
    axis.set(xlabel=f"radius in {TITLES[norm]}", ylabel=f"{metric.name}{unit}")
    axis.grid(axis="y", alpha=0.25)


def draw_differences(axis: Any, found: "pandas.DataFrame", metric: Metric, norm: str) -> None:
    """This run minus the other one under its own attack, task by task."""
    own = found[(found["made_on"] == found["tried_on"]) & found["attack"].isin([CLEAN, "pgd"])]
    _, other = found["tried_on"].unique()
    pairs = own.pivot_table(index=["radius", "task"], columns="tried_on", values="score").reset_index()
    pairs["difference"] = pairs[THIS] - pairs[other]
    line = over_tasks(pairs, ["radius"], "difference")
    axis.axhline(0, **GUIDE)
    axis.errorbar(
        line["radius"], metric.scale * line["mean"], metric.scale * line["ci95"], color="C3", marker="o", ms=3,
        capsize=2,
    )  # fmt: skip
    axis.set(xlabel=f"radius in {TITLES[norm]}", ylabel="difference, points" if metric.unit == "%" else "difference")
    axis.grid(axis="y", alpha=0.25)


def draw_checks(axis: Any, found: "pandas.DataFrame", metric: Metric, norm: str) -> None:
    """What less and more effort than PGD's finds, on the tasks that were attacked with all of it."""
    own = found[(found["made_on"] == THIS) & (found["tried_on"] == THIS)]
    noise = own[own["attack"] == "noise"]
    same = own[(own["radius"] == noise["radius"].iloc[0]) & own["task"].isin(noise["task"])]
    line = over_tasks(same, ["attack"], "score").set_index("attack")
    order = [attack for attack in CHECKS if attack in line.index]
    line = line.loc[order]
    axis.errorbar(
        metric.scale * line["mean"], range(len(order)), xerr=metric.scale * line["ci95"], fmt="o", color="C0",
        capsize=2, ms=3,
    )  # fmt: skip
    axis.set_yticks(range(len(order)), [CHECKS[attack] for attack in order], fontsize=7)
    axis.invert_yaxis()
    unit = f", {metric.unit}" if metric.unit else ""
    axis.set(xlabel=f"{metric.name}{unit}, at {noise['radius'].iloc[0]:g} in {TITLES[norm]}")
    axis.grid(axis="x", alpha=0.25)
