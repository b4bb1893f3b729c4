"""Final runs as tables and as pictures."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table

from raymeta.report.style import panels, save
from raymeta.report.tables import value
from raymeta.study.plan.tables import EVIDENCE

if TYPE_CHECKING:
    import pandas

    from raymeta.analysis import Analysis
    from raymeta.finals.analyses import Analysed
    from raymeta.finals.results import FinalTable

UNREAD = ("R", "J")  # evidence for a published figure that is said beside it
TASKS = {"training": "tasks of the training classes", "test": "test tasks"}


def final_table(rows: Sequence["FinalTable"]) -> Table:
    """Mean and task-level 95 % interval on the test split: a row a config, or a row a seed if there is only one."""
    return _seeds(rows[0]) if len(rows) == 1 else _comparison(rows)


def _seeds(row: "FinalTable") -> Table:
    metric = row.metric
    title = f"{heading([row])}, norm: {_norm(row)}"
    table = Table("seed", *_columns(row), "selected at", "train time", title=title)
    for result in row.seeds:
        table.add_row(
            str(result.seed),
            value(result.mean, metric, result.ci95),
            value(result.ensemble, metric, result.ensemble_ci95),
            value(result.val, metric, result.val_ci95),
            f"{result.selected_at} steps",
            f"{result.seconds / 60:.1f} min",
        )
    table.add_section()
    table.add_row(
        "all",
        value(row.mean, metric, row.ci95),
        value(row.ensemble, metric),
        _spread(row),
        f"{row.config.budget.test_tasks} test tasks",
        "",
    )
    if row.published is not None:
        table.add_row("published", str(row.published))
    table.caption, table.caption_justify = _remarks([row]), "left"
    return table


def heading(rows: Sequence["FinalTable"]) -> str:
    """What tables and pictures are called: the row of a table or the method, the task, and whether it was shortened."""
    tasks, shortened = {_task(row) for row in rows}, {row.shortened for row in rows}
    title = tasks.pop() if len(tasks) == 1 else f"{len(rows)} configs, not all of one task"
    if len(rows) == 1:
        (row,) = rows
        name = f"{row.origin.row.name}: " if row.origin is not None else ""
        title = f"{name}{row.config.spec}, {title}"
    if len(shortened) > 1:
        return f"{title}, some shortened (NAME@SHARE)"
    return ", ".join(filter(None, [title, *shortened]))


def _remarks(rows: Sequence["FinalTable"]) -> str | None:
    """What a figure of a source means, and why a run is not what the source did."""
    found = []
    for row in rows:
        name = f"{row.name}: " if len(rows) > 1 else ""
        if row.published is not None and row.origin is not None:
            said = row.origin.row
            read = EVIDENCE[said.evidence] if said.evidence in UNREAD else ""
            found += [f"{name}published: {'; '.join(filter(None, [said.source, row.published.meaning, read]))}"]
        if row.also:
            found += [f"{name}test {', '.join(f'{key} {mean:.2f}' for key, mean in row.also.items())}"]
        if row.origin is not None and row.origin.changed:
            found += [f"{name}not the preset's own: {', '.join(row.origin.changed)}"]
        found += [f"{name}differs from its source: {one}" for one in row.origin.row.differs] if row.origin else []
    return "\n".join(dict.fromkeys(found)) or None


def _comparison(rows: Sequence["FinalTable"]) -> Table:
    first, title = rows[0], heading(rows)
    title += f", {len(first.seeds)} seed{'s'[: len(first.seeds) != 1]}, {first.config.budget.test_tasks} test tasks"
    config = Column("config", overflow="fold")  # never cut off: names differ at their ends
    published = any(row.published for row in rows) and not any(row.shortened for row in rows)
    others = ["published"] if published else []
    table = Table(config, *_columns(first), *others, "outer steps", "train time", "norm", title=title)
    for row in rows:
        metric = row.metric
        table.add_row(
            row.name,
            value(row.mean, metric, row.ci95),
            value(row.ensemble, metric),
            value(
                statistics.fmean(result.val for result in row.seeds),
                metric,
                # Of one seed: the others have the same validation tasks, so their intervals don't average out.
                statistics.fmean(result.val_ci95 for result in row.seeds),
            ),
            *([str(row.published or "-")] if published else []),
            str(row.config.budget.outer_steps),
            f"{statistics.fmean(result.seconds for result in row.seeds) / 60:.1f} min",
            _norm(row),
        )
    table.caption, table.caption_justify = _remarks(rows), "left"
    return table


def _columns(row: "FinalTable") -> tuple[str, str, str]:
    name = row.metric.name
    return f"test {name}", f"ensemble of {row.config.budget.ensemble}", f"validation {name}"


def _task(row: "FinalTable") -> str:
    return row.config.task.title


def _norm(row: "FinalTable") -> str:
    norm = str(getattr(row.config.model, "norm", "none"))
    return norm + (" (transductive)" if norm in ("batch", "per_step") else "")


def _spread(row: "FinalTable") -> str:
    return f"sd over seeds {value(row.sd_seeds, row.metric)}" if row.sd_seeds is not None else "one seed"


def draw_curves(rows: Sequence["FinalTable"], path: Path) -> None:
    """Draw validation score and validation loss over training, a line a config: the mean over its seeds, and each seed.

    Dashed is the mean score before adaptation, of problems that note it. The suffix of `path` says what kind of file it
    is.
    """
    keys = [f"val_{rows[0].metric.name}"]
    before = f"{keys[0]}_before"
    if any(abs(entry["val_loss"]) != abs(entry[keys[0]]) for row in rows for one in row.seeds for entry in one.rounds):
        keys.append("val_loss")  # unless the loss is the score
    figure, ((*axes,),) = panels(1, len(keys), 6, 4.2)
    for axis, key in zip(axes, keys, strict=True):
        for number, row in enumerate(rows):
            curves = [[(e["outer_steps"], e[key]) for e in result.rounds] for result in row.seeds]
            steps = [step for step, _ in curves[0]]
            if len(curves) > 1:
                for curve in curves:
                    axis.plot(steps, [score for _, score in curve], color=f"C{number}", lw=0.6, alpha=0.5)
            mean = [statistics.fmean(score for _, score in scores) for scores in zip(*curves, strict=True)]
            label = f"{row.name}: test {value(row.mean, row.metric, row.ci95)}"
            axis.plot(steps, mean, color=f"C{number}", lw=1.8, label=label)
            if key == keys[0] and all(before in entry for one in row.seeds for entry in one.rounds):
                unadapted = zip(*([entry[before] for entry in one.rounds] for one in row.seeds), strict=True)
                axis.plot(steps, [statistics.fmean(scores) for scores in unadapted], "--", color=f"C{number}", lw=1)
        dashed = " (dashed: before adaptation)" if key == keys[0] and before in rows[0].seeds[0].rounds[0] else ""
        axis.set(xlabel="outer steps", ylabel=key.replace("val_", "validation ") + dashed)
    axes[0].legend(frameon=False)
    figure.suptitle(heading(rows))
    save(figure, path)


def by_step_table(rows: Sequence["FinalTable"]) -> Table:
    """Two rows a config: training tasks and test tasks."""
    steps = max(len(row.by_step()["test"]) for row in rows)
    table = Table("config", "tasks", "before", *(f"step {step}" for step in range(1, steps)))
    table.title = f"by inner step: {heading(rows)}"
    for row in rows:
        for tasks in TASKS:
            table.add_row(row.name, tasks, *(value(mean, row.metric, ci) for mean, ci in row.by_step()[tasks]))
    return table


def parts_table(rows: Sequence["FinalTable"]) -> Table:
    """Mean and interval on each part of a benchmark of several: a row a part, a column a config."""
    found = {row.name: row.parts() for row in rows}
    table = Table("test tasks of", *found, title=heading(rows))
    for part in dict.fromkeys(part for own in found.values() for part in own):
        table.add_row(
            part,
            *(
                value(own[part][0], row.metric, own[part][1]) if part in own else ""
                for row, own in zip(rows, found.values(), strict=True)
            ),
        )
    table.add_section()
    table.add_row("all", *(value(row.mean, row.metric, row.ci95) for row in rows))
    return table


def analyses_table(found: Sequence["Analysed"]) -> Table:
    """What was looked at, what it means and where its picture is."""
    several = len({one.run for one in found}) > 1
    place = Column("picture, with its numbers beside it (.csv)", overflow="fold")
    table = Table(*(["config"] if several else []), "analysis", "what it shows", place)
    for one in found:
        table.add_row(*([one.run] if several else []), one.name, one.meaning, str(one.file(".png")))
    return table


def numbers_table(found: "pandas.DataFrame", title: str) -> Table:
    """What analyses have to say in numbers."""
    table = Table("", *map(str, found.columns), title=title, title_justify="left")
    for name, row in found.fillna("").iterrows():
        table.add_row(str(name), *map(str, row))
    return table


def known_analyses_table(known: Mapping[str, type["Analysis"]]) -> Table:
    """The analyses that there are, with their settings at their defaults."""
    table = Table("analysis", "what it shows", "needs", Column("settings", overflow="fold"))
    for name, cls in known.items():
        defaults = cls.Config().model_dump().items()
        settings = " ".join(f"{key}={'null' if value is None else value}" for key, value in defaults)
        table.add_row(name, cls.meaning, ", ".join(sorted(cls.needs)), settings)
    return table


def draw_by_step(rows: Sequence["FinalTable"], path: Path) -> None:
    """A panel for each kind of tasks, a line a config; the suffix of `path` says what kind of file it is."""
    figure, ((*axes,),) = panels(1, len(TASKS), 5, 4.2, share_y=True)
    for axis, tasks in zip(axes, TASKS, strict=True):
        for number, row in enumerate(rows):
            means, intervals = zip(*row.by_step()[tasks], strict=True)
            axis.errorbar(
                range(len(means)), means, intervals, color=f"C{number}", marker="o", ms=4, capsize=2, label=row.name
            )
        axis.set(xlabel="inner steps", title=TASKS[tasks])
    axes[0].set_ylabel(rows[0].metric.name)
    axes[0].legend(frameon=False)
    figure.suptitle(heading(rows))
    save(figure, path)
