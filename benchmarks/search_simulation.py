"""Searches simulated on recorded trainings: which sampler and which scheduler find most at equal compute?

    uv run python benchmarks/search_table.py record sinusoid     # first: see there
    uv run python benchmarks/search_simulation.py                # goes on where it stopped; minutes on one core
    uv run python benchmarks/search_simulation.py --only-table

Four workers search a table asynchronously; a trial's rounds take the processor time that they took when they were
recorded. Proposals are raymeta's own (`raymeta/study/record/proposals.py`) or another sampler's, moved to the nearest
row of the table that was not taken yet; trials are cut by raymeta's own ASHA (`Stopping`) or another rule. What a
search would return after so much compute, in trainings of mean length, is judged by the test scores of the same config
trained with another seed; what was not judged is left to the training that the search saw.

- regret: 0 is the best config of the table, 1 its median;
- the rule for a default: each problem is judged with what the others choose; one setting must be chosen by all and be
  better than the default by more than its interval on every problem;
- the second rule: over all problems together better by more than its interval, on none worse by more than its interval.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from simulated.problems import PROBLEMS, SEARCH_SEED
from simulated.results import Results, load, offered, table, verdict
from simulated.search import BUDGETS, STOPPING, as_row, simulate
from simulated.settings import SETTINGS
from simulated.table import Judge, Table, checksum, default_folder


def run(name: str, tables: dict[str, Table], out: Path, options: argparse.Namespace) -> None:
    """Simulate what is not there yet."""
    until = len([budget for budget in BUDGETS if budget <= options.most])
    done = {(line["setting"], line["seed"]) for line in load(out) if len(line["rows"]) >= until}
    others = [table for other, table in tables.items() if other != name]
    for setting in SETTINGS:
        wanted = not options.settings or any(part in str(setting) for part in options.settings)
        if not wanted or (setting.warm and not others):
            continue
        left = [seed for seed in range(options.seeds) if (str(setting), seed) not in done]
        start = time.process_time()
        for seed in left:
            found = simulate(tables[name], setting, seed, options.workers, others, options.most)
            with out.open("a") as file:
                file.write(json.dumps({"setting": str(setting), "seed": seed, **as_row(found)}) + "\n")
        if left:
            taken = (time.process_time() - start) / len(left)
            print(f"{name}: {setting}: {len(left)} searches, {taken:.2f} s each", flush=True)


def judge_of(folder: Path) -> tuple[Judge, str]:
    """Who judges: the other seed where all rows have it."""
    other = Judge.load(folder)
    own = Judge.load(folder, SEARCH_SEED)
    trained = np.isfinite(other.mean).sum() / max(np.isfinite(own.mean).sum(), 1)
    return (other, "another seed") if trained > 0.9 else (own, "the search's own seed")


def report(tables: dict[str, Table], folder: Path, outs: dict[str, Path], default: str) -> None:
    """Print the tables and what the rules say."""
    found = {}
    for name in tables:
        if not (lines := load(outs[name])):
            continue
        judge, who = judge_of(folder / name)
        found[name] = Results.of(lines, judge, tables[name].metric)
        text = tables[name].metric.text
        sum_of = checksum(folder / name)
        print(f"\n### {name}: {len(tables[name].points)} configs, judged by {who}, checksum {sum_of}\n")
        print(f"Best {text(found[name].best)}, median {text(found[name].middle)}.\n")
        print("\n".join(table(found[name], default)))
    print("\n### The rule\n")
    print("\n".join([*verdict(found, default), *offered(found, default)]))


def main() -> None:
    """Simulate what is not there yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="of the tables")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--settings", nargs="+", help="only those with one of these in their names")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--most", type=int, choices=BUDGETS, default=BUDGETS[-1], help="compute, in full trainings")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument(
        "--default",
        choices=[str(setting) for setting in SETTINGS],
        default=str(STOPPING),
        metavar="SETTING",
        help="what all are compared with",
    )
    options = parser.parse_args()
    there = [name for name in options.problems if any((options.folder / name / "rows").glob(f"*-{SEARCH_SEED}.npz"))]
    if not there:
        raise SystemExit(f"no table in {options.folder}: record one with benchmarks/search_table.py")
    tables = {name: Table.load(options.folder / name) for name in there}
    outs = {}
    for name in there:
        state = f"{len(tables[name].points)}-{options.workers}"
        outs[name] = options.folder / name / f"simulated-{state}.jsonl"
        if not options.only_table:
            run(name, tables, outs[name], options)
    report(tables, options.folder, outs, options.default)


if __name__ == "__main__":
    main()
