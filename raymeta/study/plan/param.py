"""One searched key: its range or choices, and when it is searched."""

import sys
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from raymeta.schema import Section

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool | None
Point = dict[str, Value]  # dotted key to value


class Condition(Section):
    """When a parameter is searched: another one is above or below a number, or one of some values."""

    above: float | None = None
    below: float | None = None
    one_of: tuple[Value, ...] | None = None

    def __str__(self) -> str:
        values = " or ".join(map(str, self.one_of)) if self.one_of is not None else None
        parts = {"above ": self.above, "below ": self.below, "": values}
        return ", ".join(f"{word}{bound}" for word, bound in parts.items() if bound is not None)

    def holds(self, value: Any) -> bool:
        """Whether a value of the other parameter meets it."""
        number = isinstance(value, int | float)
        return (
            (self.above is None or (number and value > self.above))
            and (self.below is None or (number and value < self.below))
            and (self.one_of is None or value in self.one_of)
        )


class Param(Section):
    """One searched key: exactly one of `float`, `int` and `choice`; ranges include both ends."""

    float_: tuple[float, float] | None = Field(None, alias="float")
    int_: tuple[int, int] | None = Field(None, alias="int")
    choice: tuple[Value, ...] | None = Field(None, min_length=1)
    log: bool = False
    step: int = Field(1, ge=1, description="Of an int.")
    when: dict[str, Condition] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in (self.float_, self.int_, self.choice) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("give exactly one of float: [low, high], int: [low, high] and choice: [...]")
        if self.choice is None:
            low, high = kinds[0]
            if not low <= high:  # type: ignore[operator]
                raise ValueError(f"the range [{low}, {high}] is empty: low is above high")
            if high - low > sys.float_info.max:  # type: ignore[operator]
                raise ValueError(f"the range [{low}, {high}] is too wide to draw numbers from")
            if self.log and low <= 0:  # type: ignore[operator]
                raise ValueError(f"a log range must lie above 0, found [{low}, {high}]")
        elif self.log:
            raise ValueError("log is for float and int, not for choice")
        elif len({(type(value), value) for value in self.choice}) < len(self.choice):
            raise ValueError(f"a choice is there twice: {', '.join(map(str, self.choice))}")
        if self.step > 1:
            self._check_step()
        return self

    def _check_step(self) -> None:
        if self.int_ is None or self.log:
            raise ValueError("a step is for whole numbers that are not on a log scale")
        low, high = self.int_
        if over := (high - low) % self.step:
            ends = [end for end in (high - over, high - over + self.step) if end > low]
            raise ValueError(
                f"steps of {self.step} from {low} do not end at {high}; allowed: {' or '.join(map(str, ends))}"
            )

    @property
    def one_value(self) -> bool:
        """It is a range of one number, which searches nothing."""
        low, high = self.float_ or self.int_ or (0, 1)
        return low == high

    def contains(self, value: Any) -> bool:
        """Whether a value can be proposed."""
        if self.choice is not None:
            return any(value == option and type(value) is type(option) for option in self.choice)
        low, high = self.float_ or self.int_ or (0, 0)
        number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return number and (self.int_ is None or (value - low) % self.step == 0)

    def nearest(self, value: Any) -> Value:
        """The value that can be proposed next to this one: the nearest number, or the first choice."""
        if self.contains(value):
            return int(value) if self.int_ is not None else value
        if self.choice is not None:
            return self.choice[0]
        low, high = self.float_ or self.int_ or (0, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return low
        inside = min(max(value, low), high)
        return inside if self.int_ is None else low + round((inside - low) / self.step) * self.step

    def propose(self, trial: "optuna.Trial", key: str) -> Value:
        """Ask Optuna for a value."""
        if self.float_ is not None:
            return trial.suggest_float(key, *self.float_, log=self.log)
        if self.int_ is not None:
            return trial.suggest_int(key, *self.int_, step=self.step, log=self.log)
        assert self.choice is not None
        return trial.suggest_categorical(key, self.choice)

    def __str__(self) -> str:
        if self.choice is not None:
            return "{" + ", ".join(map(str, self.choice)) + "}"
        low, high = self.float_ or self.int_ or (0, 0)
        step = f" by {self.step}" if self.step > 1 else ""
        return f"[{low:g}, {high:g}]" + (" log" if self.log else "") + (" int" if self.int_ else "") + step
