"""Tasks, and the banks that they are drawn from.

Episode i of a bank is a pure function of (data set, class split, split, seed, i): it does not depend on what was drawn
before, on how episodes are batched or on the process. All trials of a study therefore see the same validation tasks.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problem import Examples, Split, Tasks
from raymeta.problems.images.images import HostImages, Images
from raymeta.problems.images.task import ImagesTask
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.problems.images.store import Store


class ImagePool:
    """What banks of images have in common: the classes of a split and where their images come from.

    A drawn rotation is the same for a class's support and query. With `rotations: classes` a class is four, each turned
    by its own multiple of 90 degrees, and an episode may have several of them.

    Args:
        store: packed images.
        task: what an episode is.
        split: of the store's class split.
        seed: other seeds are other episodes.
        images: where they are taken from; None: from the store, in host memory.

    Raises:
        UserError: images that a quarter turn does not map onto themselves, or more `train_classes` than there are.
    """

    def __init__(self, store: "Store", task: ImagesTask, split: Split, seed: int, images: Images | None) -> None:
        self._images = images or HostImages(store.images, store.scaled)
        self._turned = task.rotations == "always" or (split == "train" and task.rotations == "train")
        self._quarters: NDArray[np.int64] | None = None  # that a class is turned by, if each turn is a class
        self._where = f"the {split} split of {store.name} ({store.split})"
        classes = classes_of(store, task, split)
        if task.rotations == "classes":
            classes, self._quarters = classes.repeat(4), np.tile(np.arange(4), len(classes))
        self._starts, self._sizes = store.starts[classes], store.sizes[classes]
        self._names = [store.class_names[c] for c in classes]
        self._uniforms = Uniforms(store.name, store.split, split, seed)
        height, width = store.images.shape[2:]
        if (self._turned or self._quarters is not None) and height != width:
            raise UserError(
                f"task.rotations: the images of {self._where} are {height}x{width}; only squares can be turned"
            )

    def _turns(self, uniform: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Quarter turns of the chosen classes, from a uniform number for each; None: nothing turns."""
        if self._quarters is not None:
            return self._quarters[chosen]
        return (uniform * 4).astype(np.int64) if self._turned else None


class ImageEpisodes(ImagePool):
    """Classification episodes over the packed images of one split, all of one shape.

    Each task draws its classes without replacement in random order (the label is the place in the draw), then the
    images of each class without replacement: the first K are support, the next Q query, so the two share no image.
    `labels: fixed` changes the training split only: its classes are dealt once into N groups of near equal size, the
    same for every seed; a task takes one class of each group, and the group is the label. Pixels become what networks
    see by the store's own `scaled`, unless other `images` are given.

    With `sharing` above 1 so many tasks, from one whose number is a multiple of it on, have the classes, labels and
    turns of the first of them, each with images of its own. The other arguments are those of `ImagePool`.

    Raises:
        UserError: fewer classes than ways, a class with fewer images than shots + queries, or what `ImagePool` refuses.
    """

    def __init__(
        self,
        store: "Store",
        task: ImagesTask,
        split: Split,
        seed: int,
        images: Images | None = None,
        sharing: int = 1,
    ) -> None:
        super().__init__(store, task, split, seed, images)
        self._sharing = sharing
        training = split == "train"
        self._ways, self._shots = task.ways, task.shots
        self._queries = task.queries if training else task.eval_queries or task.queries
        self._fixed = training and task.labels == "fixed"
        self._check()
        uniforms = Uniforms(store.name, store.split, "fixed labels")
        self._groups, self._group_sizes = _deal(uniforms, len(self._sizes), task.ways)

    def _check(self) -> None:
        if self._ways > len(self._names):
            raise UserError(f"task.ways: found {self._ways}, but {self._where} has {len(self._names)} classes")
        smallest = int(self._sizes.argmin())
        wanted, there = self._shots + self._queries, int(self._sizes[smallest])
        if wanted > there:
            raise UserError(
                f"task: {self._shots} shots and {self._queries} queries are {wanted} images per class, "
                f"but class '{self._names[smallest]}' in {self._where} has {there}"
            )

    def draw(self, first: int, count: int, player: Any = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`, drawn and gathered together."""
        chosen, images, turns = self._chosen(first, count)  # [T, N], [T, N, K+Q], [T, N]
        rows = self._starts[chosen][..., None] + images
        support, query = (
            self._images.take(part, turns).flatten(1, 2)
            for part in (rows[..., : self._shots], rows[..., self._shots :])
        )
        labels = torch.arange(self._ways, device=support.device)
        return Tasks(
            Examples(support, labels.repeat_interleave(self._shots).repeat(count, 1)),
            Examples(query, labels.repeat_interleave(self._queries).repeat(count, 1)),
        )

    def _chosen(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
        ways, classes, most = self._ways, len(self._sizes), int(self._sizes.max())
        for_classes = ways if self._fixed else classes
        table = self._uniforms.rows(first, count, ways + for_classes + ways * most)
        if self._sharing > 1:
            numbers = np.arange(first, first + count)
            leads, lead = np.unique(numbers - numbers % self._sharing, return_inverse=True)
            rows = [self._uniforms.rows(int(one), 1, ways + for_classes) for one in leads]
            table[:, : ways + for_classes] = np.concatenate(rows)[lead]
        keys = table[:, ways : ways + for_classes]
        if self._fixed:
            chosen = self._groups[np.arange(ways), (keys * self._group_sizes).astype(np.int64)]
        else:
            chosen = smallest(keys, ways)
        turns = self._turns(table[:, :ways], chosen)
        keys = table[:, ways + for_classes :].reshape(count, ways, most)
        if (self._sizes < most).any():
            keys = np.where(np.arange(most) < self._sizes[chosen][..., None], keys, np.inf)
        return chosen, smallest(keys, self._shots + self._queries), turns


def classes_of(store: "Store", task: ImagesTask, split: Split) -> NDArray[np.int64]:
    """Indices of the classes of a split that a task's episodes are drawn from.

    `train_classes` takes a part of the training split: the same for every seed, and a larger one contains a smaller.

    Raises:
        UserError: more are wanted than there are.
    """
    classes, wanted = store.classes(split), task.train_classes
    if split != "train" or wanted is None:
        return classes
    if wanted > len(classes):
        where = f"the train split of {store.name} ({store.split})"
        raise UserError(f"task.train_classes: found {wanted}, but {where} has {len(classes)}")
    order = Uniforms(store.name, store.split, "training classes").rows(0, 1, len(classes))[0].argsort()
    chosen: NDArray[np.int64] = classes[np.sort(order[:wanted])]
    return chosen


def smallest(keys: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Indices of the k smallest along the last axis, smallest first: k draws without replacement."""
    found = np.argpartition(keys, k - 1)[..., :k]
    order = np.take_along_axis(keys, found, -1).argsort()
    return np.take_along_axis(found, order, -1)


def _deal(uniforms: Uniforms, classes: int, ways: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Partition the classes into `ways` groups: members [ways, most], padded, and how many there are in each."""
    groups = np.array_split(uniforms.rows(0, 1, classes)[0].argsort(), ways)
    members = np.zeros((ways, len(groups[0])), np.int64)
    for row, group in zip(members, groups, strict=True):
        row[: len(group)] = group
    return members, np.array([len(group) for group in groups])
