"""Tasks of different ways and shots: one by one, against a batch of them padded to the largest.

    uv run python benchmarks/padded.py
    uv run python benchmarks/padded.py --tasks 8 --images 600 --kernels torch

First-order Proto-MAML on Conv-4-32 and 28x28 images, whose ways and shots follow Meta-Dataset's law for classes of so
many images. One by one each task has its own size; the batch has as many tasks of the largest support and query set,
under vmap. Nothing masks the padding here, so that a padded batch can only be slower than this. Both take turns in one
process, on one thread; seconds are processor time of an outer gradient, the median of the rounds.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from raymeta.config import parse_trial
from raymeta.problem import Examples, Tasks
from raymeta.problems.images.task import MetaDatasetConfig
from raymeta.problems.images.variable import support_counts
from raymeta.training.trainer import Trainer

LAW, SIDE = MetaDatasetConfig(), 28


def drawn(random: np.random.Generator, images: int) -> tuple[int, int, int]:
    """Ways, support images and query images of a task."""
    ways = int(random.integers(LAW.min_ways, LAW.max_ways + 1))
    sizes, queries = np.full(ways, images), min(LAW.max_queries, images // 2)
    support = support_counts(sizes, sizes - queries, random.random(), random.random(ways), LAW)
    return ways, int(support.sum()), ways * queries


def noise(count: int, ways: int, support: int, query: int) -> Tasks:
    """So many tasks of a size."""
    parts = (torch.randn(count, n, 1, SIDE, SIDE) for n in (support, query))
    return Tasks(*(Examples(x, (torch.arange(x.shape[1]) % ways).expand(count, -1)) for x in parts))


def trainer(kernels: str) -> Trainer:
    return Trainer(
        parse_trial(
            {
                "method": "protomaml",
                "protomaml": {"order": "first", "inner_steps": 3, "inner_lr": 0.01},
                "model": {"name": "conv4", "width": 32},
                "task": {"dataset": "glyphs", "ways": LAW.max_ways},
                "engine": {"device": "cpu", "tasks": "loop", "kernels": kernels},
            }
        )
    )


def seconds(made: Trainer, batches: list[Tasks], *, vectorized: bool) -> float:
    made.vectorized = vectorized
    start = time.process_time()
    for tasks in batches:
        made.accumulate(tasks)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--images", type=int, default=20, help="of a class; Omniglot: 20, most others: hundreds")
    parser.add_argument("--kernels", default="auto", help="of the tasks that are computed one by one")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    one_by_one, batched = trainer(given.kernels), trainer("torch")
    loops, batches, sizes = [], [], []
    for number in range(given.rounds + 1):  # the first one warms up
        own = [drawn(random, given.images) for _ in range(given.tasks)]
        loop = seconds(one_by_one, [noise(1, *size) for size in own], vectorized=False)
        batch = seconds(batched, [noise(given.tasks, *np.max(own, 0).tolist())], vectorized=True)
        if number:
            loops.append(loop)
            batches.append(batch)
            sizes.append(given.tasks * np.max(own, 0)[1:].sum() / np.sum([size[1:] for size in own]))
    loop, batch = statistics.median(loops), statistics.median(batches)
    print(f"{given.tasks} tasks, classes of {given.images} images, kernels {given.kernels}")
    print(f"one by one: {loop:.2f} s   padded batch: {batch:.2f} s   ratio {batch / loop:.2f}")
    print(f"images of the padded batch: {statistics.fmean(sizes):.2f} times as many")


if __name__ == "__main__":
    main()
