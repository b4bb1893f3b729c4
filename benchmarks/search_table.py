"""A table to simulate searches on: hundreds of configs of a problem's own search space, each trained at full budget.

    uv run python benchmarks/search_table.py record sinusoid     # goes on where it stopped
    uv run python benchmarks/search_table.py record sinusoid --judge
    uv run python benchmarks/search_table.py show                # what there is, with each table's checksum
    uv run python benchmarks/search_table.py sample sinusoid --rows 24 --to sample.npz

A row is a config: the space's starting points come first, then a scrambled Sobol sequence. Of each training there are
the validation scores at every rung, task by task (all rows are scored on the same tasks), processor seconds, and scores
of its best weights on fresh validation tasks, as finalists have them. Test scores lie in a folder of their own,
`closed`, which a simulated search does not open. `--judge` trains every row with another seed: by its test scores the
simulation judges what a search found, so that a lucky seed is found out.

Rows are files in the cache, whole or not there. The sinusoid's are computed as lanes of one program.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from simulated.problems import JUDGE_SEED, PROBLEMS, SEARCH_SEED
from simulated.recording import groups, train
from simulated.table import Judge, Table, checksum, default_folder, row_file, sample, write


def record(name: str, folder: Path, rows: int, seed: int, seconds: float) -> None:
    """Train the rows that are not there yet, for so many seconds of processor time."""
    problem, start = PROBLEMS[name], time.process_time()
    points = problem.configs(rows)
    left = [row for row in range(rows) if not row_file(folder / "closed", row, seed).exists()]
    print(f"{name}, seed {seed}: {rows - len(left)} of {rows} rows are there", flush=True)
    done = 0
    for together in groups(problem, points, left):
        if time.process_time() - start > seconds:
            break
        for row, (read, closed) in zip(together, train(problem, [points[n] for n in together], seed), strict=True):
            write(row_file(folder / "rows", row, seed), read)
            write(row_file(folder / "closed", row, seed), closed)  # last: it says that the row is whole
        done += len(together)
        spent = time.process_time() - start
        print(f"{done} of {len(left)} rows, {spent:.0f} s, {spent / done:.2f} s a row", flush=True)


def show(name: str, folder: Path) -> None:
    """A line on a problem's table."""
    table, judge = Table.load(folder), Judge.load(folder)
    metric = PROBLEMS[name].plan.space and table.metric
    ends = table.validation[:, -1].mean(-1)
    judged = judge.mean[np.isfinite(judge.mean)]
    pick = np.nanmax if metric.mode == "max" else np.nanmin
    print(
        f"{name}: {len(table.points)} configs, {len(judged)} of them judged with another seed; {metric.name} at the "
        f"end: best {metric.text(pick(ends))}, median {metric.text(float(np.nanmedian(ends)))}; a training takes "
        f"{table.seconds[:, -1].mean():.1f} s; checksum {checksum(folder)}"
    )


def main() -> None:
    """Record, show or sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["record", "show", "sample"])
    parser.add_argument("problem", nargs="?", choices=list(PROBLEMS))
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--rows", type=int, help="by default the problem's")
    parser.add_argument("--judge", action="store_true", help="with the judge's seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of processor time; it goes on later")
    parser.add_argument("--to", type=Path, default=Path("sample.npz"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.verb == "show":
        for name in [options.problem] if options.problem else PROBLEMS:
            if (options.folder / name / "rows").is_dir():
                show(name, options.folder / name)
        return
    if not options.problem:
        parser.error("name a problem")
    folder, rows = options.folder / options.problem, options.rows or PROBLEMS[options.problem].rows
    if options.verb == "sample":
        sample(folder, rows, options.to)
    else:
        seed = JUDGE_SEED if options.judge else SEARCH_SEED
        record(options.problem, folder, rows, seed, options.seconds)


if __name__ == "__main__":
    main()
