"""Start a study or go on with it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from raymeta.errors import RunFailed, UserError
from raymeta.problem import open_problem
from raymeta.report.live.progress import Progress
from raymeta.report.pictures import search_picture
from raymeta.storage.files import write_atomically
from raymeta.study.copies.copier import Copies
from raymeta.study.machines.failures import ends_session, unwritable
from raymeta.study.machines.resources import Slots, stop_ray
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import missing
from raymeta.study.record.journal import mend_journal
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.tracker import Tracker


def run(record: StudyRecord, session: Session, start: Callable[[], Slots]) -> None:
    """Run a study's trials until it has as many as planned, then score its finalists; or until the user leaves.

    Args:
        record: the study.
        session: notes how it went. Signals are heard (`on_slots`).
        start: starts Ray (`take_slots`); called if there is something to run and Ray is not up yet.

    Raises:
        UserError: another process drives the study, or its data have changed.
        RunFailed: the disk is full, or the store is away. What is there is good.
    """
    with record.locked() as pulse, redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
        session.told_by(pulse)
        mend_journal(record.folder)
        _same_data(record)
        try:
            record.resume()
            with (
                Tracker(record, lambda text: session.say(text)) as tracker,
                Copies(record, lambda text: session.say(text), lambda: session.closing) as copies,
            ):
                tracker.update_all()
                if not record.over or missing(record):
                    with session.left_at_once():
                        _search(record, session, tracker, start)
                session.ended = time.time()
                if not session.closing:
                    write_atomically(record.folder / "search.png", search_picture(record))
                    _write_report(record, session)
                tracker.summarise(session)
            session.problems += copies.problems
            session.elsewhere = copies.whole
        except OSError as error:
            if not ends_session(error):
                raise
            session.broken = session.broken or unwritable(error)
        if session.broken:
            raise RunFailed(
                f"{session.broken}; what the study has noted is safe: `raymeta resume {record.name}` "
                "goes on once that is mended"
            )
        session.untracked = tracker.problem


@contextmanager
def on_slots(session: Session) -> Iterator[None]:
    """Where a study is driven: signals are heard, and Ray is stopped at the end if it was started."""
    with session.interruptible("no new trials or finalists; the running ones finish"):
        try:
            yield
        finally:
            session.ended = session.ended or time.time()
            if session.slots is not None:
                stop_ray()


def _search(record: StudyRecord, session: Session, tracker: Tracker, start: Callable[[], Slots]) -> None:
    session.take(start)
    if session.slots and session.slots.why:
        session.say(session.slots.why)
    if not record.over:
        from raymeta.study.run.tuning import tune_study  # imported here: Ray's workers warm up meanwhile

        tune_study(record, session, Progress(record, session), tracker)
    if record.over and not session.stopping:
        from raymeta.study.run.reevaluate import reevaluate

        reevaluate(record, session)


def _write_report(record: StudyRecord, session: Session) -> None:
    """The page in the study's folder. It can be had again from the record, so a search never fails by it."""
    from raymeta.report.page.study import write_page  # imported here: fANOVA's trees take seconds to come

    try:
        write_page(record)
        session.reported = True
    except Exception as error:
        if isinstance(error, OSError) and ends_session(error):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        session.problems.append(f"no report was written ({what}); `raymeta report {record.name}` tries again")


def _same_data(record: StudyRecord) -> None:
    dataset = open_problem(record.plan.base.task)
    expected = record.about["data"]["fingerprint"]
    if dataset.fingerprint != expected:
        raise UserError(
            f"the study '{record.name}' was made on data with fingerprint {expected}, but {dataset.name} here has "
            f"{dataset.fingerprint}: its trials would not be comparable"
        )
