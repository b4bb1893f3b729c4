"""Ray Tune's Tuner around the record of a study. Ray is running."""

import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air._internal import usage
from ray.tune import registry
from ray.tune.execution.class_cache import _ActorClassCache
from ray.tune.experiment import trial as tune_trial
from ray.tune.trainable.metadata import _TrainingRunMetadata

from raymeta.report.progress import Progress
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.driver import Driver, Leave, interrupts
from raymeta.study.run.searcher import RecordASHA, RecordSearcher
from raymeta.study.tracking.tracker import Tracker
from raymeta.trainable import MetaTrainable


def tune_study(record: StudyRecord, session: Session, progress: Progress, tracker: Tracker) -> None:
    """Run the trials that a study lacks on the slots of a session, until they are done or the user leaves."""
    assert session.slots is not None
    _take_warm_workers()
    _spare_the_driver()
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # or it lists trials that have long gone on elsewhere
    # Tune starts one actor at a time unless told how many may be on their way.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(session.slots.count))
    left = [trial for trial in record.trials() if trial.state == "running"]
    searcher = RecordSearcher(record, left, session.slots)
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
            failure_config=tune.FailureConfig(max_failures=0),  # the driver hands failed trials out again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # to `scratch`, which other hosts lack
            verbose=0,
        ),
    )
    try:
        with interrupts(searcher, session, progress), progress:
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_warm_workers() -> None:
    """Let trials start in the workers that Ray starts ahead, which have imported what a trial needs.

    Tune asks for an environment of its own for every actor (a setting for PyTorch Lightning), and a worker that was
    started without it would not do.
    """

    def get(cache: Any, trainable: type) -> Any:
        if trainable not in cache._cache:
            cache._cache[trainable] = ray.remote(trainable)
        return cache._cache[trainable]

    _ActorClassCache.get = get


def _spare_the_driver() -> None:
    """Leave out what Tune does at a cost that nothing here needs.

    It imports MLflow to count, for Ray's statistics, how many of its own callbacks are used; for every trial it fetches
    the trainable's class from the cluster's store and unpickles it, several times; and it keeps running means of every
    number of every result, of the config too: some 50 KB a trial.
    """
    usage.tag_callbacks = lambda callbacks: False
    tune_trial.get_trainable_cls = cache(registry.get_trainable_cls)
    _TrainingRunMetadata.update_metric = lambda *metric, **step: None
