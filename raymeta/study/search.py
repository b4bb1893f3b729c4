"""Start a study or go on with it: assemble Ray Tune's Tuner around the study's record."""

import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import ray
from ray import tune

from raymeta.data.store import open_dataset
from raymeta.errors import UserError
from raymeta.study.driver import MAX_FAILURES, Driver, Leave, interrupts
from raymeta.study.progress import Progress
from raymeta.study.record import StudyRecord, mend_journal
from raymeta.study.report import search_picture
from raymeta.study.resources import Slots
from raymeta.study.searcher import RecordASHA, RecordSearcher
from raymeta.study.session import Session
from raymeta.study.tracking import Tracker
from raymeta.trainable import MetaTrainable


def run(record: StudyRecord, slots: Slots, *, started: float | None = None, quiet: bool = False) -> Session:
    """Run a study's trials until it has as many as planned, or the user leaves.

    Args:
        record: the study.
        slots: what `start_ray` gave; Ray is shut down at the end.
        started: when the command began, in seconds since the epoch; None: now.
        quiet: show nothing.

    Raises:
        UserError: another process drives the study, or its data have changed.
    """
    with record.locked(), redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
        mend_journal(record.folder)
        _same_data(record)
        with Tracker(record) as tracker:
            tracker.update_all()
            session = Session(slots, started or time.time())
            try:
                _fit(record, session, Progress(record, session, quiet=quiet), tracker)
            finally:
                session.ended = time.time()
                ray.shutdown()
            search_picture(record, record.folder / "search.png")
            tracker.summarise(session)
        session.untracked = tracker.problem
        return session


def _fit(record: StudyRecord, session: Session, progress: Progress, tracker: Tracker) -> None:
    searcher = RecordSearcher(record, record.resume(), session.slots.count)
    scratch = Path(tempfile.mkdtemp(prefix="raymeta-"))  # what Tune itself writes; nobody needs it again
    tuner = tune.Tuner(
        tune.with_resources(MetaTrainable, session.slots.per_trial),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RecordASHA(record),
            num_samples=-1,  # the searcher says when it is enough
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=record.name,
            storage_path=str(scratch),
            callbacks=[Driver(record, session, progress, tracker, searcher)],
            stop=Leave(session),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            verbose=0,
        ),
    )
    try:
        with interrupts(searcher, session, progress), progress:
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _same_data(record: StudyRecord) -> None:
    dataset = open_dataset(record.plan.base.task)
    expected = record.about["data"]["fingerprint"]
    if dataset.fingerprint != expected:
        raise UserError(
            f"the study '{record.name}' was made on data with fingerprint {expected}, but {dataset.name} here has "
            f"{dataset.fingerprint}: its trials would not be comparable"
        )
