"""What learned adaptation gives on the embedded viewpoints and sequences, beside training without it.

    uv run python benchmarks/domains.py viewpoint     # the table of docs/viewpoint.md
    uv run python benchmarks/domains.py tracking      # the tables of docs/targets.md: MetaSDNet,
    uv run python benchmarks/domains.py crest         # MetaCREST

Every arm is trained from three seeds by the data set's preset. The comparison without meta-learning is trained with no
inner step, and adapts to a task by plain gradient descent, whose rate, number of steps and scope are those that are
best on validation tasks, over all seeds; the test tasks choose nothing. The rows:

viewpoint: MAML and ANIL, each with and without DropGrad; plain training, in which a category has a front of its own
(`task.front: category`) as in annotations, for with one of the task's nothing could be learned of fronts at all; then
fine-tuned, and with a ridge regression from its features to the nine numbers, task by task, of the best strength.

tracking, crest: MetaSDNet or MetaCREST (Meta-SGD on sdnet, on crest) with and without DropGrad; plain training, in
which no labels swap; random weights. Both of these learn the first frame by gradient descent of one rate. Scores are
balanced accuracy on crops of a later frame, or overlap in windows of later ones, and AUC and precision at 20 pixels of
the tracker on the held-out sequences.

Intervals are over tasks (sequences), each one's score averaged over the seeds; differences are paired by task, with
raymeta's own statistics. Processor time is of training with its validations. What is done is kept in `--out`: the same
command goes on (with the same `--tasks` and `--sequences`), and several at a time share the arms if each is given some
(`--arms "MAML,ANIL"`).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raymeta.comparison.statistics import differences
from raymeta.config import TrialConfig, parse_trial
from raymeta.inner import in_evaluation
from raymeta.learner import Learner, build_learner
from raymeta.metric import half_width
from raymeta.problem import Problem, open_problem
from raymeta.problems.tracking.following import track
from raymeta.problems.tracking.scores import followed
from raymeta.study.plan.plan import make_config
from raymeta.training.trainer import resumed

CPU = torch.device("cpu")
Given = dict[str, Any]
Scores = dict[str, list[float]]  # a score of every task, or sequence, by name


@dataclass(frozen=True)
class Arm:
    """A row that is trained: a composition and what it changes of the preset."""

    spec: str
    changes: Given = field(default_factory=dict)


def config_of(arm: Arm, task: str, seed: int, changes: Given) -> TrialConfig:
    """Of a seed, on torch's own choice of kernels."""
    return make_config(arm.spec, task, overrides={**changes, **arm.changes, "seed": seed})


def trained(config: TrialConfig, folder: Path) -> Learner:
    """The learner at the weights that were best on validation; the seconds of a processor stand beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer, _ = resumed(config, folder / "checkpoint.pt")
    spent = folder / "seconds.json"
    if not trainer.rounds:  # what may be there is of another config
        for old in folder.glob("*.json"):
            old.unlink()
    seconds = json.loads(spent.read_text()) if spent.exists() else 0.0
    while not trainer.done:
        start = time.process_time()
        trainer.round()
        seconds += time.process_time() - start
        spent.write_text(json.dumps(seconds))
        trainer.save(folder / "checkpoint.pt")
        print(f"{folder.name}: {trainer.rounds[-1]}", flush=True)
    assert trainer.best is not None, f"{folder.name} was never validated"
    trainer.learner.load_state_dict(trainer.best["weights"])
    return trainer.learner.eval()


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What a file has, or computed and written to it."""
    if not path.exists():
        found = compute()
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def evaluated(learner: Learner, problem: Problem, split: Any, tasks: int, steps: int | None = None) -> Scores:
    """Scores of the first tasks of a split, and the learner's other ones, which are of all of them."""
    bank = problem.bank(split, problem.task.bank_seed, final=True)
    score = problem.evaluate(learner, bank, tasks, device=CPU, vectorized=False, steps=steps)
    return {problem.metric.name: score.values.tolist(), **{name: [value] for name, value in score.also.items()}}


def with_rate(like: Learner, config: TrialConfig, problem: Problem, rate: float, steps: int, spec: str) -> Learner:
    """The same weights, to be adapted by gradient descent."""
    given = config.as_dict()
    given.pop(config.method)
    own = {"inner_lr": rate, "inner_steps": steps, "eval_steps": None}
    learner = build_learner(
        parse_trial({**given, "method": spec, spec: own, "task": problem.task.model_dump()}), problem
    )
    learner.load_state_dict(like.state_dict())
    return learner.eval()


def ridge(learner: Learner, problem: Problem, split: Any, tasks: int, strength: float) -> Scores:
    """Scores of a ridge regression from the features of a task's support to its values."""
    bank, values, predicted = problem.bank(split, problem.task.bank_seed, final=True), [], []
    for number in range(tasks):
        drawn = bank.draw(number, 1)
        task, now = drawn.task(0), in_evaluation(learner, drawn, number).at()
        with torch.no_grad():
            x, z = (
                learner.model.features(learner.model.prepare(side.x), learner.model.weights(), now)
                for side in (task.support, task.query)
            )
        mean, shift = x.mean(0), task.support.y.mean(0)
        x = x - mean
        outputs = (z - mean) @ x.T @ torch.linalg.solve(
            x @ x.T + strength * torch.eye(len(x)), task.support.y - shift
        ) + shift
        values.append(float(problem.score(outputs, task.query.y)))
        predicted.append((outputs, task.query.y))
    return {problem.metric.name: values, **{name: [value] for name, value in problem.also(predicted).items()}}


def chosen(path: Path, settings: Sequence[Any], score: Callable[[Any], float]) -> Any:
    """The setting of the best score on validation tasks; all scores are kept."""
    found = kept(path, lambda: [[setting, score(setting)] for setting in settings])
    print(f"{path.name}: {found}", flush=True)
    return max(found, key=lambda one: one[1])[0]


# The tables


def viewpoint(args: argparse.Namespace) -> tuple[dict[str, list[Scores]], list[tuple[str, str]]]:
    """Rows to the scores of each seed, and which are compared."""
    task, plain = "shapes3d-10s", "plain training"
    arms = {
        "MAML": Arm("maml"), "MAML + DropGrad": Arm("maml+dropgrad"),
        "ANIL": Arm("anil"), "ANIL + DropGrad": Arm("anil+dropgrad"),
        plain: Arm("maml", {"maml.inner_steps": 0, "maml.eval_steps": 0, "task.front": "category"}),
    }  # fmt: skip
    problem = open_problem(make_config("maml", task).task)
    problem.prepare()
    rows: dict[str, list[Scores]] = {}
    done: list[tuple[TrialConfig, Learner]] = []
    for name, folder, config, learner in learners_of(arms, task, args):
        if name == plain:
            done.append((config, learner))
        for row, steps in ((f"{name}, before", 0), (name, None)):
            if name != plain or steps == 0:
                score = partial(evaluated, learner, problem, "test", args.tasks, steps)
                rows.setdefault(row, []).append(kept(folder / f"{row}.json", score) | cost(folder))
    if done:
        scopes = [("maml", rate) for rate in (0.003, 0.01, 0.03)] + [("anil", rate) for rate in (0.01, 0.03)]
        settings = [(*scope, steps) for scope in scopes for steps in (10, 30, 100)]
        name = problem.metric.name

        def tuned(setting: Any, split: Any, tasks: int) -> list[Scores]:
            spec, rate, steps = setting
            learners = [with_rate(learner, config, problem, rate, steps, spec) for config, learner in done]
            return [evaluated(learner, problem, split, tasks) for learner in learners]

        def straight(strength: float, split: Any, tasks: int) -> list[Scores]:
            return [ridge(learner, problem, split, tasks, strength) for _, learner in done]

        for row, ways, score in (
            ("fine-tuned", settings, tuned),
            ("ridge head", [0.1, 1.0, 10.0, 100.0], straight),
        ):
            best = chosen(
                args.out / f"{row} on validation.json",
                ways,
                lambda way, score=score: float(np.mean([s[name] for s in score(way, "validation", args.choosing)])),
            )
            rows[f"{plain}, {row}"] = kept(
                args.out / f"{row}.json", lambda score=score, best=best: score(best, "test", args.tasks)
            )
    pairs = [
        ("MAML", "MAML + DropGrad"), ("ANIL", "ANIL + DropGrad"), ("MAML", "ANIL"),
        (f"{plain}, fine-tuned", "MAML"), (f"{plain}, fine-tuned", "ANIL"), (f"{plain}, ridge head", "ANIL"),
    ]  # fmt: skip
    return rows, pairs


def tracking(args: argparse.Namespace) -> tuple[dict[str, list[Scores]], list[tuple[str, str]]]:
    """Rows to the scores of each seed, and which are compared: of SDNet or, as the table `crest`, of CREST."""
    task, name = ("crest", "MetaCREST") if args.table == "crest" else ("sprites", "MetaSDNet")
    plain, random = "plain training", "random weights"
    unswapped = {} if args.table == "crest" else {"task.swap": False}
    arms = {
        name: Arm("metasgd"), f"{name} + DropGrad": Arm("metasgd+dropgrad"),
        plain: Arm("maml", {"maml.inner_steps": 0, "maml.eval_steps": 0, **unswapped}),
    }  # fmt: skip
    problem = open_problem(make_config("maml", task).task)
    problem.prepare()
    rows: dict[str, list[Scores]] = {}
    without: dict[str, list[tuple[Path, TrialConfig, Learner]]] = {}
    for row, folder, config, learner in learners_of(arms, task, args):
        if row == plain:
            without.setdefault(plain, []).append((folder, config, learner))
            without.setdefault(random, []).append((folder, config, build_learner(config, problem).eval()))
        else:
            score = kept(folder / "tested.json", partial(first_frame, learner, problem, args))
            rows.setdefault(row, []).append(score | cost(folder))
    rates = (0.01, 0.03, 0.1, 0.3) if args.table == "crest" else (0.01, 0.03, 0.1)
    settings = [(rate, steps) for rate in rates for steps in (1, 10, 30)]
    for row, ones in without.items():

        def tuned(setting: Any, ones: Any = ones) -> list[Learner]:
            return [with_rate(learner, config, problem, *setting, "maml") for _, config, learner in ones]

        def score(setting: Any, tuned: Any = tuned) -> float:
            found = [evaluated(one, problem, "validation", args.choosing) for one in tuned(setting)]
            return float(np.mean([one[problem.metric.name] for one in found]))

        best = chosen(args.out / f"{row} on validation.json", settings, score)
        rows[row] = [
            kept(folder / f"{row}.json", partial(first_frame, learner, problem, args))
            | (cost(folder) if row == plain else {})
            for learner, (folder, _, _) in zip(tuned(best), ones, strict=True)
        ]
    pairs = [(name, f"{name} + DropGrad"), (plain, name), (random, name), (random, plain)]
    return rows, pairs


def first_frame(learner: Learner, problem: Any, args: argparse.Namespace) -> Scores:
    """The problem's score of test tasks, and what the tracker makes of the held-out sequences."""
    scores = evaluated(learner, problem, "test", args.tasks)
    found = []
    for number in range(min(problem.count("test"), args.sequences)):
        clip = problem.clip("test", number)
        found.append(followed(track(learner, len(clip.boxes), clip.read, clip.boxes[0]).boxes, clip.boxes))
    return scores | {"auc": [one.auc for one in found], "precision": [one.precise for one in found]}


def learners_of(
    arms: dict[str, Arm], task: str, args: argparse.Namespace
) -> Iterable[tuple[str, Path, TrialConfig, Learner]]:
    """Every arm and seed with its folder, config and trained learner."""
    for seed in range(args.seeds):
        for name in args.arms(arms):
            folder = args.out / f"{name} {seed}"
            config = config_of(arms[name], task, seed, args.changes)
            yield name, folder, config, trained(config, folder)


def cost(folder: Path) -> Scores:
    """Seconds of training."""
    return {"seconds": [json.loads((folder / "seconds.json").read_text())]}


def printed(rows: dict[str, list[Scores]], pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """The table and the differences, as Markdown."""
    arrays = {
        (row, name): np.array([one[name] for one in seeds])
        for row, seeds in rows.items()
        for name in names
        if name in seeds[0]
    }
    print(f"| | {' | '.join(names)} | processor seconds |\n|{' --- |' * (len(names) + 2)}")
    for row, seeds in rows.items():
        cells = []
        for name in names:
            scores = arrays.get((row, name))
            cells.append("" if scores is None else interval(scores))
        seconds = [one["seconds"] for one in seeds if "seconds" in one]
        cells.append(f"{np.mean(seconds):.0f}" if seconds else "")
        print(f"| {row} | {' | '.join(cells)} |")
    for first, second in pairs:
        for name in names:
            if (first, name) in arrays and (second, name) in arrays and arrays[first, name].shape[1] > 1:
                found = differences(arrays[first, name][None], arrays[second, name][None])
                print(
                    f"{name}: {second} less {first}: {found.mean[0]:+.3f} [{found.low[0]:+.3f}, {found.high[0]:+.3f}], "
                    f"p {found.p[0]:.3g}"
                )


def interval(scores: Any) -> str:
    """Mean and half-width over tasks of the means over seeds; of one number a seed, the mean and the seeds."""
    over = scores.mean(0)
    if len(over) == 1:
        return f"{over[0]:.1f} ({', '.join(f'{one:.1f}' for one in scores[:, 0])})"
    return f"{over.mean():.3f} ± {half_width(over.tolist()):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("viewpoint", "tracking", "crest"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=200, help="of the test")
    parser.add_argument("--sequences", type=int, default=20, help="of the test that are followed")
    parser.add_argument("--choosing", type=int, help="validation tasks of each seed that choose rate and steps")
    parser.add_argument("--arms", help="of them only these, with commas between")
    parser.add_argument("--out", type=Path)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of all configs")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    only = args.arms and args.arms.split(",")
    args.arms = lambda arms: [name for name in arms if not only or name in only]
    args.choosing = args.choosing or 20 if args.table == "viewpoint" else 8
    args.out = args.out or Path("build") / args.table
    args.out.mkdir(parents=True, exist_ok=True)
    args.changes = {key: json.loads(value) for key, value in (one.split("=", 1) for one in args.changes)}
    if args.table == "viewpoint":
        printed(*viewpoint(args), ["acc30", "mederr"])
    else:
        first = "overlap" if args.table == "crest" else "balanced_accuracy"
        printed(*tracking(args), [first, "auc", "precision"])


if __name__ == "__main__":
    main()
