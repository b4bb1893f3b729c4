"""Random numbers by name and place, for banks whose task i is a function of i."""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray


class Uniforms:
    """Numbers for episode i of a named stream: row i of an endless table of uniform [0, 1) floats.

    Philox counts, so a row is reached without the ones before it. Only `random` is used of NumPy's generator: its
    stream stays the same from version to version, which `choice` and `permutation` don't promise.
    """

    def __init__(self, *name: object) -> None:
        digest = sha256("/".join(map(str, name)).encode()).digest()
        self._key = np.frombuffer(digest[:16], "<u8").astype(np.uint64)

    def rows(self, first: int, count: int, width: int) -> NDArray[np.float64]:
        """Rows `first` .. `first + count - 1`, [count, width]; a wider row begins with the narrower one."""
        table = np.empty((count, width))
        for i, row in enumerate(table, start=first):
            self.generator(i).random(out=row)
        return table

    def generator(self, row: int) -> np.random.Generator:
        """What gives a row's numbers one after the other, by `random`, however many are needed."""
        return np.random.Generator(np.random.Philox(key=self._key, counter=(0, 0, 0, row)))
