"""Whole trainings on raymeta's own kernels and on torch's: their curves in one picture, and how far apart they end.

    uv run python benchmarks/curves.py --out build/curves --picture docs/pictures/kernels-curves.png

Omniglot 5-way 1-shot by the preset (Conv-4-32), same seed, same episodes. Two trainings that round differently part: a
ReLU or a pool decides otherwise at a near tie, and Adam and the next steps make of 1e-7 what they make of any change.
So a third training tells what that is worth: torch's kernels once more, from weights moved by one part in 1e7. What is
compared is the accuracy of the last weights on the same test tasks, with the normal 95 % interval of the difference's
mean over tasks; it knows nothing of the luck of a training, which the third one shows.

Every training goes on where it was stopped: its state is in the folder, written once a round.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from raymeta.metric import half_width
from raymeta.study.machines.resources import WORKER_ENVIRONMENT
from raymeta.study.plan.plan import make_config
from raymeta.training.trainer import Trainer

ARMS = {
    "native": "raymeta's kernels",
    "tiles": "raymeta's, by tiles of 4",
    "torch": "torch's",
    "moved": "torch's, from weights moved by 1e-7",
}
TASK = "omniglot-5w1s"


def trained(method: str, arm: str, seed: int, options: argparse.Namespace) -> Trainer:
    """A training up to its end, from where the folder has it."""
    kernels, tiles = "native" if arm in ("native", "tiles") else "torch", 4 if arm == "tiles" else 2
    words = [f"engine.kernels={kernels}", f"engine.tiles={tiles}", "engine.device=cpu", f"seed={seed}"]
    words += [f"budget.outer_steps={options.steps}", f"budget.validate_every={options.every}"]
    trainer = Trainer(make_config(method, TASK, None, words))
    place = options.out / f"{method}-{arm}-{seed}.pt"
    if place.exists():
        trainer.load_state_dict(torch.load(place, weights_only=False))
    elif arm == "moved":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer.learner.parameters():
                parameter *= 1 + 1e-7 * torch.randn(parameter.shape, generator=generator)
    while not trainer.done:
        start = time.process_time()
        noted = trainer.round()
        torch.save(trainer.state_dict(), place.with_suffix(".tmp"))
        os.replace(place.with_suffix(".tmp"), place)
        took = (time.process_time() - start) / options.every
        done = f"{noted['outer_steps']} steps, {noted.get('val_accuracy', 0):.4f}, {took:.3f} s each"
        print(f"{method} {arm} {seed}: {done}", file=sys.stderr, flush=True)
    return trainer


def tested(trainer: Trainer, place: Path, tasks: int) -> Tensor:
    """Accuracy of the last weights on each of the first test tasks."""
    if not place.exists():
        bank = trainer.problem.bank("test", 0, final=True)
        place.write_text(json.dumps(trainer.evaluate(bank, tasks).values.tolist()), encoding="utf-8")
    return torch.tensor(json.loads(place.read_text(encoding="utf-8")), dtype=torch.float64)


def picture(curves: dict[tuple[str, str, int], list[dict[str, Any]]], path: Path) -> None:
    """A panel for each method, a line for each training."""
    methods = list(dict.fromkeys(method for method, _, _ in curves))
    figure, panels = plt.subplots(1, len(methods), figsize=(5 * len(methods), 3.6), sharey=True, squeeze=False)
    styles = {"native": "-", "tiles": "-.", "torch": "--", "moved": ":"}
    for (method, arm, seed), rounds in curves.items():
        panel = panels[0][methods.index(method)]
        steps, values = zip(*[(one["outer_steps"], 100 * one["val_accuracy"]) for one in rounds], strict=True)
        label = ARMS[arm] if seed == min(number for _, _, number in curves) else None
        panel.plot(steps, values, styles[arm], color=f"C{list(ARMS).index(arm)}", label=label, linewidth=1.3)
    for panel, method in zip(panels[0], methods, strict=True):
        panel.set(title=f"{method}, {TASK}", xlabel="outer steps")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("validation accuracy (%)")
    panels[0][0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train what is left, then draw and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["maml", "alfa"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=200, help="outer steps of a round, which ends in a validation")
    parser.add_argument("--tasks", type=int, default=600, help="of the test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if "RAYMETA_BENCHMARK" not in os.environ:  # malloc reads its settings when a process starts
        environment = {**os.environ, **WORKER_ENVIRONMENT, "RAYMETA_BENCHMARK": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    curves: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    scores: dict[tuple[str, str, int], Tensor] = {}
    for seed in options.seeds:
        for method in options.methods:
            for arm in options.arms:
                key = method, arm, seed
                trainer = trained(*key, options)
                curves[key] = trainer.rounds
                scores[key] = tested(trainer, options.out / f"{method}-{arm}-{seed}-test.json", options.tasks)
    if options.picture:
        picture(curves, options.picture)
    print(f"| training | seed | test accuracy | less torch's, on the same {options.tasks} tasks |")
    print("| --- | --: | --: | --: |")
    for (method, arm, seed), own in scores.items():
        gap = "" if arm == "torch" or (method, "torch", seed) not in scores else own - scores[method, "torch", seed]
        less = "" if isinstance(gap, str) else f"{100 * float(gap.mean()):+.2f} ± {100 * half_width(gap.tolist()):.2f}"
        mean = f"{100 * float(own.mean()):.2f} ± {100 * half_width(own.tolist()):.2f}"
        print(f"| {method}, {ARMS[arm]} | {seed} | {mean} | {less} |")


if __name__ == "__main__":
    main()
