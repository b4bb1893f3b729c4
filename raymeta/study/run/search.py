"""Start a study or go on with it."""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

from raymeta.errors import RunFailed, UserError
from raymeta.problem import open_problem
from raymeta.report.pictures import search_picture
from raymeta.report.progress import Progress
from raymeta.study.machines.failures import ends_session, unwritable
from raymeta.study.machines.resources import Slots, stop_ray
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import missing
from raymeta.study.record.record import StudyRecord, mend_journal
from raymeta.study.tracking.tracker import Tracker


def run(
    record: StudyRecord, start: Callable[[], Slots], *, started: float | None = None, quiet: bool = False
) -> Session:
    """Run a study's trials until it has as many as planned, then score its finalists; or until the user leaves.

    Args:
        record: the study.
        start: starts Ray (`take_slots`); not called if no trial is left to run.
        started: when the command began, in seconds since the epoch; None: now.
        quiet: show nothing.

    Raises:
        UserError: another process drives the study, or its data have changed.
        RunFailed: the disk is full, or the store is away. What is there is good.
    """
    with record.locked(), redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
        mend_journal(record.folder)
        _same_data(record)
        session = Session(started or time.time())
        try:
            record.resume()
            with Tracker(record) as tracker:
                tracker.update_all()
                if not record.over or missing(record):
                    _search(record, session, Progress(record, session, quiet=quiet), tracker, start)
                if not session.broken:
                    search_picture(record, record.folder / "search.png")
                tracker.summarise(session)
        except OSError as error:
            if not ends_session(error):
                raise
            session.broken = session.broken or unwritable(error)
        if session.broken:
            raise RunFailed(
                f"{session.broken}; what the study has noted is safe: make it possible to write, then "
                f"`raymeta resume {record.name}`"
            )
        session.untracked = tracker.problem
        return session


def _search(
    record: StudyRecord, session: Session, progress: Progress, tracker: Tracker, start: Callable[[], Slots]
) -> None:
    with session.interruptible(progress.say, "no new trials or finalists; the running ones finish"):
        try:
            session.slots = start()
            if session.slots.why:
                progress.say(session.slots.why)
            if not record.over:
                from raymeta.study.run.tuning import tune_study  # imported here: Ray's workers warm up meanwhile

                tune_study(record, session, progress, tracker)
            if record.over and not session.stopping:
                from raymeta.study.run.reevaluate import reevaluate

                reevaluate(record, session, quiet=progress.quiet)
        finally:
            session.ended = time.time()
            stop_ray()


def _same_data(record: StudyRecord) -> None:
    dataset = open_problem(record.plan.base.task)
    expected = record.about["data"]["fingerprint"]
    if dataset.fingerprint != expected:
        raise UserError(
            f"the study '{record.name}' was made on data with fingerprint {expected}, but {dataset.name} here has "
            f"{dataset.fingerprint}: its trials would not be comparable"
        )
