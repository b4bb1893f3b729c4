"""Trials of one structure as lanes of one program, against as many trainers one after the other.

    uv run python benchmarks/lanes.py
    uv run python benchmarks/lanes.py --lanes 1 8 --hidden 80 80 80 --tasks 25

Sinusoids (10-shot, MAML in second order, 5 inner steps, 4 tasks), one process, one thread. Each row takes turns: the
separate trainers do `--steps` outer steps each, then the lanes do the same; the columns are processor time for an outer
step of one trial, so that a busy machine does no harm, and their ratio is of the medians of `--rounds` turns. `state`
is how far the weights of the two are apart after all of it, relative to the size of the change.
"""

import argparse
import statistics
import time
from collections.abc import Callable

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--method", default="maml")
    parser.add_argument("--hidden", type=int, nargs="+", default=[40, 40])
    parser.add_argument("--tasks", type=int, default=4, help="of an outer step")
    parser.add_argument("--steps", type=int, default=10, help="outer steps of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| lanes | separate trainers | lanes | ratio | state |\n| --: | --: | --: | --: | --: |")
    for count in options.lanes:
        print(row(count, options), flush=True)


if __name__ == "__main__":
    main()
