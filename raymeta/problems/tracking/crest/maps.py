"""Maps of where a target is: cells of a window, the map that is wanted, its peak, and filters resized to a target.

A window is a square of 5 times the target's longer side and has G x G cells, G odd. As Meta-Tracker's code has it, a
target of w x h cells has a filter of 2 ceil(w/2) + 1 by 2 ceil(h/2) + 1, and the wanted map is

    C = exp(-0.3 (x^2 / sx^2 + y^2 / sy^2)),  x and y in cells from its middle, sx = 0.1 w, sy = 0.1 h

(there 0.2 in place of 0.3 for square targets of more than 120 pixels). Sizes come as shares of the window's side; all
is computed from tensors, so that tasks can be batched.
"""

import torch
from torch import Tensor

WINDOW = 5  # sides of a window by the target's longer one
SIGMA, SHARP = 0.1, 0.3


def cells(shares: Tensor, grid: int) -> Tensor:
    """How many cells lengths have that are shares of a window, rounded up; 1 at least."""
    return torch.ceil(shares * grid - 1e-3).clamp(min=1)  # a share is rounded itself


def extent(shares: Tensor, grid: int) -> Tensor:
    """The filter's cells along a target's sides, at most those of the largest."""
    return (2 * torch.ceil(cells(shares, grid) / 2) + 1).clamp(max=largest(grid))


def largest(grid: int) -> int:
    """The filter's cells along the longer side of every target."""
    longer = -(-grid // WINDOW)
    return 2 * -(-longer // 2) + 1


def inside(count: Tensor, canvas: int) -> Tensor:
    """1 in the middle `count` of so many cells, 0 in the others, [canvas]."""
    at = torch.arange(canvas, device=count.device, dtype=count.dtype) - (canvas - 1) / 2
    return (at.abs() <= (count - 1) / 2).to(count.dtype)


def resizing(count: Tensor, canvas: int, own: int) -> Tensor:
    """The matrix [canvas, own] that resizes `own` values to the middle `count` of a canvas, and to 0 beside them.

    Linear interpolation with aligned ends, as torch did when the code was written.
    """
    here = torch.arange(canvas, device=count.device, dtype=count.dtype) - (canvas - 1) / 2
    at = (here + (count - 1) / 2) * (own - 1) / (count - 1)
    places = torch.arange(own, device=count.device, dtype=count.dtype)
    return (1 - (at[:, None] - places).abs()).clamp(min=0) * inside(count, canvas)[:, None]


def wanted(y: Tensor, grid: int) -> Tensor:
    """The maps [n, G, G] of targets (x, y, w, h) [n, 4], in shares of the window, x and y from its middle."""
    return bell(y[:, :2] * grid, SIGMA * cells(y[:, 2:], grid), grid)


def bell(middle: Tensor, deviations: Tensor, grid: int) -> Tensor:
    """Maps [n, G, G] with a peak of 1 at (x, y) [n, 2] from the middle, of deviations (x, y) [n, 2], all in cells."""
    at = torch.arange(grid, device=middle.device, dtype=middle.dtype) - (grid - 1) / 2
    across, down = (
        ((at - middle[:, axis, None]) / deviations[:, axis, None]).square() for axis in (0, 1)
    )  # fmt: skip
    return torch.exp(-SHARP * (across[:, None, :] + down[:, :, None]))


def maps_of(outputs: Tensor) -> Tensor:
    """The maps [n, G, G] in a network's outputs [n, G G + 2], whose last two numbers are a size."""
    grid = round((outputs.shape[1] - 2) ** 0.5)
    return outputs[:, :-2].reshape(-1, grid, grid)


def peak(maps: Tensor) -> Tensor:
    """Where maps [n, G, G] are highest: (x, y) in cells from the middle, [n, 2].

    Between cells by a parabola through the highest and its neighbours; the code takes the cell.
    """
    grid = maps.shape[-1]
    at = maps.flatten(1).argmax(1)
    row, column = at // grid, at % grid
    lines = (
        torch.take_along_dim(maps, row[:, None, None], 1)[:, 0],
        torch.take_along_dim(maps, column[:, None, None], 2)[:, :, 0],
    )
    return torch.stack([_between(line, place) for line, place in zip(lines, (column, row), strict=True)], 1)


def _between(line: Tensor, place: Tensor) -> Tensor:
    """The top of the parabola through the highest of a line's values [n, G], at [n], and its neighbours."""
    grid = line.shape[-1]
    near = (place[:, None] + torch.arange(-1, 2, device=place.device)).clamp(0, grid - 1)
    left, middle, right = torch.take_along_dim(line, near, 1).unbind(1)
    bend = left - 2 * middle + right
    found = ((left - right) / (2 * torch.where(bend < 0, bend, -1))).clamp(-0.5, 0.5)
    edge = (place == 0) | (place == grid - 1) | (bend >= 0)
    return place - (grid - 1) / 2 + torch.where(edge, 0, found)
