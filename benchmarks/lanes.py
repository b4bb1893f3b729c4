"""Trials of one structure as lanes of one program, against as many trainers one after the other.

    uv run python benchmarks/lanes.py
    uv run python benchmarks/lanes.py --lanes 1 8 --hidden 80 80 80 --tasks 25
    uv run python benchmarks/lanes.py --waiting 32   # what trials cost until the first of them computes
    uv run python benchmarks/lanes.py --search       # whole searches: as lanes, as processes, as lanes again
    uv run python benchmarks/lanes.py --search --tasks 25 --trials 100

Sinusoids (10-shot, MAML in second order, 5 inner steps, 4 tasks), one process, one thread. Each row takes turns: the
separate trainers do `--steps` outer steps each, then the lanes do the same; the columns are processor time for an outer
step of one trial, so that a busy machine does no harm, and their ratio is of the medians of `--rounds` turns. `state`
is how far the weights of the two are apart after all of it, relative to the size of the change.

`--waiting`: so many trials as processes of their own, which have imported what computes a trial, and as trials of two
fleets. Processor time and memory (the share of each page that is a process's own) are those of all of Ray's workers.

`--search`: MAML with DropGrad on sinusoids, seven searched keys, on two slots, each search in a folder of its own.
Times are from the start of the command until all trials have ended, without the finalists that follow; processor time
is that of all its processes, Ray's and MLflow's too. The ratios are to processes; the best is that on fresh tasks.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raymeta.config import parse_trial
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer


def trainers(count: int, options: argparse.Namespace) -> list[Trainer]:
    """Trials that differ in their numbers and seeds."""
    common = {
        "method": options.method,
        "task": {"problem": "sinusoid"},
        "model": {"name": "mlp", "hidden": options.hidden},
        "engine": {"device": "cpu"},
    }
    return [
        Trainer(
            parse_trial(
                {
                    **common,
                    options.method: {"inner_lr": 0.01 * (1 + 0.1 * number), "inner_steps": 5},
                    "outer": {"lr": 1e-3, "tasks_per_step": options.tasks},
                    "seed": number,
                }
            )
        )
        for number in range(count)
    ]


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def row(count: int, options: argparse.Namespace) -> str:
    """One line of the table."""
    single, together = trainers(count, options), trainers(count, options)
    start = torch.cat([tensor.flatten() for one in single for tensor in one.learner.state_dict().values()])
    lanes = Lanes(together[0], count)
    for one in together:
        lanes.join(one)

    def apart() -> None:
        for one in single:
            for _ in range(options.steps):
                one.outer_update()

    def beside() -> None:
        for _ in range(options.steps):
            lanes.step(range(count))

    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(options.rounds + 1):
        for seconds, work in zip(taken, (apart, beside), strict=True):
            spent = timed(work)
            if turn:  # the first warms up
                seconds.append(spent / options.steps / count)
    alone, beside_ms = (1e3 * statistics.median(seconds) for seconds in taken)
    now, then = (
        torch.cat([tensor.flatten() for one in many for tensor in one.learner.state_dict().values()])
        for many in (together, single)
    )
    off = float((now - then).norm() / (then - start).norm())
    return f"| {count} | {alone:.2f} ms | {beside_ms:.2f} ms | {alone / beside_ms:.2f}x | {off:.0e} |"


class Waiting:
    """A trial's own process as it starts."""

    def __init__(self) -> None:
        import raymeta.trainable  # noqa: F401

    def here(self) -> None:
        """It has started."""


def cost(title: str) -> tuple[float, float]:
    """Processor time in seconds and memory in MB of the workers of Ray of a name, from outside."""
    seconds = memory = 0.0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if title in (place / "cmdline").read_text():
                kib = re.search(r"^Pss: +(\d+) kB", (place / "smaps_rollup").read_text(), re.MULTILINE)
                user, system = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
                seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
                memory += int(kib[1]) * 1024 / 1e6 if kib else 0
        except OSError:
            continue
    return seconds, memory


def waiting(count: int) -> None:
    """Print the table of trials that wait."""
    import ray

    from raymeta.study.machines.fleet.fleets import Fleets
    from raymeta.study.machines.fleet.seats import Seat
    from raymeta.study.machines.resources import Slots, start_ray, stop_ray

    def processes() -> tuple[str, list[Any]]:
        actors = [ray.remote(num_cpus=0)(Waiting).remote() for _ in range(count)]
        ray.get([one.here.remote() for one in actors])
        return "ray::Waiting", actors

    def fleets() -> tuple[str, list[Any]]:
        both = Fleets(Slots(2, 1.0, 0.0), -(-count // 2))
        both.start()
        seats = [Seat(both, {"study": {"trial": number}}) for number in range(count)]
        ray.get([one.__ray_ready__.remote() for one in seats])
        both.wait()
        return "ray::Fleet", [both, seats]

    print(f"| {count} trials | until they are there | processor time | memory |\n| --- | --: | --: | --: |")
    for name, made in (("as processes", processes), ("of two fleets", fleets)):
        start_ray(2, preload="")
        start = time.perf_counter()
        title, kept = made()
        wall = time.perf_counter() - start
        seconds, memory = cost(title)
        print(f"| {name} | {wall:.1f} s | {seconds:.1f} s | {memory:,.0f} MB |", flush=True)
        del kept
        stop_ray()


class Searched(NamedTuple):
    """A search whose trials have ended: after so many seconds, with so much processor time."""

    wall: float
    processor: float
    trials: int
    steps: int
    best: str


def searched(lanes: str, options: argparse.Namespace) -> Searched:
    """Run a search with `engine.lanes` to its end, from the command line."""
    from raymeta.report.tables import fresh
    from raymeta.study.record.finalists import standings
    from raymeta.study.record.record import StudyRecord

    every = options.budget // 9
    words = [
        *("maml+dropgrad", "--task", "sinusoid-10s", "maml.inner_steps=3,5", f"outer.tasks_per_step={options.tasks}"),
        *(f"budget.outer_steps={options.budget}", f"budget.validate_every={every}", f"study.first_rung={every}"),
        *("budget.validation_tasks=100", f"study.trials={options.trials}", f"engine.lanes={lanes}", "--slots", "2"),
    ]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+") as said:
        start, used = time.time(), [(time.time(), 0.0)]
        command = [Path(sys.executable).with_name("raymeta"), "search", *words, "--name", "one", "--json"]
        search = subprocess.Popen(command, env=os.environ | {"RAYMETA_STUDIES": folder}, stdout=said, stderr=said)
        seen: dict[tuple[str, str], float] = {}  # by process and when it started; those that have ended count, too
        while search.poll() is None:
            seen |= processor_times(f"RAYMETA_STUDIES={folder}".encode())
            used.append((time.time(), sum(seen.values())))
            time.sleep(0.2)
        if search.returncode:
            raise SystemExit((Path(folder) / "said").read_text())
        record = StudyRecord.load(Path(folder) / "one")
        trials = record.trials()
        end = max(entry["at"] for trial in trials for entry in trial.rounds)
        processor = next((seconds for when, seconds in used if when >= end), used[-1][1])
        standing = standings(record)
        best = fresh(standing.best, record.metric) if standing and standing.best else "-"
        return Searched(end - start, processor, len(trials), sum(trial.outer_steps for trial in trials), best)


def processor_times(mark: bytes) -> dict[tuple[str, str], float]:
    """Seconds of each process whose environment has a variable."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                after_name = (place / "stat").read_text().rpartition(")")[2].split()
                ticks = int(after_name[11]) + int(after_name[12])
                found[place.name, after_name[19]] = ticks / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return found


def searches(options: argparse.Namespace) -> None:
    """Print the table of searches."""
    rows: list[tuple[str, Searched]] = []
    for lanes in ("16", "off", "16"):
        rows.append((lanes, searched(lanes, options)))
        print(f"engine.lanes={lanes}: {rows[-1][1]}", file=sys.stderr, flush=True)
    other = rows[1][1]
    print("| engine.lanes | all trials ended after | processor time | trials an hour | outer steps | best |")
    print("| --- | --: | --: | --: | --: | --: |")
    for lanes, one in rows:
        ratio = other.wall / other.trials * one.trials / one.wall
        print(
            f"| {lanes} | {one.wall:.0f} s | {one.processor:.0f} s ({other.processor / one.processor:.2f}x) | "
            f"{3600 * one.trials / one.wall:,.0f} ({ratio:.2f}x) | {one.steps:,} | {one.best} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--method", default="maml")
    parser.add_argument("--hidden", type=int, nargs="+", default=[40, 40])
    parser.add_argument("--tasks", type=int, default=4, help="of an outer step")
    parser.add_argument("--steps", type=int, default=10, help="outer steps of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--search", action="store_true", help="whole searches")
    parser.add_argument("--trials", type=int, default=200, help="of a search")
    parser.add_argument("--budget", type=int, default=900, help="outer steps of a whole trial of a search")
    parser.add_argument("--waiting", type=int, metavar="N", help="what N trials cost that wait")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.waiting:
        waiting(options.waiting)
        return
    if options.search:
        searches(options)
        return
    print("| lanes | separate trainers | lanes | ratio | state |\n| --: | --: | --: | --: | --: |")
    for count in options.lanes:
        print(row(count, options), flush=True)


if __name__ == "__main__":
    main()
