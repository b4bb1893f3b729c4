"""A study's report as a file."""

from pathlib import Path

from raymeta.errors import UserError, shown, suggest
from raymeta.report.page.forms import FORMS
from raymeta.report.page.study import report_of
from raymeta.storage.outputs import output, write_output
from raymeta.study.record.record import StudyRecord


def form_of(path: str | Path | None, form: str | None) -> str:
    """How a report is to be written: as is said, else by the file's ending, else as a page.

    Raises:
        UserError: there is no such form.
    """
    if form is not None:
        if form not in FORMS:
            raise UserError(f"unknown format '{form}': {suggest(form, FORMS)}")
        return form
    ending = Path(path).suffix[1:].lower() if path is not None and str(path) != "-" else "html"
    if ending not in FORMS:
        raise UserError(f"{shown(path)}: its ending names no format: name one by --format ({', '.join(FORMS)})")
    return ending


def written(record: StudyRecord, form: str) -> str:
    """The report of a study in a form of `FORMS`."""
    return FORMS[form](report_of(record))


def write_report(record: StudyRecord, path: str | Path | None = None, form: str | None = None) -> Path:
    """Write a study's report to a file; see `Study.report`."""
    form = form_of(path, form)
    file = output(path if path is not None else f"{record.name}.{form}")
    write_output(file, written(record, form))
    return file
