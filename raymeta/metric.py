"""What a problem is scored by, and what a score says."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A problem's score.

    Attributes:
        name: as in `val_<name>`.
        mode: whether more is better.
        unit: printed after a value.
        scale: what a value is multiplied by when it is printed.
        digits: printed behind the point.
    """

    name: str
    mode: Literal["max", "min"]
    unit: str = ""
    scale: float = 1.0
    digits: int = 4

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another; anything finite beats None."""
        return isfinite(value) and (than is None or (value > than if self.mode == "max" else value < than))

    def text(self, value: float, ci95: float | None = None) -> str:
        """`97.12 % ± 0.30`: a value, and the half-width of its interval."""
        shown = f"{self.scale * value:.{self.digits}f}{f' {self.unit}' if self.unit else ''}"
        return shown + (f" ± {self.scale * ci95:.{self.digits}f}" if ci95 is not None else "")


def half_width(values: Sequence[float]) -> float:
    """Half-width of the normal 95 % interval of a mean: 1.96 sd / sqrt(n)."""
    return 1.96 * statistics.stdev(values) / sqrt(len(values))


@dataclass(frozen=True)
class Score:
    """Scores of the tasks of an evaluation.

    Attributes:
        values: a score per task, [tasks].
        loss: mean query loss.
        also: other means over the tasks, by name.
        before: the scores before any adaptation, [tasks], where they are known.
    """

    values: Tensor
    loss: float
    also: Mapping[str, float] = field(default_factory=dict)
    before: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return float(self.values.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the normal 95 % interval over tasks: 1.96 sd / sqrt(tasks)."""
        return _half_width(self.values)

    def noted(self, metric: str) -> dict[str, float]:
        """What a round of a trial notes of a validation: means, and half-widths of their intervals."""
        found = {f"val_{metric}": self.mean, "val_ci95": self.ci95, "val_loss": self.loss}
        found |= {f"val_{name}": value for name, value in self.also.items()}
        if self.before is not None:
            found |= {f"val_{metric}_before": float(self.before.mean())}
            found |= {f"val_{metric}_before_ci95": _half_width(self.before)}
        return found


def _half_width(values: Tensor) -> float:
    return 1.96 * float(values.std()) / sqrt(len(values))
