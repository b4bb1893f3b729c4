"""The same search through plain Ray Tune as its users write it, and through raymeta, one after the other.

    uv run python benchmarks/stock_ray.py                 # 18 trials on glyphs as in the README, 2 x 4 minutes
    uv run python benchmarks/stock_ray.py --size long     # 48 trials, 2 x 10 minutes
    uv run python benchmarks/stock_ray.py --size tiny     # a minute: shows that it works, says nothing

Plain Ray is a function trainable round raymeta's `Trainer` that reports and saves a checkpoint after every round,
stock `OptunaSearch`, `ASHAScheduler` and `MLflowLoggerCallback`, in Ray's default environment (but for the hook by
which Ray rebuilds the project in every worker when it is started by `uv run`: it is off for both). Both have the same
space, starting points, rungs, budget, number of trials and slots, and an empty MLflow database in a file; raymeta cuts
trials as Ray's ASHA does (`study.halving=stopping`), so that both train as much.

- wall: from the start of the process to its end; slot efficiency: seconds computed over slots times wall, in raymeta's
  with those of scoring the finalists anew, which plain Ray does not do;
- best: validation score, on the same episodes for all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

OUTSIDE = dict(os.environ)
from raymeta.study.plan.plan import Plan, make_plan  # noqa: E402
from raymeta.study.plan.space import Space  # noqa: E402

SIZES = {
    "readme": ["study.halving=stopping", "study.trials=18"],
    "long": ["study.halving=stopping", "study.trials=48"],
    "tiny": [
        "study.halving=stopping",
        *("model.width=4", "budget.outer_steps=36", "budget.validate_every=4", "budget.validation_tasks=4"),
        *("study.first_rung=4", "study.trials=6"),
    ],
}
SPEC, TASK = "maml+dropgrad", "glyphs-5w1s"


def plain_environment() -> None:
    """Take back what importing `raymeta.study` set for Ray; call it before Ray is imported."""
    assert "ray" not in sys.modules
    os.environ.clear()
    os.environ.update(OUTSIDE, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")


def train(config: dict[str, Any], plan: Plan) -> None:
    """A trial, as in Ray's own tutorials: the searched keys on top of the rest of the trial's config."""
    from ray import tune

    from raymeta.training.trainer import Trainer

    trainer = Trainer(plan.config(config))
    metric = f"val_{trainer.metric.name}"
    while not trainer.done:
        metrics = trainer.round()
        with tempfile.TemporaryDirectory() as folder:
            trainer.save(Path(folder) / "checkpoint.pt")
            tune.report({metric: float("nan"), **metrics}, checkpoint=tune.Checkpoint.from_directory(folder))


def suggest(space: Space, trial: Any) -> None:
    """The search space as OptunaSearch takes one that has conditions."""
    space.sample(trial)


def fit(
    plan: Plan, slots: int, folder: Path, callbacks: Sequence[Any], *, reuse: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """A search through plain Ray Tune.

    Args:
        plan: what to search; its starting points are tried first.
        slots: trials at a time.
        folder: where Ray writes.
        callbacks: Ray's.
        reuse: a trial's actor takes the next trial, which Ray does not do by default.
        options: more of `tune.RunConfig`.

    Returns:
        A dict a trial: `best`, its best validation score, `outer_steps`, and `busy_s`, the seconds it computed.
    """
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from raymeta.problem import open_problem

    metric = open_problem(plan.base.task).metric
    name = f"val_{metric.name}"
    ray.init("local", num_cpus=slots, include_dashboard=False)
    results = tune.Tuner(
        tune.with_parameters(train, plan=plan),
        tune_config=tune.TuneConfig(
            metric=name,
            mode=metric.mode,
            search_alg=OptunaSearch(
                space=partial(suggest, plan.space),
                metric=name,
                mode=metric.mode,
                points_to_evaluate=plan.space.start_from or None,
                seed=plan.study.seed,
            ),
            scheduler=ASHAScheduler(
                time_attr="outer_steps",
                max_t=plan.base.budget.outer_steps,
                grace_period=plan.study.first_rung,
                reduction_factor=plan.study.reduction,
            ),
            num_samples=plan.study.trials,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name="stock",
            storage_path=str(folder),
            callbacks=list(callbacks),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(fail_fast=True),
            **options,
        ),
    ).fit()
    ray.shutdown()
    if results.errors:  # a trial that diverged reports so: an error is a fault of ours
        raise SystemExit(f"a trial of stock Ray failed: {results.errors[0]}")
    trials = []
    for result in results:
        rounds = result.metrics_dataframe
        if rounds is None or name not in rounds:  # it never reported, or Ray wrote nothing down
            continue
        scores, steps = rounds[name].dropna(), int(rounds["outer_steps"].max())
        best = (scores.max() if metric.mode == "max" else scores.min()) if len(scores) else None
        trials.append({"best": best, "outer_steps": steps, "busy_s": rounds["seconds"].sum()})
    return trials


def stock(words: Sequence[str], slots: int, folder: Path) -> None:
    """The stock search in this process; writes `stock.json`."""
    plan = make_plan(SPEC, TASK, words=words)
    plain_environment()
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    tracking = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="stock")
    trials = fit(plan, slots, folder, [tracking])
    (folder / "stock.json").write_text(json.dumps(trials))


def figures(name: str, wall: float, busy: float, trials: int, steps: int, best: float, slots: int) -> str:
    """A row of the table."""
    row = (f"{wall:.0f}", f"{busy / (slots * wall):.2f}", f"{3600 * trials / wall:.0f}", f"{steps:,}", f"{best:.4f}")
    return f"| {name} | {' | '.join(row)} |"


def compare(words: Sequence[str], slots: int, folder: Path) -> list[str]:
    """Run both, each in a process of its own and the machine to itself, and make their rows."""
    environment = {**OUTSIDE, "RAYMETA_STUDIES": str(folder / "studies")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    own = [str(Path(sys.executable).with_name("raymeta")), "search", SPEC, *words, "--task", TASK, "--json"]
    commands = {
        "plain Ray Tune": [sys.executable, __file__, "--stock", str(folder), "--slots", str(slots), "--words", *words],
        "raymeta": [*own, "--name", "ours", "--slots", str(slots)],
    }
    rows = []
    for name, command in commands.items():
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-5000:]}")
        if name == "raymeta":
            trials, told = our_trials(folder / "studies" / "ours"), json.loads(done.stdout)
            busy = told["slot_efficiency"] * slots * told["wall_s"]
        else:
            trials = json.loads((folder / "stock.json").read_text())
            busy = sum(trial["busy_s"] for trial in trials)
        steps = sum(trial["outer_steps"] for trial in trials)
        best = max((trial["best"] for trial in trials if trial["best"] is not None), default=None)
        if best is None:
            raise SystemExit(f"{name} scored nothing:\n{done.stderr[-5000:]}")
        rows.append(figures(name, wall, busy, len(trials), steps, best, slots))
    return rows


def our_trials(folder: Path) -> list[dict[str, Any]]:
    """Our search's trials."""
    from raymeta.study.record.record import StudyRecord

    record = StudyRecord.load(folder)
    return [
        {
            "outer_steps": trial.outer_steps,
            "best": (trial.best(record.metric) or {}).get("val_accuracy"),
        }
        for trial in record.trials()
    ]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="readme")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--stock", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--words", nargs="*", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stock:
        stock(options.words, options.slots, options.stock)
        return
    from raymeta.problem import open_problem

    open_problem(make_plan(SPEC, TASK).base.task).prepare()
    with tempfile.TemporaryDirectory(prefix="raymeta-stock-") as folder:
        rows = compare(SIZES[options.size], options.slots, Path(folder))
    print(f"size {options.size}, {options.slots} slots")
    print("| | wall s | slot efficiency | trials/h | outer steps | best validation accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
