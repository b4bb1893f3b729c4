"""Final runs: configs at their full budget, all seeds in parallel, selected by validation, tested on the test split.

    <studies>/finals/<name>-<task>-<hash>/config.yaml             see folders.py
    <studies>/finals/<name>-<task>-<hash>/seed0/checkpoint.pt, result.json
    <studies>/finals/<name>-<task>-<hash>/seed0/steps.json        if asked for
    <studies>/finals/<name>-<task>-<hash>/table.json

The same command goes on from what is there; a seed that has its result is not trained again.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import NamedTuple

from raymeta.config import TrialConfig
from raymeta.errors import Interrupted, RunFailed
from raymeta.finals.folders import begin
from raymeta.finals.plan import Run, plan_runs
from raymeta.finals.results import TABLE, FinalTable, Origin, read_result
from raymeta.problems.images.reading.remote import Root
from raymeta.report.live.progress import Jobs
from raymeta.storage.files import write_atomically
from raymeta.study.machines.failures import ends_session, unwritable
from raymeta.study.machines.packing import Pack, take_slots
from raymeta.study.machines.resources import Slots, stop_ray
from raymeta.study.machines.session import Session
from raymeta.study.record.folder import refuse_unwritable
from raymeta.study.record.pulse import Pulse


class Done(NamedTuple):
    """What final runs came to.

    Attributes:
        rows: one for every config of which all seeds have been tested.
        problems: a sentence for every run that has not been: it diverged, or its worker kept dying.
        exit_code: of the command, because it was asked to leave while the last runs ended; 0: it was not.
    """

    rows: list[FinalTable]
    problems: list[str]
    exit_code: int


def final(
    configs: Mapping[str, TrialConfig],
    seeds: Sequence[int],
    *,
    slots: int | None = None,
    pack: Pack = None,
    by_step: bool = False,
    data_root: Root | None = None,
    ship_data: bool = False,
    quiet: bool = False,
    origins: Mapping[str, Origin] | None = None,
) -> Done:
    """Train and test configs with each seed, as many at a time as the machine has slots.

    Args:
        configs: by what the table calls them; their own seeds are replaced.
        seeds: seeds of the initial weights, training episodes and noise.
        slots: runs at a time; None: what the machine has.
        pack: runs per GPU; see `raymeta.study.machines.packing`.
        by_step: score every run by inner step too; see `raymeta.finals.by_step`.
        data_root: where the machines of a cluster find the data; None: they are drawn or downloaded.
        ship_data: they get this machine's packed stores instead.
        quiet: show nothing.
        origins: of configs that are rows of papers' tables, by the same names.

    Returns:
        What they came to.

    Raises:
        UserError: a config cannot be tested, or nothing can be kept where its runs are.
        RunFailed: the disk is full, or the store is away. What is there is good.
        Interrupted: the user left (Ctrl-C) before all was done.
    """
    runs, session = plan_runs(configs, seeds, by_step), Session(time.time(), quiet=quiet)
    origins = origins or {}

    def start() -> Slots:
        """Ray, and the machines of its cluster if it is one, made ready for the runs."""
        given = take_slots(slots, pack, lambda: list(configs.values()))
        from raymeta.study.machines.nodes import prepare_kernels, prepare_nodes

        for name, config in configs.items():
            begin(next(run.folder.parent for run in runs if run.name == name), config, origins.get(name))
            prepare_kernels(config)
            prepare_nodes(config.task, data_root, ship=ship_data)
            if config.task.elsewhere is not None:
                prepare_nodes(config.task.elsewhere, ship=ship_data)
        return given

    tables: list[FinalTable | None] = []
    try:
        if left := [run for run in runs if not run.tested]:
            refuse_unwritable(left[0].folder.parent.parent, "final runs")
            with redirect_stdout(sys.stderr):  # Ray speaks of dead workers on standard output
                unfinished = _work(left, session, start)
            if session.stopping and unfinished and not session.broken:
                raise Interrupted(
                    f"{unfinished} of {len(runs)} final runs are not finished; what is trained is saved",
                    session.exit_code,
                )
        if not session.broken:
            tables = [_table(name, config, runs, origins.get(name)) for name, config in configs.items()]
    except OSError as error:
        if not ends_session(error):
            raise
        session.broken = unwritable(error)
    if session.broken:
        raise RunFailed(f"{session.broken}; what is trained is safe: the same command goes on")
    return Done([table for table in tables if table is not None], session.problems, session.exit_code)


def _work(runs: Sequence[Run], session: Session, start: Callable[[], Slots]) -> int:
    """Do the runs on the machine's slots; returns how many are still to be gone on with."""
    with session.interruptible("no new rounds; the running ones finish and are saved"):
        try:
            session.take(start)
            from raymeta.study.machines.pool import Pool  # imported here: Ray's workers warm up meanwhile

            if session.slots and session.slots.why:
                session.say(session.slots.why)
            pool = Pool(runs, session)
            with Pulse(sorted({run.folder.parent for run in runs}, key=str)) as pulse:
                session.told_by(pulse)
                with Jobs(pool, session, "final runs tested") as jobs:
                    pool.run(jobs)
            return len(pool.unfinished)
        finally:
            session.ended = time.time()
            stop_ray()
    return len(runs)  # it was left before it had begun


def _table(name: str, config: TrialConfig, runs: Sequence[Run], origin: Origin | None) -> FinalTable | None:
    """A config's row, written down; None: not all of its seeds are tested."""
    own = [run for run in runs if run.name == name]
    if not all(run.tested for run in own):
        return None
    folder = own[0].folder.parent
    table = FinalTable(name, config, own[0].metric, folder, [read_result(run.folder) for run in own], origin)
    write_atomically(folder / TABLE, json.dumps(table.as_dict(), indent=1))
    return table
