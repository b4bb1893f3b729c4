"""How good is what a search finds, at equal compute? Five ways to search, on real trials, several seeds each.

    uv run python benchmarks/search_quality.py                # about 25 minutes on two cores; goes on where it stopped
    uv run python benchmarks/search_quality.py --only-table   # of what there is so far

MAML with DropGrad on sinusoid regression (5 shots, first order, 540 outer steps, rungs at 20, 60, 180 and 540), the
seven keys of their search space, no starting points. A search ends when its trials together have done as many outer
steps as 12 full trainings. What it had found at half of that and at its end is then trained anew at full budget with
fresh seeds and scored on fresh validation episodes (never on the test split): a search that believes in lucky
validations is found out. The engines are the real ones: stock Ray Tune as in `stock_ray.py`, but with reused actors and
without loggers, which makes it faster and proposes the same; raymeta for the rest.

- random: random proposals, every trial at full budget;
- stock Ray: OptunaSearch (which proposes by Optuna's default, multivariate TPE) and ASHAScheduler;
- random+ASHA, TPE+ASHA (univariate; what raymeta does), multivariate TPE+ASHA: raymeta's engine with these proposals.

raymeta's best is the best of those that reached the highest rung, Ray's the one with the best last score, as each of
the two says itself. Every search and every training leaves a JSON file in the folder, which is not made again.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from raymeta.problem import open_problem
from raymeta.storage.files import write_atomically
from raymeta.study.plan.plan import Plan, make_plan
from raymeta.study.plan.space import Point, Space

METHODS = ("random", "stock Ray", "random+ASHA", "TPE+ASHA", "multivariate TPE+ASHA")
STEPS, FULL_TRAININGS = 540, 12
FRESH_BANK, FRESH_TASKS = 77_001, 400
SETTINGS = (
    "outer.tasks_per_step=4",
    "maml.order=first",
    "budget.validate_every=20",
    "budget.validation_tasks=100",
    "study.first_rung=20",
)


def plan_of(method: str, seed: int, steps: int) -> Plan:
    """The study of a method; the number of its trials is no limit."""
    words = [*SETTINGS, f"budget.outer_steps={steps}", f"study.seed={seed}", "study.trials=1000"]
    if method.startswith("random"):
        words.append("study.startup_trials=1000")
    if method == "random":
        words.append(f"study.first_rung={steps}")
    plan = make_plan("maml+dropgrad", "sinusoid-5s", words=words)
    return replace(plan, space=Space(plan.space.params, [], []))


# Searching


def search_ours(method: str, plan: Plan, limit: int, slots: int) -> list[dict[str, Any]]:
    """Rounds of a search with raymeta's engine, in order of time."""
    import optuna

    from raymeta.study.plan.layers import StudyConfig
    from raymeta.study.record.proposals import seed_of
    from raymeta.study.record.record import StudyRecord
    from raymeta.study.run.driving import How, drive

    class Multivariate(StudyRecord):
        @staticmethod
        def sampler_of(study: StudyConfig, name: str) -> optuna.samplers.BaseSampler:
            return optuna.samplers.TPESampler(
                seed=seed_of(name.rsplit("/", 1)[0]),  # all values of a trial are drawn together
                n_startup_trials=study.startup_trials,
                multivariate=True,
                constant_liar=True,
            )

    kind = Multivariate if method.startswith("multivariate") else StudyRecord
    problem = open_problem(plan.base.task)
    with tempfile.TemporaryDirectory(prefix="raymeta-quality-") as folder:
        os.environ["RAYMETA_STUDIES"] = folder
        record = kind.create(Path(folder) / "study", plan, problem.metric, problem.fingerprint)

        def watch() -> None:
            while sum(trial.outer_steps for trial in record.trials()) < limit:
                time.sleep(0.2)
            for _ in range(2):  # as a user who presses Ctrl-C twice: leave now
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

        threading.Thread(target=watch, daemon=True).start()
        drive(record, How(slots, 1, quiet=True), time.time())
        rounds = [
            {
                "at": entry["at"],
                "trial": trial.number,
                "steps": entry["outer_steps"],
                "value": entry.get(f"val_{record.metric.name}"),
                "point": trial.point,
            }
            for trial in record.trials()
            for entry in trial.rounds
        ]
    return sorted(rounds, key=lambda entry: entry["at"])


def search_stock(plan: Plan, limit: int, slots: int) -> list[dict[str, Any]]:
    """Rounds of a search with stock Ray Tune, in order of time."""
    import ray
    from ray import tune
    from stock_ray import fit

    class Rounds(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rounds: list[dict[str, Any]] = []

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            value = None if result["diverged"] else result["val_mse"]
            steps, point = result["outer_steps"], dict(trial.config)
            self.rounds.append({"trial": trial.trial_id, "steps": steps, "value": value, "point": point})

    class Limit(tune.Stopper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.done: dict[str, int] = {}

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.done[trial_id] = result["outer_steps"]
            return False

        def stop_all(self) -> bool:
            return sum(self.done.values()) >= limit

    callback = Rounds()
    with tempfile.TemporaryDirectory(prefix="raymeta-quality-") as folder:
        fit(plan, slots, Path(folder), [callback], reuse=True, stop=Limit(), verbose=0)
    ray.shutdown()
    return callback.rounds


def search(method: str, seed: int, steps: int, trainings: float, slots: int, path: Path) -> None:
    """Search in this process and write down every round."""
    start, plan, limit = time.time(), plan_of(method, seed, steps), int(trainings * steps)
    stock = method == "stock Ray"
    rounds = search_stock(plan, limit, slots) if stock else search_ours(method, plan, limit, slots)
    write_atomically(path, json.dumps({"method": method, "seed": seed, "s": time.time() - start, "rounds": rounds}))


def until(rounds: list[dict[str, Any]], limit: float) -> list[dict[str, Any]]:
    """The rounds that so many outer steps paid for."""
    done: dict[Any, int] = {}
    for number, entry in enumerate(rounds):
        done[entry["trial"]] = entry["steps"]
        if sum(done.values()) > limit:
            return rounds[:number]
    return rounds


def incumbent(method: str, rounds: list[dict[str, Any]], rungs: list[int]) -> Point | None:
    """What the engine would call the best: see above."""
    scored = [entry for entry in rounds if entry["value"] is not None]
    if method == "stock Ray":
        last = {entry["trial"]: entry for entry in scored}
        return min(last.values(), key=lambda entry: entry["value"])["point"] if last else None
    rung = {entry["trial"]: sum(steps <= entry["steps"] for steps in rungs) for entry in scored}
    highest = max(rung.values(), default=0)
    scored = [entry for entry in scored if rung[entry["trial"]] == highest]
    return min(scored, key=lambda entry: entry["value"])["point"] if scored else None


# Training anew


def train_anew(point: Point, seed: int, steps: int, path: Path) -> float:
    """Train a point at full budget with another seed, unless that was done, and score it on fresh episodes."""
    if not path.exists():
        import torch

        from raymeta.training.trainer import Trainer

        torch.set_num_threads(1)
        config = plan_of("random", 0, steps).config(point)
        trainer = Trainer(config.model_copy(update={"seed": 1000 + seed}))
        while not trainer.done:
            trainer.round()
        best = [trainer.best["weights"]] if trainer.best else []
        score = trainer.evaluate(trainer.problem.bank("validation", FRESH_BANK), FRESH_TASKS, best)
        write_atomically(path, json.dumps({"point": point, "seed": seed, "score": score.mean}))
    return float(json.loads(path.read_text())["score"])


def anew(points: list[Point], seeds: int, steps: int, slots: int, folder: Path) -> list[float]:
    """Each point's mean score over fresh seeds."""
    names = [hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12] for point in points]
    jobs = {(name, seed): point for name, point in zip(names, points, strict=True) for seed in range(seeds)}
    with ProcessPoolExecutor(slots, mp_context=get_context("spawn")) as pool:
        running = {
            (name, seed): pool.submit(train_anew, point, seed, steps, folder / f"{name}-{seed}.json")
            for (name, seed), point in jobs.items()
        }
        for done, future in enumerate(running.values(), 1):
            future.result()
            print(f"\rtrained anew: {done} of {len(running)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [statistics.fmean(running[name, seed].result() for seed in range(seeds)) for name in names]


# The result


def mean_ci(values: list[float]) -> str:
    """Mean and 95 % interval over searches (Student's t)."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.3f} ± {half:.3f}"


def report(folder: Path, options: argparse.Namespace) -> None:
    """Train anew what the searches found; print the table and draw the picture."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("search-*.json"))]
    limits = [options.trainings * options.steps * share for share in (0.5, 1.0)]
    points: list[Point] = []
    for one in found:
        rungs = plan_of(one["method"], 0, options.steps).rungs
        chosen = [incumbent(one["method"], until(one["rounds"], limit), rungs) for limit in limits]
        if None in chosen:
            raise SystemExit(f"{one['method']}, seed {one['seed']}: nothing was validated in half of the budget")
        points += [point for point in chosen if point is not None]
    scores = anew(points, options.fresh, options.steps, options.slots, folder)
    for one, half, full in zip(found, scores[::2], scores[1::2], strict=True):
        one["scores"] = (half, full)
    print(f"{options.trainings:g} x {options.steps} outer steps a search; error (MSE), 95 % interval over searches")
    print("| search | searches | trials | diverged | at full budget | error at half the compute | error at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for method in METHODS:
        mine = [one for one in found if one["method"] == method]
        if len(mine) < 2:
            continue
        counts = [
            statistics.fmean(counted) for counted in zip(*(count(one, options.steps) for one in mine), strict=True)
        ]
        halves, ends = ([one["scores"][which] for one in mine] for which in (0, 1))
        row = (len(mine), *(f"{number:.1f}" for number in counts), mean_ci(halves), mean_ci(ends))
        print(f"| {method} | {' | '.join(map(str, row))} |")
    draw(found, options.picture)


def count(one: dict[str, Any], steps: int) -> tuple[int, int, int]:
    """Trials of a search: all, those that diverged and those that had the full budget."""
    diverged = sum(entry["value"] is None for entry in one["rounds"])
    return len({entry["trial"] for entry in one["rounds"]}), diverged, sum(e["steps"] == steps for e in one["rounds"])


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A dot for every search, a bar for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = [method for method in METHODS if any(one["method"] == method for one in found)]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharex=True, sharey=True)
    for which, (axis, title) in enumerate(zip(axes, ("half the compute", "all of it"), strict=True)):
        for row, method in enumerate(methods):
            scores = [one["scores"][which] for one in found if one["method"] == method]
            axis.plot(scores, [row] * len(scores), "o", color=f"C{row}", alpha=0.6)
            axis.plot(statistics.fmean(scores), row, "|", color="black", ms=18, mew=2)
        axis.set(title=title, xlabel="validation error of what was found, trained anew")
        axis.set_yticks(range(len(methods)), methods)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Search what was not searched yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("studies/search_quality"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fresh", type=int, default=2, help="Fresh seeds of each training anew.")
    parser.add_argument("--steps", type=int, default=STEPS, help="Full budget of a trial.")
    parser.add_argument("--trainings", type=float, default=FULL_TRAININGS, help="Compute of a search, in full budgets.")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/search_quality.png"))
    parser.add_argument("--only-table", action="store_true", help="Search no more.")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    def path_of(method: str, seed: int) -> Path:
        return folder / f"search-{method.replace(' ', '-')}-{seed}.json"

    if options.one:
        method, seed = options.one[0], int(options.one[1])
        search(method, seed, options.steps, options.trainings, options.slots, path_of(method, seed))
        return
    wanted = [(method, seed) for seed in range(options.seeds) for method in options.methods]
    left = [] if options.only_table else [one for one in wanted if not path_of(*one).exists()]
    for number, (method, seed) in enumerate(left, 1):
        now = time.strftime("%H:%M:%S")
        print(f"{now} {number} of {len(left)}: {method}, seed {seed}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, *sys.argv, "--one", method, str(seed)], check=False, capture_output=True, text=True
        )
        if done.returncode or not path_of(method, seed).exists():
            raise SystemExit(f"{method}, seed {seed} failed:\n{done.stderr[-5000:]}")
    report(folder, options)


if __name__ == "__main__":
    main()
