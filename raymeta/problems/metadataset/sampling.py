"""How classes of a data set with a hierarchy are drawn for an episode of Meta-Dataset.

    alphabets  Omniglot: one of the split's alphabets, evenly; N uniform in [min_ways, min(max_ways, its characters)];
               N of its characters without replacement
    nodes      ImageNet: one of the inner nodes of the split's part of WordNet that have min_ways to 392 leaves below
               them, evenly; its leaves, or max_ways of them without replacement if it has more. N is not drawn

392 is the smallest bound under which every leaf can be reached. All else is as in raymeta/problems/images/variable.py.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problems.images.variable import VariableEpisodes

MOST_LEAVES = 392


class GroupEpisodes(VariableEpisodes):
    """Episodes whose classes are of one group.

    Args:
        groups: places of classes in the split, a list for each group.
        whole: all classes of a group are taken, up to `max_ways`; else N is drawn.
        given: the other arguments of `VariableEpisodes`.

    Raises:
        UserError: a group is too small, or none is large enough; or what `VariableEpisodes` refuses.
    """

    extra: ClassVar[int] = 1

    def __init__(self, *given: Any, groups: Sequence[Sequence[int]], whole: bool, **more: Any) -> None:
        super().__init__(*given, **more)
        least, self._whole = self._bounds.min_ways, whole
        if whole:
            groups = [one for one in groups if least <= len(one) <= MOST_LEAVES]
        smallest = min(map(len, groups), default=0)
        if smallest < least:
            raise UserError(
                f"task.bounds.min_ways: found {least}, but {self._where} has "
                + ("no node with so many classes below it" if whole else f"an alphabet of {smallest} characters")
            )
        self.groups = [np.array(one) for one in groups]

    def choose(self, uniform: float, order: NDArray[np.float64], extra: NDArray[np.float64]) -> NDArray[np.int64]:
        group = self.groups[int(extra[0] * len(self.groups))]
        least, most = self._bounds.min_ways, min(self._bounds.max_ways, len(group))
        ways = most if self._whole else least + int(uniform * (most - least + 1))
        chosen: NDArray[np.int64] = group[order[group].argsort()[:ways]]
        return chosen
