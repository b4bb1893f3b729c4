"""`best.yaml`: a trial's whole config and where it comes from. `raymeta final` reads it; so does any YAML reader."""

from pathlib import Path
from typing import Any

from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.files import dump_yaml, read_yaml, write_atomically
from raymeta.study.record import StudyRecord, TrialRecord
from raymeta.study.space import BASELINE
from raymeta.study.tables import score

NOTE = "# Written by `raymeta export`; run it with `raymeta final {name}`.\n"


def export(record: StudyRecord, path: Path, number: int | None = None, mlflow_run: str | None = None) -> dict[str, Any]:
    """Write a trial of a study, by default its best, to a file.

    Raises:
        UserError: the study has no such trial, or none with a score yet.
    """
    trial = record.trial(number) if number is not None else record.best()
    if trial is None or (entry := trial.best(record.metric)) is None:
        which = f"trial {number}" if number is not None else "any trial"
        raise UserError(f"the study '{record.name}' has no validation of {which} yet")
    provenance = {
        "study": record.name,
        "trial": trial.number,
        "trials": len(record.trials()),
        "mlflow_run": mlflow_run,
        "outer_steps": trial.outer_steps,
        f"val_{record.metric.name}": entry[f"val_{record.metric.name}"],
        "val_ci95": entry["val_ci95"],
        "val_tasks": record.plan.base.budget.validation_tasks,
        "against_start": against_start(record, trial),
        "command": record.about["command"],
        "space_hash": record.about["space_hash"],
        "data": record.about["data"],
        "versions": record.about["versions"],
    }
    content = {"provenance": provenance, **record.config(trial).as_dict()}
    write_atomically(path, NOTE.format(name=path.name) + dump_yaml(content))
    return content


def read_export(path: Path) -> tuple[TrialConfig, dict[str, Any]]:
    """The config and the provenance of an exported file; a plain config has an empty provenance.

    Raises:
        UserError: the file is not there or not a config.
    """
    data = read_yaml(path)
    provenance = data.pop("provenance", {})
    if not isinstance(provenance, dict):
        raise UserError(f"{path}: 'provenance' must be a mapping, found {type(provenance).__name__}")
    return parse_trial(data, str(path)), provenance


def baseline(record: StudyRecord) -> TrialRecord | None:
    """The trial that started with every regularizer at its neutral value."""
    return next((trial for trial in record.trials() if trial.label == BASELINE), None)


def against_start(record: StudyRecord, best: TrialRecord) -> str:
    """One sentence: does the best config beat the method without its regularizers? On the same validation episodes.

    Trials that ASHA cut are compared at the longest training both had.
    """
    start = baseline(record)
    if start is None:
        return "the study has no un-regularized start to compare with"
    if start.number == best.number:
        return f"this is the un-regularized start itself (trial {start.number})"
    key = f"val_{record.metric.name}"
    common = min(best.outer_steps, start.outer_steps)
    entries = [trial.best(record.metric, until=common) for trial in (best, start)]
    if entries[0] is None or entries[1] is None:
        return f"the un-regularized start (trial {start.number}) has no validation to compare with"
    mine, theirs = (entry[key] for entry in entries if entry)
    word = "above" if record.metric.better(mine, theirs) else "not above"
    if record.metric.mode == "min":
        word = word.replace("above", "below")
    return (
        f"it is {word} the un-regularized start (trial {start.number}, {start.state}) at {common} outer steps: "
        f"{mine:.4f} against {theirs:.4f}; the start's best is {score(start, record.metric)}"
    )
