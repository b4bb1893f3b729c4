"""Thousands of very short trials on one driver: trials per second, and how the driver's memory grows.

    uv run python benchmarks/many_trials.py                  # 2,000 trials, two to four minutes on two cores
    uv run python benchmarks/many_trials.py --trials 300     # a shorter look
    uv run --with py-spy py-spy record -t -f raw -o profile.txt -- python benchmarks/many_trials.py   # where time goes

The engine is the real one, with Optuna, ASHA, checkpoints and MLflow's embedded database. A trial is as short as the
schema allows (one outer step of a network of eight units, a validation of two tasks: about 5 ms), so that what is timed
is what the engine itself costs. The last row ends when MLflow has everything.

- trials/s: of the trials since the row before it;
- CPU ms/trial: the driver's processor time, all its threads; other programs disturb it less than the clock;
- memory: the driver's proportional set size (its own pages and its share of the shared ones), Linux.
"""

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from raymeta.problem import open_problem
from raymeta.study.plan.plan import make_plan
from raymeta.study.record.record import StudyRecord

SHORTEST = (
    "task.queries=1",
    "task.eval_queries=1",
    "model.hidden=[8]",
    "maml.order=first",
    "maml.inner_steps=1",
    "outer.tasks_per_step=1",
    "budget.outer_steps=1",
    "budget.validate_every=1",
    "budget.validation_tasks=2",
    "study.first_rung=1",
    "study.finalists=0",
)


@dataclass(frozen=True)
class Sample:
    """The driver at some moment: `trials` have written their checkpoint."""

    trials: int
    at: float
    cpu_s: float
    memory_mb: float


def sample(trials: int) -> Sample:
    """This process now."""
    kib = re.search(r"^Pss: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert kib
    return Sample(trials, time.perf_counter(), time.process_time(), int(kib[1]) * 1024 / 1e6)


class Watch(threading.Thread):
    """Takes a sample whenever the study has reached so many trials."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.every = folder, every
        self.samples = [sample(0)]

    def run(self) -> None:
        while True:
            trials = len(os.listdir(self.folder)) if self.folder.exists() else 0
            if trials >= (len(self.samples)) * self.every:
                self.samples.append(sample(trials))
                print(f"{trials} trials", file=sys.stderr, flush=True)
            time.sleep(0.2)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200, help="Trials between two rows.")
    parser.add_argument("--slots", type=int, help="Trials at a time; by default one per core.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymeta-many-") as folder:
        os.environ["RAYMETA_STUDIES"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        measure(Path(folder) / "many", options.trials, options.every, options.slots)


def measure(folder: Path, trials: int, every: int, slots: int | None) -> None:
    """Run the study and print its table."""
    from raymeta.study.run.driving import How, drive
    from raymeta.study.tracking.connection import connect

    plan = make_plan("maml", "sinusoid-1s", words=[*SHORTEST, f"study.trials={trials}"])
    problem = open_problem(plan.base.task)
    record = StudyRecord.create(folder, plan, problem.metric, problem.fingerprint)
    watch = Watch(folder / "trials", every)
    watch.start()
    session = drive(record, How(slots, 1, quiet=True), time.time())
    end = sample(trials)
    ended = sum(trial.state != "running" for trial in record.trials())
    tracked = runs(connect(), folder.name)
    print(f"{ended} trials ended in {session.wall_s:.1f} s on {session.slots}: {ended / session.wall_s:.1f} trials/s")
    print(f"MLflow has {tracked - 1} of their runs" + (f": {session.untracked}" if session.untracked else ""))
    print("| trials | s | trials/s | CPU ms/trial | driver memory (MB) |")
    print("| --- | --- | --- | --- | --- |")
    first = watch.samples[0]
    for before, now in zip(watch.samples, [*watch.samples[1:], end], strict=True):
        done, took = now.trials - before.trials, now.at - before.at
        each = (f"{done / took:.1f}", f"{1000 * (now.cpu_s - before.cpu_s) / done:.1f}") if done else ("-", "-")
        print(f"| {now.trials} | {now.at - first.at:.0f} | {each[0]} | {each[1]} | {now.memory_mb:.0f} |")


def runs(client: object, experiment: str) -> int:
    """MLflow's runs of an experiment that have ended, the parent among them."""
    found = client.get_experiment_by_name(experiment)  # type: ignore[attr-defined]
    query = "attributes.status != 'RUNNING'"
    return len(client.search_runs([found.experiment_id], query, max_results=50_000))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
