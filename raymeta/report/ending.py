"""How a session of a study ended: its results, its figures, and what is to be said beside them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from raymeta.report.export import against_start
from raymeta.report.page.content import PAGE
from raymeta.report.status import STATES
from raymeta.report.tables import finalists_table, fresh, nothing_scored, settings, validated
from raymeta.storage.files import mlflow_folder
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import settled, standings
from raymeta.study.record.record import StudyRecord


def results(record: StudyRecord) -> Iterator[RenderableType]:
    """How many trials ended how, the finalists, the best and how it compares: in this order."""
    counts = {state: count for state, count in _counts(record).items() if count}
    yield f"{', '.join(f'{count} {state}' for state, count in counts.items()) or 'none'} of {record.plan.study.trials}"
    best, standing, metric = record.best(), standings(record), record.metric
    if best is None:
        return
    found = validated(best, metric)
    if standing is not None:
        yield finalists_table(standing)
        yield standing.verdict
        if standing.best is not None:
            seeds = len(standing.best.retrained)
            again = f", trained again with {seeds} seed{'s'[: seeds > 1]}" if seeds else ""
            found = f"{fresh(standing.best, metric)} on fresh episodes{again} ({found} in the search)"
    yield f"best: trial {best.number}, validation {metric.name} {found}: {settings(best)}"
    yield f"      {against_start(record, best)}"


def figures(record: StudyRecord, session: Session) -> dict[str, Any]:
    """The same as plain data, and how the session used its slots."""
    best, standing, found = record.best(), standings(record), None
    if best is not None:
        found = {"trial": best.number, **(best.best(record.metric) or {}), "config": record.config(best).as_dict()}
    return {
        "study": record.name,
        "trials": _counts(record),
        "best": found,
        "finalists": standing.as_dict() if standing else None,
        "slot_efficiency": session.efficiency,
        "wall_s": session.wall_s,
        "first_result_s": session.first_result_s,
    }


def remarks(record: StudyRecord, session: Session, *, efficiency: bool = True) -> Iterator[str]:
    """Use of the slots, what went wrong, where MLflow is, and what to do next: a line each."""
    if efficiency and session.efficiency is not None:
        first = f", first result after {session.first_result_s:.1f} s" if session.first_result_s else ""
        yield f"slot efficiency {session.efficiency:.2f} ({session.slots}, {session.wall_s:.0f} s{first})"
    yield from session.problems
    if session.untracked:
        yield f"MLflow lacks something of it: {session.untracked}; then `raymeta sync {record.name}` sends it"
    if not isinstance(record.folder, Path) and not os.environ.get("MLFLOW_TRACKING_URI"):
        yield f"MLflow is on this machine only, in {mlflow_folder()}; MLFLOW_TRACKING_URI names a server"
    yield from session.elsewhere
    if session.reported:  # an older one does not know of what ran since
        yield f"report: {record.folder / PAGE}"
    if not (record.over and settled(record)):
        yield f"go on with: raymeta resume {record.name}"
    elif record.best() is None:
        yield nothing_scored(record.name, _counts(record))
    else:
        yield f"next: raymeta export {record.name}   |   raymeta ui"


def _counts(record: StudyRecord) -> dict[str, int]:
    trials = record.trials()
    return {state: sum(trial.state == state for trial in trials) for state in STATES}
