"""Float32 against float64, task by task, where ties are told from errors.

A ReLU or a pool decides by a comparison, and a gradient jumps where rounding turns one over. So a task's outer gradient
must be right to rounding where both precisions decide alike throughout; where they do not, the first pass that differs
must have been at a tie.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner, task_loss
from raymeta.ops import block, first
from raymeta.problem import Examples, Task, open_problem

TASKS = 6
ROUNDING, TIE = 5e-6, 5e-6  # of a gradient, relative; of a comparison of normalised values, absolute; by tiles of 2
Decisions = list[
    tuple[Tensor, Tensor]
]  # of a block in a pass: codes [n, C, h, w], what was compared [n, C, h, w, 4 or 1]


def windows(values: Tensor, pool: bool) -> Tensor:
    """What each result was taken from."""
    if not pool:
        return values[..., None]
    cut = values[..., : values.shape[2] // 2 * 2, : values.shape[3] // 2 * 2]
    return cut.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> Decisions:
    """What blocks decide, as they run."""
    seen: Decisions = []
    tail_forward, call = block.tail_forward, first._call

    def of_maps(how: Any, z: Tensor, scale: Tensor, shift: Tensor, kept: bool) -> Any:
        y, codes, picked, mean, inverse = tail_forward(how, z, scale, shift, kept)
        values = (z.movedim(1, -1) - mean) * (inverse * scale) + shift
        seen.append((codes, windows(values.movedim(-1, 1), how.pool)))
        return y, codes, picked, mean, inverse

    def of_images(name: str, how: Any, width: int, *tensors: Tensor) -> None:
        call(name, how, width, *tensors)
        if name == "first":
            images, pool, _ = how
            matrix, shift, _, codes = tensors
            weight = matrix.view(3, 3, images.shape[1], width).permute(3, 2, 0, 1)
            seen.append((codes, windows(F.conv2d(images, weight, shift), pool)))

    monkeypatch.setattr(block, "tail_forward", of_maps)
    monkeypatch.setattr(first, "_call", of_images)
    return seen


def learner(dtype: torch.dtype, tiles: int) -> Learner:
    """Conv-4-16 and two second-order steps, the same for every type of number."""
    config = parse_trial(
        {
            "method": "maml",
            "maml": {"order": "second", "inner_steps": 2, "inner_lr": 0.1},
            "model": {"name": "conv4", "width": 16},
            "engine": {"device": "cpu", "kernels": "native", "tiles": tiles},
        }
    )
    return build_learner(config, open_problem(config.task)).to(dtype)


def task(number: int, dtype: torch.dtype) -> Task:
    generator = torch.Generator().manual_seed(number)
    means = torch.randn(5, 1, 1, 28, 28, generator=generator)
    parts = [(means + torch.randn(5, each, 1, 28, 28, generator=generator)).flatten(0, 1).to(dtype) for each in (1, 3)]
    return Task(*(Examples(x, torch.arange(5).repeat_interleave(len(x) // 5)) for x in parts))


def gradient(learner: Learner, task: Task) -> Tensor:
    values = torch.autograd.grad(task_loss(learner, task, Context(True)), list(learner.parameters()))
    return torch.cat([value.flatten() for value in values]).double()


def margin(exact: tuple[Tensor, Tensor], codes: Tensor) -> float:
    """By how much, at most, decisions were made differently."""
    theirs, values = exact
    ours, best = (values.gather(-1, (one & 3).long()[..., None])[..., 0] for one in (codes, theirs))
    apart = (best - ours).abs() + torch.where((codes >= 4) != (theirs >= 4), best.abs(), 0)
    return float(apart.max())


@pytest.mark.parametrize("tiles", [2, 4])
def test_what_is_not_rounding_is_a_tie(decisions: Decisions, tiles: int) -> None:
    single, double = learner(torch.float32, tiles), learner(torch.float64, tiles)
    double.load_state_dict(single.state_dict())
    alike = 0
    for number in range(TASKS):
        found: list[tuple[Tensor, Decisions]] = []
        for each, dtype in ((single, torch.float32), (double, torch.float64)):
            decisions.clear()
            found.append((gradient(each, task(number, dtype)), decisions.copy()))
        (ours, mine), (exact, theirs) = found
        assert len(mine) == len(theirs) == 3 * 4
        differ = [
            place for place, (one, other) in enumerate(zip(mine, theirs, strict=True)) if (one[0] != other[0]).any()
        ]
        if differ:
            last = differ[0] // 4 * 4 + 4  # what comes after that pass began from other weights
            assert max(margin(theirs[place], mine[place][0]) for place in differ if place < last) < TIE * tiles / 2
        else:
            alike += 1
            assert float((ours - exact).norm() / exact.norm()) < ROUNDING * tiles / 2
    assert alike >= TASKS // 2
