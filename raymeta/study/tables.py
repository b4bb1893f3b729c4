"""How trials and scores are written in tables."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from raymeta.evaluation import Metric
from raymeta.study.record import TrialRecord
from raymeta.study.space import Space

if TYPE_CHECKING:
    from raymeta.study.final import FinalTable


def value(number: float, metric: Metric, ci95: float | None = None) -> str:
    """`97.12 % ± 0.30`, or `0.742 ± 0.051` for an error."""
    if metric.name == "accuracy":
        return f"{100 * number:.2f} %" + (f" ± {100 * ci95:.2f}" if ci95 is not None else "")
    return f"{number:.4f}" + (f" ± {ci95:.4f}" if ci95 is not None else "")


def score(trial: TrialRecord, metric: Metric) -> str:
    """A trial's best validation with its 95 % interval."""
    entry = trial.best(metric)
    return value(entry[f"val_{metric.name}"], metric, entry["val_ci95"]) if entry else "-"


def settings(trial: TrialRecord) -> str:
    """What was searched, short: the last part of each key."""
    parts = [f"{key.rsplit('.', 1)[-1]} {short(found)}" for key, found in trial.point.items()]
    return ", ".join(parts) + (f"  [{trial.label}]" if trial.label else "")


def short(found: Any) -> str:
    """A value with three significant digits."""
    return f"{found:.3g}" if isinstance(found, float) else str(found)


def space_table(space: Space) -> Table:
    """The searched keys with their ranges, conditions and starting points."""
    table = Table("key", "range", "searched when", box=None, pad_edge=False)
    for label in space.labels:
        table.add_column(f"start: {label}")
    for key, param in space.params.items():
        when = ", ".join(
            f"{other.rsplit('.', 1)[-1]} "
            + " ".join(f"{k} {v}" for k, v in condition.model_dump(exclude_none=True).items())
            for other, condition in param.when.items()
        )
        table.add_row(key, str(param), when or "always", *(short(point.get(key, "-")) for point in space.start_from))
    return table


def final_table(final: "FinalTable") -> Table:
    """A row a seed, and the overall one: mean and task-level 95 % interval on the test split."""
    task, metric = final.config.task, final.metric
    norm = getattr(final.config.model, "norm", "none")
    title = f"{final.config.spec}, {task.dataset} {task.ways}-way {task.shots}-shot, norm: {norm}"
    if norm == "batch":
        title += " (transductive)"
    table = Table("seed", f"test {metric.name}", f"validation {metric.name}", "selected at", "train time", title=title)
    for result in final.seeds:
        table.add_row(
            str(result.seed),
            value(result.mean, metric, result.ci95),
            value(result.val, metric, result.val_ci95),
            f"{result.selected_at} steps",
            f"{result.seconds / 60:.1f} min",
        )
    spread = f"sd over seeds {value(final.sd_seeds, metric)}" if final.sd_seeds is not None else "one seed"
    table.add_section()
    table.add_row(
        "all", value(final.mean, metric, final.ci95), spread, f"{final.config.budget.test_tasks} test tasks", ""
    )
    return table


def data_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Data sets and what they hold."""
    table = Table("data set", "what", box=None, pad_edge=False)
    for name, about in rows.items():
        table.add_row(name, ", ".join(f"{key}: {found}" for key, found in about.items() if key != "name"))
    return table
