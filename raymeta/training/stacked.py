"""The outer update of many lanes at once: Adam and gradient descent on stacked state.

Each lane has an `OuterUpdate` of its own, which says its step sizes, what decays, what is clipped and what starts over,
and whose optimizer's state is a view of the stacked one: it is saved and loaded as that of a single trial. The
arithmetic is PyTorch's, but for rounding. Only operations that IEEE 754 rounds correctly are used, one at a time, so
that a number does not depend on where in a tensor it lies.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from raymeta.training.outer import Gradients, OuterUpdate

BETAS, EPSILON = (0.9, 0.999), 1e-8  # PyTorch's defaults
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class StackedUpdate:
    """The optimizers of up to L lanes.

    Args:
        update: of a trial of this structure.
        learned: the stacked parameters by name, [L, ...].
    """

    def __init__(self, update: OuterUpdate, learned: Mapping[str, Tensor]) -> None:
        outer = update.outer
        self.learned, self._adam, self._outer = learned, outer.optimizer == "adam", outer
        moments = MOMENTS[outer.optimizer] if self._adam or outer.momentum else ()
        self.state = {key: {name: torch.zeros_like(p) for name, p in learned.items()} for key in moments}
        self.width = len(next(iter(learned.values())))
        self._steps = {name: torch.zeros(self.width) for name in learned}  # on the CPU, as PyTorch's
        self._updates: list[OuterUpdate | None] = [None] * self.width
        self._rows: list[dict[str, dict[str, Tensor]]] = [{} for _ in range(self.width)]  # of each lane by parameter

    def take(self, lane: int, update: OuterUpdate) -> None:
        """A lane's optimizer lies here from now on, with the state that it has."""
        self._updates[lane] = update
        for name, parameter in update.learned.items():
            self._bind(lane, name, dict(update.optimizer.state.get(parameter, {})), update)

    def give(self, lane: int) -> None:
        """Give a lane's optimizer a state of its own again."""
        update = self._updates[lane]
        assert update is not None, f"lane {lane} is empty"
        for parameter in update.learned.values():
            if (state := update.optimizer.state.pop(parameter, None)) and state.get("step", 1) > 0:
                update.optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
        self._updates[lane], self._rows[lane] = None, {}

    def begin(self, lane: int, outer_step: int) -> None:
        """Make a lane ready for an outer step: its step sizes, and what starts over."""
        update = self._updates[lane]
        assert update is not None, f"lane {lane} is empty"
        update.begin(outer_step)
        for name, parameter in update.learned.items():  # what starts over or was loaded does not lie here
            if (found := update.optimizer.state.get(parameter)) is not self._rows[lane].get(name):
                self._bind(lane, name, found or {}, update)

    def _bind(self, lane: int, name: str, found: Mapping[str, Tensor | None], update: OuterUpdate) -> None:
        """Lay a parameter's state into its row; what it does not have yet starts at zero."""
        rows = {key: stacked[name][lane] for key, stacked in self.state.items()}
        if self._adam:
            rows["step"] = self._steps[name][lane]
        for key, row in rows.items():
            value = found.get(key)
            row.zero_() if value is None else row.copy_(value)
        if rows:
            update.optimizer.state[update.learned[name]] = self._rows[lane][name] = rows

    def follow(self, gradients: Gradients, lanes: Sequence[int]) -> None:
        """An update of some lanes; what is in the others stays as it is.

        Args:
            gradients: by name, [L, ...], clipped; a name that is missing is left alone.
            lanes: whose `begin` was called for this outer step.
        """
        device = next(iter(self.learned.values())).device
        sizes, decays = self._tables(lanes)
        chosen = None
        if len(lanes) < self.width:
            mask = torch.zeros(self.width, dtype=torch.bool)
            mask[list(lanes)] = True
            chosen = mask.to(device, non_blocking=True)
        with torch.no_grad():
            for name, gradient in gradients.items():
                parameter = self.learned[name]

                def row(values: Sequence[float], like: Tensor = parameter) -> Tensor:
                    found = torch.tensor(values, dtype=like.dtype).to(device, non_blocking=True)
                    return found.view(-1, *[1] * (like.ndim - 1))

                moved = gradient + row(decays[name]) * parameter
                rule = self._adams if self._adam else self._sgds
                fresh = rule(name, moved, row(sizes[name]), row, lanes)
                for old, new in fresh:
                    old.copy_(new if chosen is None else torch.where(_over(chosen, old), new, old))

    def _adams(self, name: str, g: Tensor, size: Tensor, row, lanes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:  # type: ignore[no-untyped-def]
        steps = self._steps[name]
        for lane in lanes:
            steps[lane] += 1
        corrections = [_corrections(int(step)) for step in steps.tolist()]
        first, second = (row([pair[i] for pair in corrections]) for i in (0, 1))
        mean, square = (self.state[key][name] for key in MOMENTS["adam"])
        new_mean = mean + (g - mean) * (1 - BETAS[0])
        new_square = square * BETAS[1] + (g * g) * (1 - BETAS[1])
        change = new_mean / (new_square.sqrt() / second + EPSILON) * (size / first)
        parameter = self.learned[name]
        return [(parameter, parameter - change), (mean, new_mean), (square, new_square)]

    def _sgds(self, name: str, g: Tensor, size: Tensor, row, lanes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:  # type: ignore[no-untyped-def]
        parameter, momentum = self.learned[name], self._outer.momentum
        if not momentum:
            return [(parameter, parameter - size * g)]
        velocity = self.state["momentum_buffer"][name]
        new = velocity * momentum + g
        way = g + new * momentum if self._outer.nesterov else new
        return [(parameter, parameter - size * way), (velocity, new)]

    def _tables(self, lanes: Sequence[int]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Step sizes and weight decays by parameter, a number for each lane."""
        sizes, decays = ({name: [0.0] * self.width for name in self.learned} for _ in range(2))
        for lane in lanes:
            update = self._updates[lane]
            assert update is not None, f"lane {lane} is empty"
            for group, names in zip(update.optimizer.param_groups, update.names, strict=True):
                for name in names:
                    sizes[name][lane], decays[name][lane] = group["lr"], group["weight_decay"]
        return sizes, decays


@cache
def _corrections(step: int) -> tuple[float, float]:
    """What Adam's moments are short of after so many steps; for none 1, which idle lanes divide by."""
    return (1 - BETAS[0] ** step, (1 - BETAS[1] ** step) ** 0.5) if step else (1.0, 1.0)


def _over(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.ndim - 1))
