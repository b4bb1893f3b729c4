"""Ray Tune's Tuner around the record of a study. Ray is running."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import tune

from raymeta.report.live.progress import Progress
from raymeta.study.machines.fleet.fleets import Fleets
from raymeta.study.machines.fleet.seats import FleetTrial, seated
from raymeta.study.machines.ray_patches import TUNE, patched
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.driver import Driver, Leave
from raymeta.study.run.halving import end_waiting, scheduler_of
from raymeta.study.run.searcher import RecordSearcher
from raymeta.study.run.tracker import Tracker
from raymeta.trainable import MetaTrainable
from raymeta.training.lanes import lanes_of


def tune_study(record: StudyRecord, session: Session, progress: Progress, tracker: Tracker) -> None:
    """Run the trials that a study lacks on the slots of a session, until they are done or the user leaves."""
    assert session.slots is not None
    left = [trial for trial in record.trials() if trial.state == "running"]
    fleets = None
    if lanes := lanes_of(record.plan.base, gpu=bool(session.slots.gpu)):
        fleets = Fleets(session.slots, lanes)
        fleets.start()
        session.say(f"trials are lanes: up to {lanes} of a structure in one program, on each of {session.slots.count}")
    count, per_trial = (fleets.count, fleets.per_trial) if fleets else (session.slots.count, session.slots.per_trial)
    searcher = RecordSearcher(record, left, session, fleets)
    scratch = Path(tempfile.mkdtemp(prefix="raymeta-"))  # what Tune itself writes; nobody needs it again
    tuner = tune.Tuner(
        tune.with_resources(FleetTrial if fleets else MetaTrainable, per_trial),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler_of(record),
            num_samples=-1,  # the searcher says when it is enough
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=record.name,
            storage_path=str(scratch),
            callbacks=[Driver(record, session, progress, tracker, searcher)],
            stop=Leave(session),
            failure_config=tune.FailureConfig(max_failures=0),  # the driver hands failed trials out again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # to `scratch`, which other hosts lack
            verbose=0,
        ),
    )
    try:
        patches = [*TUNE, *seated(fleets)] if fleets else TUNE
        with patched(patches), _settings(count), progress:
            tuner.fit()
        for number in end_waiting(record):
            tracker.update(number)
    finally:
        if fleets:
            fleets.stop()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _settings(slots: int) -> Iterator[None]:
    """What Tune takes from the environment and the log, for this study only."""
    name, log = "TUNE_MAX_PENDING_TRIALS_PG", logging.getLogger("ray.tune.tune")
    level, before = log.level, os.environ.get(name)
    log.setLevel(logging.CRITICAL)  # or it lists trials that have long gone on elsewhere
    os.environ[name] = before or str(slots)  # it starts one actor at a time unless told how many may be on their way
    try:
        yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ[name]
