"""Final runs scored by inner step, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from raymeta.finals.by_step import TASKS, read
from raymeta.finals.runs import FinalTable
from raymeta.report.style import panels, save
from raymeta.report.tables import value


def by_step_table(rows: Sequence[FinalTable]) -> Table:
    """Two rows a config: training tasks and test tasks."""
    steps = max(len(read(row, "test")) for row in rows)
    table = Table("config", "tasks", "before", *(f"step {step}" for step in range(1, steps)), title="by inner step")
    for row in rows:
        for tasks in TASKS:
            table.add_row(row.name, tasks, *(value(mean, row.metric, ci) for mean, ci in read(row, tasks)))
    return table


def draw_by_step(rows: Sequence[FinalTable], path: Path) -> None:
    """A panel for each kind of tasks, a line a config; the suffix of `path` says what kind of file it is."""
    figure, ((*axes,),) = panels(1, len(TASKS), 5, 4.2, share_y=True)
    for axis, tasks in zip(axes, TASKS, strict=True):
        for number, row in enumerate(rows):
            means, intervals = zip(*read(row, tasks), strict=True)
            axis.errorbar(
                range(len(means)), means, intervals, color=f"C{number}", marker="o", ms=4, capsize=2, label=row.name
            )
        axis.set(xlabel="inner steps", title=TASKS[tasks])
    axes[0].set_ylabel(rows[0].metric.name)
    axes[0].legend(frameon=False)
    save(figure, path)
