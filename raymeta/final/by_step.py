"""What every inner step does: final runs scored before the first and after each, on training and on test tasks.

A learner that has memorised its training tasks is good at them before it has seen their support sets, and no better
after; on test tasks it is lost, and inner steps don't help it much.
"""

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from raymeta.inner import Context
from raymeta.report.tables import value
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.training.trainer import Trainer

if TYPE_CHECKING:
    from raymeta.final.results import FinalTable

FILE = "by_step.json"
Tasks = Literal["training", "test"]
TASKS: dict[Tasks, str] = {"training": "tasks of the training classes", "test": "test tasks"}


def score(trainer: Trainer, path: AnyPath) -> None:
    """Score the best weights of a finished run by inner step, and write the scores to a file.

    Both kinds of tasks are as many as the config tests on; those of the training classes are drawn as in training, but
    none of them was trained on.
    """
    config, problem = trainer.config, trainer.problem
    assert trainer.best is not None
    banks: dict[Tasks, Any] = {
        "training": problem.bank("train", config.seed + 2**32),
        "test": problem.bank("test", config.task.bank_seed, final=True),
    }
    steps = trainer.learner.steps(Context(training=False))  # type: ignore[operator]
    found: dict[str, list[tuple[float, float]]] = {}
    for name, bank in banks.items():
        scores = [
            trainer.evaluate(bank, config.budget.test_tasks, [trainer.best["weights"]], step)
            for step in range(steps + 1)
        ]
        found[name] = [(score.mean, score.ci95) for score in scores]
    write_atomically(path, json.dumps(found))


def read(final: "FinalTable", tasks: Tasks) -> list[tuple[float, float]]:
    """Mean over the seeds before and after every step, with the seeds' mean 95 % interval over tasks."""
    seeds = [json.loads((final.folder / f"seed{r.seed}" / FILE).read_text())[tasks] for r in final.seeds]
    return [
        (statistics.fmean(mean for mean, _ in step), statistics.fmean(ci for _, ci in step))
        for step in zip(*seeds, strict=True)
    ]


def as_dict(final: "FinalTable") -> dict[str, Any]:
    """Plain data: means and half-widths by step."""
    return {"by_step": {tasks: read(final, tasks) for tasks in TASKS}}


def as_table(finals: list["FinalTable"]) -> Table:
    """Two rows a config: training tasks and test tasks."""
    steps = max(len(read(final, "test")) for final in finals)
    table = Table("config", "tasks", "before", *(f"step {step}" for step in range(1, steps)), title="by inner step")
    for final in finals:
        for tasks in TASKS:
            table.add_row(final.name, tasks, *(value(mean, final.metric, ci) for mean, ci in read(final, tasks)))
    return table


def draw(finals: list["FinalTable"], path: Path) -> None:
    """A panel for each kind of tasks, a line a config; the suffix of `path` says what kind of file it is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    for axis, tasks in zip(axes, TASKS, strict=True):
        for number, final in enumerate(finals):
            means, intervals = zip(*read(final, tasks), strict=True)
            axis.errorbar(
                range(len(means)), means, intervals, color=f"C{number}", marker="o", ms=4, capsize=2, label=final.name
            )
        axis.set(xlabel="inner steps", title=TASKS[tasks])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(finals[0].metric.name)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
