"""Problems whose examples can be drawn with what a learner predicts of them, for reports and analyses."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from raymeta.problem import Bank


class DrawsExamples(ABC):
    """What such a problem has beside `Problem`."""

    @abstractmethod
    def show_example(self, axis: Any, x: Tensor, y: Tensor, output: Tensor) -> str:
        """Draw a query example with what is predicted of it; returns a few words on that.

        Args:
            axis: matplotlib's.
            x: the example [...].
            y: what it should give.
            output: of the adapted learner.
        """

    @abstractmethod
    def example(self, y: Tensor, output: Tensor) -> dict[str, Any]:
        """How a prediction does, as columns of a table."""

    @abstractmethod
    def called(self, bank: Bank, number: int) -> str:
        """What a task of a bank is of, in a word."""
