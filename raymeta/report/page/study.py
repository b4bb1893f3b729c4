"""The report of a study, put together."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from raymeta.report.page import causes, course, examples, outcome
from raymeta.report.page.content import PAGE, Report, Section, count
from raymeta.report.page.findings import Findings, moment
from raymeta.report.page.forms import html
from raymeta.report.status import status_of
from raymeta.storage.files import write_atomically
from raymeta.study.record.record import StudyRecord

SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    outcome.best,
    outcome.finalists,
    examples.examples,
    outcome.searched,
    course.curves,
    course.adaptation,
    course.asha,
    causes.importance,
    causes.slices,
    causes.together,
    course.failures,
    course.machines,
    course.trials,
    course.provenance,
)


def report_of(record: StudyRecord) -> Report:
    """What a study has found so far. Equal records give equal reports; nothing is locked or written."""
    found = Findings(record)
    times, planned = found.times(), count(record.plan.study.trials, "trial")
    until = f", as of {moment(times[-1])}" if times else ""
    subtitle = f"{record.plan.spec} on {record.plan.base.task.title}, {planned}{until}"
    sections = [said for section in SECTIONS if (said := section(found)) is not None]
    return Report(record.name, subtitle, sections, lambda: _facts(found))


def write_page(record: StudyRecord) -> None:
    """Write `report.html` into the study's folder."""
    write_atomically(record.folder / PAGE, html(report_of(record)))


def _facts(found: Findings) -> dict[str, Any]:
    """What a program wants of it, in raw numbers."""
    best = found.best
    entry = (best.best(found.metric) or {}) if best else {}
    return {
        "study": found.record.name,
        "status": status_of(found.record).as_dict(),
        "metric": asdict(found.metric),
        "best": {"trial": best.number, **entry, "point": best.point} if best else None,
        "finalists": found.standing.as_dict() if found.standing else None,
        "importance": {
            "outer_steps": found.common.steps if found.common else None,
            "keys": [asdict(share) for share in found.shares],
            "pairs": [{"keys": list(pair.keys), "share": pair.share, "p": pair.p} for pair in found.pairs],
        },
        "trials": [asdict(trial) for trial in found.trials],
    }
