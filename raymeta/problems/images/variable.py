"""Tasks of Meta-Dataset's sampler: ways, shots and queries are drawn for every task, and classes differ in shots.

Triantafillou et al.: Meta-Dataset (ICLR 2020), appendix on episode sampling. |c| is how many images class c has.

    N   uniform in [min_ways, min(max_ways, classes)];  the N classes without replacement
    q   = min(max_queries, floor(|c| / 2) of the smallest class),  the same for all classes
    |S| = min(max_support, sum over c of ceil(beta * min(max_support_per_class, |c| - q))),  beta uniform in (0, 1]
    K_c = min(floor(R_c (|S| - N)) + 1, |c| - q),  R_c = exp(alpha_c) |c| / sum over c' of exp(alpha_c') |c'|
          alpha_c uniform in [-log imbalance, log imbalance): log 0.5 to log 2

Classes are drawn evenly over the split, as the paper does for eight of its ten sources; what it does for the other two:
raymeta/problems/metadataset/sampling.py.
"""

from math import log
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problem import Examples, Split, Tasks
from raymeta.problems.images.episodes import ImagePool, classes_of
from raymeta.problems.images.images import Images
from raymeta.problems.images.task import ImagesTask, MetaDatasetConfig

if TYPE_CHECKING:
    from raymeta.problems.images.store import Store


class VariableEpisodes(ImagePool):
    """Classification episodes of differing ways and shots; see the module's docstring.

    Args:
        store, task, split, seed, images: see `ImagePool`.
        counts: |c| of each of the store's classes; None: as many as it has.

    Attributes:
        extra: uniform numbers of an episode that `choose` needs beside the others.

    Raises:
        UserError: fewer classes than `min_ways`, a class with a single image, or what `ImagePool` refuses.
    """

    extra: ClassVar[int] = 0

    def __init__(
        self,
        store: "Store",
        task: ImagesTask,
        split: Split,
        seed: int,
        images: Images | None = None,
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(store, task, split, seed, images)
        self._counts = self._sizes if counts is None else counts[classes_of(store, task, split)]
        self._bounds = bounds = task.metadataset
        classes = len(self._sizes)
        if bounds.min_ways > classes:
            raise UserError(
                f"task.metadataset.min_ways: found {bounds.min_ways}, but {self._where} has {classes} classes"
            )
        self._most_ways = min(bounds.max_ways, classes)
        smallest = int(self._sizes.argmin())
        if self._sizes[smallest] < 2:
            raise UserError(
                f"task.sampler: metadataset needs two images of a class, one each for support and query, but class "
                f"'{self._names[smallest]}' in {self._where} has {self._sizes[smallest]}"
            )

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Episode `first`; tasks of different shapes are no batch, so `count` is 1."""
        if count != 1:
            raise ValueError(f"{count} episodes of different shapes were asked for at once: take them one by one")
        chosen, support, queries, keys, uniform = self._chosen(first)
        turns = self._turns(uniform, chosen)
        order = keys.argsort(1)  # [N, images of the largest class]
        place = np.arange(order.shape[1])
        of_support = place < support[:, None]
        of_query = (place >= support[:, None]) & (place < support[:, None] + queries)
        x, y = [], []
        for part in (of_support, of_query):
            label, at = part.nonzero()  # class after class
            rows = self._starts[chosen[label]] + order[label, at]
            images = self._images.take(rows[:, None], None if turns is None else turns[label])
            x.append(images.transpose(0, 1))  # [n, 1, C, H, W] to [1, n, C, H, W]
            y.append(torch.from_numpy(label)[None].to(images.device))
        return Tasks(Examples(x[0], y[0]), Examples(x[1], y[1]))

    def _chosen(
        self, number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int, NDArray[np.float64], NDArray[np.float64]]:
        """An episode's classes, how many support images each has, queries of each, and keys that order their images.

        Returns:
            [N], [N], q, [N, images of the largest class]; and a uniform number for the turn of each class, [N].
        """
        bounds, classes, most = self._bounds, len(self._sizes), int(self._sizes.max())
        width = self._most_ways
        row = self._uniforms.rows(number, 1, 2 + classes + 2 * width + width * most + self.extra)[0]
        order, alphas, turns, keys, extra = np.split(row[2:], np.cumsum([classes, width, width, width * most]))
        chosen = self.choose(row[0], order, extra)
        ways, counts = len(chosen), self._counts[chosen]
        queries = min(bounds.max_queries, int(counts.min()) // 2)
        support = support_counts(counts, counts - queries, row[1], alphas[:ways], bounds)
        keys = np.where(np.arange(most) < self._sizes[chosen][:, None], keys.reshape(width, most)[:ways], np.inf)
        return chosen, support, queries, keys, turns[:ways]

    def choose(self, uniform: float, order: NDArray[np.float64], extra: NDArray[np.float64]) -> NDArray[np.int64]:
        """Places of an episode's classes in the split, [N].

        Args:
            uniform: that the number of ways is made of.
            order: a uniform number for each class of the split.
            extra: others, [extra].
        """
        least = self._bounds.min_ways
        return order.argsort()[: least + int(uniform * (self._most_ways - least + 1))]


def support_counts(
    sizes: NDArray[np.int64],
    left: NDArray[np.int64],
    beta: float,
    alphas: NDArray[np.float64],
    bounds: MetaDatasetConfig,
) -> NDArray[np.int64]:
    """K_c of N classes, [N].

    Args:
        sizes: |c|, [N].
        left: images of each that are not queries, [N].
        beta: uniform in [0, 1).
        alphas: uniform in [0, 1), [N].
        bounds: the sampler's.
    """
    # A floor and one more is the ceiling for a beta in (0, 1].
    whole = min(int(np.floor(beta * np.minimum(bounds.max_support_per_class, left) + 1).sum()), bounds.max_support)
    weights = sizes * np.exp((2 * alphas - 1) * log(bounds.imbalance))
    wanted = np.floor(weights / weights.sum() * (whole - len(sizes))).astype(np.int64) + 1
    found: NDArray[np.int64] = np.minimum(wanted, left)
    return found
