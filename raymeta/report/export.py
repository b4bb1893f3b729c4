"""`best.yaml`: a trial's whole config and where it comes from. `raymeta final` reads it; so does any YAML reader."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from raymeta.config import TrialConfig, parse_trial
from raymeta.config.migration import of_another_version
from raymeta.errors import UserError
from raymeta.report.tables import validated, value
from raymeta.schema import Section, check
from raymeta.storage.files import dump_yaml, read_yaml
from raymeta.storage.outputs import write_output
from raymeta.study.record.finalists import baseline, paired, standings
from raymeta.study.record.record import StudyRecord, TrialRecord


class Data(Section):
    """Which data a config was found on."""

    name: str
    fingerprint: str = Field(min_length=12)


class Provenance(Section):
    """Of what `exported` notes that which is read again."""

    model_config = ConfigDict(extra="allow")

    study: str = ""
    data: Data | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class Exported(Section):
    """The part of an exported file that is no config."""

    provenance: Provenance


NOTE = "# Written by `raymeta export`; run it with `raymeta final {name}`.\n"


def exported(record: StudyRecord, number: int, mlflow_run: str | None = None) -> dict[str, Any]:
    """What a file has of a trial of a study: its whole config under `provenance`.

    Raises:
        UserError: the study has no such trial, or it was not validated yet.
    """
    trial = record.trial(number)
    if (entry := trial.best(record.metric)) is None:
        raise UserError(f"the study '{record.name}' has no validation of trial {number} yet")
    provenance = {
        "study": record.name,
        "trial": trial.number,
        "trials": len(record.trials()),
        "mlflow_run": mlflow_run,
        "outer_steps": trial.outer_steps,
        f"val_{record.metric.name}": entry[f"val_{record.metric.name}"],
        "val_ci95": entry["val_ci95"],
        "val_tasks": record.plan.base.budget.validation_tasks,
        **_fresh(record, trial),
        "against_start": against_start(record, trial),
        "command": record.about["command"],
        "space_hash": record.about["space_hash"],
        "data": record.about["data"],
        "versions": record.about["versions"],
    }
    return {"provenance": provenance, **record.config(trial).as_dict()}


def write_export(content: Mapping[str, Any], path: Path) -> None:
    """Write what `exported` gives to a file.

    Raises:
        UserError: it can't be written.
    """
    write_output(path, NOTE.format(name=path.name) + dump_yaml(content))


def read_export(path: Path) -> tuple[TrialConfig, dict[str, Any]]:
    """The config and the provenance of an exported file; a plain config has an empty provenance.

    Raises:
        UserError: the file is not there or not a config.
    """
    data = read_yaml(path)
    provenance = data.pop("provenance", None)
    provenance = {} if provenance is None else provenance
    try:
        versions = check(Exported, {"provenance": provenance}, str(path)).provenance.versions
    except UserError as error:
        raise UserError(f"{error}; export the study again, or delete the section provenance") from error
    written_by = versions.get("raymeta")
    try:
        return parse_trial(data, str(path)), provenance
    except UserError as error:
        raise UserError(f"{error}{of_another_version(written_by) if written_by else ''}") from error


def _fresh(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """What the fresh episodes say of a trial; nothing if it was not scored on them."""
    standing = standings(record)
    one = standing.of(trial.number) if standing else None
    if standing is None or one is None or not one.values:
        return {}
    return {
        f"reevaluated_val_{record.metric.name}": one.mean,
        "reevaluated_val_ci95": one.ci95,
        "reevaluated_tasks": standing.tasks,
        "reevaluated_seeds": len(one.retrained),
        "finalists": standing.verdict,
    }


def against_start(record: StudyRecord, best: TrialRecord) -> str:
    """One sentence: does the best config beat the method without its regularizers? Over the same episodes.

    On the fresh ones if both were scored there; if ASHA cut one of them, in the search at the longest training that
    both had.
    """
    start = baseline(record)
    if start is None:
        return "the study has no un-regularized start to compare with"
    if start.number == best.number:
        return f"this is the un-regularized start itself (trial {start.number})"
    standing = standings(record)
    mine, theirs = (standing.of(trial.number) if standing else None for trial in (best, start))
    if standing is None or mine is None or theirs is None or not (mine.values and theirs.values):
        return _in_the_search(record, best, start)
    gap, common = paired(mine.values, theirs.values), _at_the_longest_both_had(record, best, start)
    unequal = not mine.retrained and best.outer_steps != start.outer_steps
    sentence = (
        f"it is {value(abs(gap.mean), record.metric, gap.ci95)} {'above' if gap.mean > 0 else 'below'} "
        f"the un-regularized start (trial {start.number}{f', {start.outer_steps} outer steps' if unequal else ''}) "
        f"on {standing.tasks} fresh episodes{'' if gap.significant else ', which is not significant'}"
    )
    if common is None or not unequal:
        return sentence
    steps, ours, its = common
    found = f"{record.metric.text(ours)} against {record.metric.text(its)}"
    return f"{sentence}; at {steps} outer steps the search found {found}"


def _in_the_search(record: StudyRecord, best: TrialRecord, start: TrialRecord) -> str:
    common = _at_the_longest_both_had(record, best, start)
    if common is None:
        return f"the un-regularized start (trial {start.number}) has no validation to compare with"
    steps, mine, theirs = common
    word = "above" if record.metric.better(mine, theirs) else "not above"
    if record.metric.mode == "min":
        word = word.replace("above", "below")
    found = f"{record.metric.text(mine)} against {record.metric.text(theirs)}"
    return (
        f"it is {word} the un-regularized start (trial {start.number}, {start.state}) at {steps} outer steps: {found}; "
        f"the start's best is {validated(start, record.metric)}"
    )


def _at_the_longest_both_had(
    record: StudyRecord, best: TrialRecord, start: TrialRecord
) -> tuple[int, float, float] | None:
    """Outer steps and both validation scores up to there."""
    key, common = f"val_{record.metric.name}", min(best.outer_steps, start.outer_steps)
    entries = [trial.best(record.metric, until=common) for trial in (best, start)]
    mine, theirs = (entry[key] if entry else None for entry in entries)
    return None if mine is None or theirs is None else (common, mine, theirs)
