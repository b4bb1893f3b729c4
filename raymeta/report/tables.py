"""How trials and scores are written in tables."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from raymeta.errors import shown
from raymeta.metric import Metric, half_width
from raymeta.problems.images.check import Finding
from raymeta.schema import flatten
from raymeta.study.plan.plan import Plan
from raymeta.study.plan.preview import Preview
from raymeta.study.record.finalists import Finalist, Standings
from raymeta.study.record.record import TrialRecord

MOST_CLASSES = 8  # that have a column each
PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "expand": True}  # a table that knows how wide the screen is


def nothing_scored(study: str, counts: Mapping[str, int]) -> str:
    """What to do where trials have ended and none has a score, by how many have ended how."""
    if counts.get("failed"):
        return f"no trial has a score: `raymeta status {study}` says why they failed"
    return "no trial has a score: all diverged; search smaller learning rates, or fix them by key=value"


def value(number: float, metric: Metric, ci95: float | None = None) -> str:
    """`97.12 % ± 0.30`, or `0.742 ± 0.051` for an error."""
    return metric.text(number, ci95)


def validated(trial: TrialRecord, metric: Metric) -> str:
    """A trial's best validation with its 95 % interval."""
    entry = trial.best(metric)
    return value(entry[f"val_{metric.name}"], metric, entry["val_ci95"]) if entry else "-"


def fresh(one: Finalist, metric: Metric) -> str:
    """A finalist's score on the fresh episodes with its 95 % interval."""
    return value(one.mean, metric, one.ci95) if one.values else "-"


def finalists_table(standing: Standings) -> Table:
    """A row a finalist: what the search saw, what the fresh episodes say, and how far it is from the best."""
    metric, again = standing.metric, max(len(one.retrained) for one in standing.finalists)
    names = ["trial", "outer steps", "search", f"{standing.tasks} fresh episodes"]
    names += [f"trained again, {again} seed{'s'[: again > 1]}"] if again else []
    columns = [Column(name, no_wrap=True) for name in [*names, "to the best"]]
    table, differing = Table(*columns, rest("settings"), **PLAIN), varying([one.trial for one in standing.finalists])
    for one in standing.finalists:
        gap = standing.to_best(one)
        own = value(fmean(one.own), metric, half_width(one.own)) if one.own else "-"
        table.add_row(
            f"{one.trial.number}{' *' if one is standing.best else ''}",
            f"{one.trial.outer_steps}{'' if one.equal else ' (less)'}",
            validated(one.trial, metric),
            own,
            *([fresh(one, metric)] if again else []),
            f"{'+' if gap.mean > 0 else ''}{value(gap.mean, metric, gap.ci95)}" if gap else Text(one.reason),
            Text(settings(one.trial, differing)),
        )
    return table


def rest(name: str) -> Column:
    """The column that takes what the others leave of a screen, and is cut there; they are never cut."""
    return Column(name, no_wrap=True, overflow="ellipsis", ratio=1)


def varying(trials: Sequence[TrialRecord]) -> set[str]:
    """Searched keys in which trials differ; of one trial, all."""
    keys = {key for trial in trials for key in trial.point}
    return {key for key in keys if len(trials) < 2 or len({str(trial.point.get(key)) for trial in trials}) > 1}


def settings(trial: TrialRecord, keys: Set[str] | None = None) -> str:
    """What was searched, short: the last part of each key.

    Args:
        trial: whose.
        keys: only these; None: all.
    """
    parts = [
        f"{key.rsplit('.', 1)[-1]} {short(found)}" for key, found in trial.point.items() if keys is None or key in keys
    ]
    label = [f"[{trial.label}]"] if trial.label else []
    return "  ".join([", ".join(parts), *label]).strip()


def short(found: Any) -> str:
    """A value with three significant digits."""
    return f"{found:.3g}" if isinstance(found, float) else str(found)


def space_table(plan: Plan) -> Group:
    """The searched keys with their ranges, conditions, origins and starting points, and where the rest is from."""
    name, space = Column("key", no_wrap=True), plan.space  # as it is typed
    table = Table(name, "range", "searched when", Column("from", overflow="fold"), box=None, pad_edge=False)
    for label in space.labels:
        table.add_column(f"start: {label}")
    for key, param in space.params.items():
        when = ", ".join(f"{other.rsplit('.', 1)[-1]} {condition}" for other, condition in param.when.items())
        table.add_row(
            key,
            str(param),
            when or "always",
            space.origins.get(key, ""),
            *(short(point.get(key, "-")) for point in space.start_from),
        )
    values = plan.base.flat() | flatten({"study": plan.study.model_dump(mode="json")})
    fixed = [f"{key} {short(values[key])} ({origin})" for key, origin in plan.fixed.items() if key in values]
    others = ", ".join(dict.fromkeys(plan.origins.values()))
    return Group(table, f"fixed: {', '.join(fixed) or 'nothing'}", f"the rest: {others}, defaults")


def data_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Data sets, which class splits they have, and what of them is on this machine."""
    columns = ("input", "class splits", "train/val/test classes", "images", "MB", "fingerprint", "fitted")
    right = {name: Column(name, justify="right") for name in columns[2:5]}
    first = Column("data set", overflow="fold")  # a path is in it
    table = Table(first, *(right.get(name, Column(name)) for name in columns), box=None, pad_edge=False)
    for name, about in rows.items():
        there = ["-"] * 3
        if "images" in about:
            there = ["/".join(map(str, about["classes"].values())), str(about["images"]), f"{about['bytes'] / 1e6:.0f}"]
        state = about["fingerprint"][:12] if "fingerprint" in about else "-" if about["ready"] else "not prepared"
        if "fingerprint" in about and not about["ready"]:
            state += " (changed since)"
        made = Text(about.get("problem", state))
        splits = ", ".join(about["splits"])
        shape = "x".join(map(str, about["input_shape"]))
        table.add_row(Text(name), shape, splits, *there, made, about.get("fitted", "-"))
    return table


def check_table(findings: dict[str, list[Finding]]) -> Table:
    """What `raymeta data check` found, a line for each thing that was looked at."""
    table = Table("data set", "split", "what", "found", "expected", "", box=None, pad_edge=False)
    for name, rows in findings.items():
        for row in rows:
            remark = Text(row.remark if row.ok else "WRONG")
            table.add_row(Text(name), row.split, row.what, Text(row.found), row.expected or "-", remark)
    return table


def predictions_table(
    images: Sequence[Path], classes: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> Table:
    """A row a picture: its label, and the probability of each class, or of the most probable ones if they are many."""
    few = len(classes) <= MOST_CLASSES
    columns = [Column(Text(name), justify="right") for name in classes] if few else [Column("next")]
    table = Table("image", "label", Column("probability", justify="right"), *columns, box=None, pad_edge=False)
    for image, found in zip(images, probabilities, strict=True):
        first, *others = sorted(zip(found, classes, strict=True), reverse=True)
        rest = [f"{p:.3f}" for p in found] if few else [Text(", ".join(f"{c} {p:.3f}" for p, c in others[:3]))]
        table.add_row(Text(shown(image)), Text(first[1]), f"{first[0]:.3f}", *rest)
    return table


def preview_table(preview: Preview) -> RenderableType:
    """The space, the first trials, a row each, and the size of the study in sentences."""
    table = Table(title=f"{preview.plan.spec}: the first {len(preview.points)} trials", box=None, pad_edge=False)
    keys = list(dict.fromkeys(key for point in preview.points for key in point))
    for key in keys:
        table.add_column(key.removeprefix("regularizers."))
    table.add_column("")
    for point, label in zip(preview.points, preview.labels, strict=True):
        table.add_row(*(short(point[key]) if key in point else "-" for key in keys), label)
    usual, worst = (60 * preview.hours(steps) for steps in (preview.usual_steps, preview.most_steps))
    lines = [
        f"rungs at {preview.rungs} outer steps",
        f"a step takes {preview.step_s * 1000:.0f} ms and a validation {preview.validation_s:.1f} s, "
        "for one trial alone",
        f"time with {preview.slots} slots: about {usual:.1f} min, at worst (no trial is cut) {worst:.1f} min",
        f"of it {60 * preview.hours(0):.1f} min for at most {preview.finalists} finalists",
        f"disk: at most {preview.disk_bytes / 1e6:.0f} MB of checkpoints",
    ]
    if preview.lanes:
        trials = preview.plan.study.trials
        lines.append(
            f"lanes: {preview.slots * preview.lanes} trials at a time, up to {preview.lanes} of a structure in one "
            f"program; structures among {trials} random proposals: {preview.structures}"
        )
    return Group(space_table(preview.plan), "", table, *lines)
