"""The memory-mapped store behind a data set of images."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.reading.packing import FORMAT

Channels = tuple[float, ...]  # a number for each channel


def scaled(pixels: NDArray[np.uint8], mean: Channels | None, std: Channels | None) -> NDArray[np.float32]:
    """Images [..., C, H, W] in 0..1, and standardised if there are a mean and a deviation."""
    # In NumPy: on this little data torch's threads cost more than they save, many times more on a busy machine.
    x = pixels.astype(np.float32)
    x /= 255
    if mean is not None and std is not None:
        x -= np.array(mean, np.float32)[:, None, None]
        x /= np.array(std, np.float32)[:, None, None]
    return x


def unscaled(x: NDArray[np.float32], mean: Channels | None, std: Channels | None) -> NDArray[np.uint8]:
    """Images [..., C, H, W] that were `scaled`, as they were."""
    if mean is not None and std is not None:
        x = x * np.array(std, np.float32)[:, None, None] + np.array(mean, np.float32)[:, None, None]
    return (x * 255).round().clip(0, 255).astype(np.uint8)


Rule = Callable[[int], Mapping[str, Sequence[int]]]  # number of classes to indices of classes of each split


class Store:
    """A packed data set on disk under one of its class splits, its images memory-mapped and read-only.

    Attributes:
        images: uint8 [total, C, H, W].
        class_names, sizes, starts: per class: its name, how many images, the row of its first one.
        meta: what `meta.json` says.
        mean, std: per channel, of pixels in 0..1; None: pixels are left in 0..1.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(
        self, folder: Path, name: str, version: int, split: str, stored_as: str, command: str, rule: Rule | None = None
    ) -> None:
        """Open and check a store.

        Args:
            folder: where it is.
            name: of the data set.
            version: that it must have.
            split: a class split by name.
            stored_as: the name under which it was packed.
            command: what makes it, for messages.
            rule: gives the classes of `split` if the store does not list them; they are then in the fingerprint.

        Raises:
            UserError: it is not there, cut off, of another version, or its files don't fit together.
        """
        self.folder, self.name, self.split = folder, name, split
        if not folder.exists():
            raise UserError(f"the data set '{name}' is not in {folder.parent}: run `{command}`")
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self.images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
            found = (meta["format"], meta["name"], meta["version"], tuple(meta["shape"]), sum(meta["sizes"]))
            if (
                found != (FORMAT, stored_as, version, self.images.shape, len(self.images))
                or self.images.dtype != np.uint8
            ):
                raise ValueError("its files don't belong together")
            self.meta: dict[str, Any] = meta
            self.class_names: list[str] = meta["class_names"]
            self.sizes = np.array(meta["sizes"], np.int64)
            self.fingerprint: str = meta["fingerprint"]
            members = meta["splits"][split] if rule is None else rule(len(self.class_names))
            self._classes = {key: np.array(members[key], np.int64) for key in SPLITS}
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            reason = f"no '{error.args[0]}' in meta.json" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(
                f"{folder}: damaged or not a store of '{name}' ({reason}): run `{command} --rebuild`"
            ) from error
        self.starts = self.sizes.cumsum() - self.sizes
        if rule is not None:
            lists = json.dumps({key: members.tolist() for key, members in self._classes.items()})
            self.fingerprint = sha256(f"{self.fingerprint}{lists}".encode()).hexdigest()

    def classes(self, split: Split) -> NDArray[np.int64]:
        """Indices of the classes of a split."""
        return self._classes[split]

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images [..., C, H, W] as networks see them: in 0..1, and standardised if the data set is."""
        return scaled(pixels, self.mean, self.std)

    def pixels(self, scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Images [..., C, H, W] that were `scaled`, as they were."""
        return unscaled(scaled, self.mean, self.std)
