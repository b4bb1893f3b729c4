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

from raymeta.engine.transfer import sent
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

    def asked(self, lanes: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """What `fresh` takes for an update of some lanes, whose `begin` was called for this outer step.

        Returns:
            Step size, weight decay and Adam's two corrections by parameter, [N, 4, L]; which lanes, [L], or None: all.
        """
        device = next(iter(self.learned.values())).device
        sizes, decays = self._tables(lanes)
        rows = []
        for name in self.learned:
            counts = [int(step) for step in self._steps[name].tolist()]
            for lane in lanes:
                counts[lane] += 1
            first, second = zip(*map(_corrections, counts), strict=True)
            rows.append([sizes[name], decays[name], first, second])
        chosen = None
        if len(lanes) < self.width:
            mask = torch.zeros(self.width, dtype=torch.bool)
            mask[list(lanes)] = True
            chosen = sent(mask, device)
        return sent(torch.tensor(rows, dtype=torch.float64), device), chosen

    def fresh(
        self,
        learned: Mapping[str, Tensor],
        state: Mapping[str, Mapping[str, Tensor]],
        gradients: Gradients,
        table: Tensor,
        chosen: Tensor | None,
    ) -> dict[str, list[Tensor]]:
        """What an update makes of parameters and moments, by parameter; nothing is written.

        Args:
            learned: the parameters by name, among others.
            state: the moments.
            gradients: by name, [L, ...], clipped; a name that is missing is left alone.
            table: from `asked`.
            chosen: likewise; what is in other lanes stays as it is.
        """
        found = {}
        with torch.no_grad():
            for name, of_each in zip(self.learned, table.to(next(iter(self.learned.values())).dtype), strict=True):
                if name not in gradients:
                    continue
                parameter, moments = learned[name], [of_all[name] for of_all in state.values()]
                size, decay, *corrections = (row.view(-1, *[1] * (parameter.ndim - 1)) for row in of_each)
                moved = gradients[name] + decay * parameter
                new = (
                    _adam(parameter, moments, moved, size, corrections)
                    if self._adam
                    else self._sgd(parameter, moments, moved, size)
                )
                if chosen is not None:
                    new = [torch.where(_over(chosen, a), a, b) for a, b in zip(new, [parameter, *moments], strict=True)]
                found[name] = new
        return found

    def follow(self, fresh: Mapping[str, Sequence[Tensor]], lanes: Sequence[int]) -> None:
        """Write what `fresh` has made of these lanes."""
        for name, values in fresh.items():
            for old, new in zip([self.learned[name], *(own[name] for own in self.state.values())], values, strict=True):
                old.copy_(new)
            if self._adam:
                for lane in lanes:
                    self._steps[name][lane] += 1

    def _sgd(self, parameter: Tensor, moments: list[Tensor], g: Tensor, size: Tensor) -> list[Tensor]:
        momentum = self._outer.momentum
        if not momentum:
            return [parameter - size * g]
        new = moments[0] * momentum + g
        way = g + new * momentum if self._outer.nesterov else new
        return [parameter - size * way, new]

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


def _adam(parameter: Tensor, moments: list[Tensor], g: Tensor, size: Tensor, corrections: list[Tensor]) -> list[Tensor]:
    mean, square = moments
    first, second = corrections
    mean = mean + (g - mean) * (1 - BETAS[0])
    square = square * BETAS[1] + (g * g) * (1 - BETAS[1])
    change = mean / (square.sqrt() / second + EPSILON) * (size / first)
    return [parameter - change, mean, square]


@cache
def _corrections(step: int) -> tuple[float, float]:
    """What Adam's moments are short of after so many steps; for none 1, which idle lanes divide by."""
    return (1 - BETAS[0] ** step, (1 - BETAS[1] ** step) ** 0.5) if step else (1.0, 1.0)


def _over(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.ndim - 1))
