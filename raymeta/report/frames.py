"""Studies and final runs as pandas' data frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymeta.study.record.record import StudyRecord

if TYPE_CHECKING:
    import pandas

    from raymeta.finals.results import FinalTable


def trials_frame(record: StudyRecord) -> "pandas.DataFrame":
    """A row a trial; what was not searched for it is missing."""
    import pandas

    name = f"val_{record.metric.name}"
    rows = []
    for trial in record.trials():
        entry = trial.best(record.metric) or {}
        about = {"trial": trial.number, "state": trial.state, "outer_steps": trial.outer_steps}
        scores = {key: entry.get(key) for key in (name, "val_ci95")}
        rows.append(about | scores | {"label": trial.label, "reason": trial.reason} | trial.point)
    columns = ["trial", "state", "outer_steps", name, "val_ci95", "label", "reason", *record.plan.space.params]
    return pandas.DataFrame(rows, columns=columns).set_index("trial")


def rounds_frame(record: StudyRecord) -> "pandas.DataFrame":
    """A row a round of each trial."""
    import pandas

    rows = [{"trial": trial.number, **entry} for trial in record.trials() for entry in trial.rounds]
    frame = pandas.DataFrame(rows, columns=None if rows else ["trial", "outer_steps"])
    return frame.set_index(["trial", "outer_steps"])


def finals_frame(finals: "Sequence[FinalTable]") -> "pandas.DataFrame":
    """A row a seed of each config."""
    import pandas

    rows = []
    for one in finals:
        about = {
            "config": one.name,
            "method": one.config.spec,
            "task": one.config.task.name,
            "scale": one.config.budget.scale,
        }
        rows += [about | seed for seed in one.as_dict()["seeds"]]
    return pandas.DataFrame(rows, columns=None if rows else ["config", "seed"]).set_index(["config", "seed"])
