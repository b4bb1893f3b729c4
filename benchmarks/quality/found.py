"""What searches had found, and how good it is when it is trained anew."""

import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from simulated.problems import TableProblem
from simulated.recording import curves_of, groups

from quality.arms import Round
from raymeta.metric import Metric
from raymeta.storage.files import write_atomically
from raymeta.study.plan.param import Point

FRESH_TASKS, FRESH_SEED = 300, 1000


@dataclass
class Search:
    """A search that was made.

    Attributes:
        seconds: of processor time, of all its processes.
        scores: of what it had found at each share of its compute, trained anew.
    """

    method: str
    seed: int
    seconds: float
    rounds: list[Round]
    scores: list[float] = field(default_factory=list)

    @property
    def trials(self) -> int:
        """Begun, and validated once."""
        return len({entry["trial"] for entry in self.rounds})

    @property
    def diverged(self) -> int:
        """Trials that did."""
        return sum(entry["value"] is None for entry in self.rounds)

    def whole(self, full: int) -> int:
        """Trials that had the full budget."""
        return sum(entry["steps"] == full for entry in self.rounds)

    def until(self, limit: float) -> list[Round]:
        """The rounds that so many outer steps paid for."""
        done: dict[object, int] = {}
        for number, entry in enumerate(self.rounds):
            done[entry["trial"]] = entry["steps"]
            if sum(done.values()) > limit:
                return self.rounds[:number]
        return self.rounds


def incumbent(method: str, rounds: Sequence[Round], rungs: Sequence[int], metric: Metric) -> Point | None:
    """What a search says is its best.

    Ray's is the trial with the best last score; of all others, of those that reached the highest rung the one with the
    best round.
    """
    sign = 1 if metric.mode == "max" else -1
    scored = [entry for entry in rounds if entry["value"] is not None]
    if method == "stock Ray":
        scored = list({entry["trial"]: entry for entry in scored}.values())
    else:
        rung = {entry["trial"]: sum(steps <= entry["steps"] for steps in rungs) for entry in scored}
        highest = max(rung.values(), default=0)
        scored = [entry for entry in scored if rung[entry["trial"]] == highest]
    best = max(scored, key=lambda entry: sign * entry["value"], default=None)
    return best["point"] if best else None


def train_anew(problem: TableProblem, points: list[Point], seed: int, paths: list[Path]) -> None:
    """Train configs of one structure at full budget with a seed, and write down their scores on fresh tasks."""
    torch.set_num_threads(1)
    for point, curve, path in zip(points, curves_of(problem, points, FRESH_SEED + seed), paths, strict=True):
        score = float(curve.on_fresh(problem).mean(dtype=np.float64))
        write_atomically(path, json.dumps({"point": point, "seed": seed, "score": score}))


def anew(problem: TableProblem, points: Sequence[Point], seeds: int, slots: int, folder: Path) -> list[float]:
    """Each point's mean score over fresh seeds; what was trained before is read."""
    problem, distinct = (
        replace(problem, fresh_tasks=FRESH_TASKS),
        list({_name(point): point for point in points}.values()),
    )
    with ProcessPoolExecutor(slots, get_context("spawn")) as pool:
        running = []
        for seed in range(seeds):
            left = [n for n, point in enumerate(distinct) if not _file(folder, point, seed).exists()]
            for rows in groups(problem, distinct, left):
                together = [distinct[row] for row in rows]
                paths = [_file(folder, point, seed) for point in together]
                running.append(pool.submit(train_anew, problem, together, seed, paths))
        for done, future in enumerate(running, 1):
            future.result()
            print(f"\rtrained anew: {done} of {len(running)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)

    def score(point: Point) -> float:
        files = [_file(folder, point, seed) for seed in range(seeds)]
        return statistics.fmean(json.loads(file.read_text())["score"] for file in files)

    return [score(point) for point in points]


def _name(point: Point) -> str:
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12]


def _file(folder: Path, point: Point, seed: int) -> Path:
    return folder / f"{_name(point)}-{seed}.json"
