"""Examples with their classes, outside of tasks: what pre-training learns from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Labelled(NamedTuple):
    """Training examples by number, with their classes.

    Attributes:
        classes: how many there are.
        size: how many examples.
        take: numbers [n] to examples and their labels, on the CPU.
        about: which of the data they are, as plain data.
    """

    classes: int
    size: int
    take: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]
    about: dict[str, Any]
