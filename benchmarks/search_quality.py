"""How good is what a search finds, at equal compute? raymeta's and what people would use instead, on real trainings.

    uv run --group bench python benchmarks/search_quality.py                # hours; goes on where it stopped
    uv run --group bench python benchmarks/search_quality.py --only-table   # of what there is so far

The problems `sinusoid` and `glyphs` of `simulated/problems.py`, where nothing of a search is simulated. All have the
same space, starting points (but random search), rungs and validation tasks, and two trials at a time, each in a process
with one thread. A search ends when its trials together have done as many outer steps as six full trainings; the
processor time of all its processes is stated beside. What it had found at 1/4, at 1/2 and at its end is trained anew at
full budget with fresh seeds and scored on fresh validation tasks, never on test tasks: a search that believes in lucky
validations is found out.

- random: random proposals, no starting points, every trial at full budget;
- stock Ray: OptunaSearch (which proposes by Optuna's default, multivariate TPE) and ASHAScheduler, by Ray Tune as in
  `stock_ray.py`, but with reused actors and without loggers, which makes it faster and proposes the same;
- TPE+promoting ASHA: raymeta's default; TPE+ASHA: the same with `study.halving=stopping`, the default until this check.
  Neither scores finalists, nor gets so far that the un-regularized start is sent to the end;
- Syne Tune: conformal quantile regression and its ASHA; SMAC: its multi-fidelity facade. Both are asked and told.

Ray's best is the trial with the best last score, as it says itself; of the others it is, of the trials that reached the
highest rung, the one with the best validation. Every search and every training leaves a JSON file in the folder, which
is not made again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from quality.arms import ARMS, CHECKED
from quality.found import Search, anew, incumbent
from quality.processes import measured
from quality.result import draw, table
from simulated.problems import TableProblem

from raymeta.problem import open_problem
from raymeta.storage.files import write_atomically

FULL_TRAININGS = 6
SHARES = (0.25, 0.5, 1.0)


def search(problem: TableProblem, method: str, seed: int, options: argparse.Namespace) -> None:
    """Search in this process and write down every round, in a folder that is the search's own."""
    arm, limit = ARMS[method], int(options.trainings * problem.points[-1])
    plan = arm.plan(problem, seed)
    if arm.system == "raymeta":
        from quality.engines import by_raymeta

        by_raymeta(plan, limit, options.slots, options.rounds)
    elif arm.system == "Ray":
        from quality.engines import by_ray

        by_ray(plan, limit, options.slots, options.rounds)
    else:
        from quality.asked import by_asking

        by_asking(arm, plan, limit, options.slots, options.rounds)


def report(problems: dict[str, TableProblem], options: argparse.Namespace) -> None:
    """Train anew what the searches found; print the tables and draw the picture."""
    results = {}
    for name, problem in problems.items():
        folder = options.folder / name
        found = [Search(**json.loads(path.read_text())) for path in sorted(folder.glob("search-*.json"))]
        metric = open_problem(problem.plan.base.task).metric
        points = []
        for one in found:
            rungs = ARMS[one.method].plan(problem, 0).rungs
            for share in options.shares:
                rounds = one.until(share * options.trainings * problem.points[-1])
                if (point := incumbent(one.method, rounds, rungs, metric)) is None:
                    raise SystemExit(f"{name}, {one.method}, seed {one.seed}: nothing was validated at {share:g}")
                points.append(point)
        scores = anew(problem, points, options.fresh, options.slots, folder)
        width = len(options.shares)
        for number, one in enumerate(found):
            one.scores = scores[number * width : (number + 1) * width]
        unit = f"{metric.name}, 95 % intervals over searches"
        print(f"\n### {name}: {options.trainings:g} x {problem.points[-1]} outer steps a search; {unit}\n")
        print("\n".join(table(problem, metric, found, options.shares)))
        results[name] = metric, found
    draw(results, options.shares, options.picture)


def main() -> None:
    """Search what was not searched yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("studies/search_quality"))
    parser.add_argument("--problems", nargs="+", choices=list(CHECKED), default=list(CHECKED))
    parser.add_argument("--methods", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--fresh", type=int, default=2, help="fresh seeds of each training anew")
    parser.add_argument("--shorter", type=int, default=1, help="full budgets are so many times shorter")
    parser.add_argument("--trainings", type=float, default=FULL_TRAININGS, help="compute of a search, in full budgets")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of it at which is looked")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/search_quality.png"))
    parser.add_argument("--only-table", action="store_true", help="search no more")
    parser.add_argument("--one", nargs=3, metavar=("PROBLEM", "METHOD", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    problems = {name: CHECKED[name].shorter(options.shorter) for name in options.problems}
    if options.one:
        name, method, seed = options.one
        search(problems[name], method, int(seed), options)
        return
    for problem in problems.values():
        open_problem(problem.plan.base.task).prepare()
    wanted = [(seed, name, method) for seed in range(options.seeds) for name in problems for method in options.methods]
    for number, (seed, name, method) in enumerate([] if options.only_table else wanted, 1):
        path = options.folder / name / f"search-{method.replace(' ', '-')}-{seed}.json"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{time.strftime('%H:%M:%S')} {number} of {len(wanted)}: {name}, {method}, seed {seed}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="raymeta-quality-", ignore_cleanup_errors=True) as own:
            rounds = Path(own) / "rounds.json"
            command = [sys.executable, *sys.argv, "--one", name, method, str(seed), "--rounds", str(rounds)]
            said, seconds = measured(command)
            if not rounds.exists():
                raise SystemExit(f"{name}, {method}, seed {seed} failed:\n{said[-5000:]}")
            found = {"method": method, "seed": seed, "seconds": seconds, "rounds": json.loads(rounds.read_text())}
            write_atomically(path, json.dumps(found))
    report(problems, options)


if __name__ == "__main__":
    main()
