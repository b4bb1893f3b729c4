"""Tasks of views: a category each, some of its views with their rotations to learn from, others to predict."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raymeta.errors import UserError
from raymeta.problem import Examples, Split, Tasks
from raymeta.problems.images.episodes import smallest
from raymeta.problems.images.images import HostImages, Images
from raymeta.problems.uniforms import Uniforms
from raymeta.problems.viewpoint.rotations import Array, about_z, of_angles

if TYPE_CHECKING:
    from raymeta.problems.images.store import Store
    from raymeta.problems.viewpoint.viewpoint import ViewpointTask


class Views:
    """Tasks of one category each: x float32 [T, n, C, H, W], y float32 [T, n, 9], rotations row by row.

    Task i is a function of (data set, class split, split, seed, i). Its category is drawn uniformly, then its views
    without replacement; the first are support. Where `task.front` says so, what counts as the front is turned about the
    thing's upright axis: labels become R Rz(c), and no pixel changes.

    Args:
        store: packed views, whose `meta.json` has their angles.
        task: how many.
        split: of the store's class split.
        seed: other seeds are other tasks.
        images: where they are taken from; None: from the store, in host memory.

    Raises:
        UserError: the store has no angles, or a category too few views.
    """

    def __init__(
        self, store: "Store", task: "ViewpointTask", split: Split, seed: int, images: Images | None = None
    ) -> None:
        self._images = images or HostImages(store.images, store.scaled)
        self._shots, self._front = task.shots, task.front
        self._queries = task.queries if split == "train" else task.eval_queries or task.queries
        classes = store.classes(split)
        self._classes, self._starts, self._sizes = classes, store.starts[classes], store.sizes[classes]
        self._names = [store.class_names[c] for c in classes]
        self._uniforms = Uniforms(store.name, store.split, split, seed)
        fronts = Uniforms(store.name, "fronts").rows(0, 1, len(store.sizes))[0]
        self._fronts = 360 * fronts[classes]
        self._rotations = rotations_of(store)
        wanted, least = self._shots + self._queries, int(self._sizes.argmin())
        if wanted > (there := int(self._sizes[least])):
            raise UserError(
                f"task: {self._shots} shots and {self._queries} queries are {wanted} views, but the category "
                f"'{self._names[least]}' in the {split} split of {store.name} has {there}"
            )

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`."""
        most, views = int(self._sizes.max()), self._shots + self._queries
        table = self._uniforms.rows(first, count, 2 + most)
        chosen = self._of(table)
        keys = np.where(np.arange(most) < self._sizes[chosen][:, None], table[:, 2:], np.inf)
        rows = self._starts[chosen][:, None] + smallest(keys, views)  # [T, n]
        turned = self._rotations[rows]
        if self._front != "given":
            front = 360 * table[:, 1] if self._front == "task" else self._fronts[chosen]
            turned = turned @ about_z(front)[:, None]
        x = self._images.take(rows, None)
        y = torch.from_numpy(turned.reshape(count, views, 9)).float().to(x.device)
        (support_x, query_x), (support_y, query_y) = (one.tensor_split([self._shots], 1) for one in (x, y))
        return Tasks(Examples(support_x, support_y), Examples(query_x, query_y))

    def category(self, number: int) -> str:
        """Of a task."""
        name: str = self._names[int(self._of(self._uniforms.rows(number, 1, 2))[0])]
        return name

    def _of(self, table: Array) -> Any:
        return (table[:, 0] * len(self._classes)).astype(np.int64)


def rotations_of(store: "Store") -> Array:
    """The rotation of every packed view, [n, 3, 3].

    Raises:
        UserError: the store has none.
    """
    angles = np.array(store.meta.get("angles", ()), np.float64)
    if angles.shape != (len(store.images), 3):
        raise UserError(f"{store.folder}: damaged: it has angles of {len(angles)} of its {len(store.images)} views")
    return of_angles(angles)
