"""Random numbers without a state: a function of (seed, outer step, task, place in the task's stream).

The same in a loop, under vmap, in a captured graph, on any device: integer arithmetic on tensors, no generator. The
function is Threefry-2x32 with 13 rounds, the fewest that pass all of BigCrush.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raymeta.engine.transfer import sent

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 13
CACHED = 65536  # words mixed at a time on a CPU, some hundred times each: they stay in its second cache
LEAST, MOST = 512, 2048  # blocks computed at once beyond what is asked for: small draws share the cost of a call
TRAINING, EVALUATION = 0, 1  # streams of their own


def threefry(key: tuple[Tensor, Tensor], block: tuple[Tensor, Tensor], rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Two words of 32 random bits for every block.

    Args:
        key: two words, int32 whose bits are read as unsigned, of shapes that go with the block's.
        block: two words likewise, the counter.
        rounds: of mixing.
    """
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    x, y = block[0] + keys[0], block[1] + keys[1]
    for turn in range(rounds):
        left = ROTATIONS[turn % len(ROTATIONS)]
        x += y
        # An int32 shifted to the right brings in copies of its sign: the mask takes them out.
        carried = (y >> (32 - left)).bitwise_and_((1 << left) - 1)
        y = y.bitwise_left_shift_(left).bitwise_or_(carried).bitwise_xor_(x)
        if turn % 4 == 3:
            inject = turn // 4 + 1
            x += keys[inject % 3]
            y += keys[(inject + 1) % 3] + inject
    return x, y


class _Words(torch.autograd.Function):
    """Blocks of the streams of keys [..., 2]: two words of each, int32 [..., count]. Under vmap all keys at once."""

    @staticmethod
    def forward(keys: Tensor, place: int, count: int) -> tuple[Tensor, Tensor]:
        blocks = torch.arange(place, place + count, dtype=torch.int32, device=keys.device)
        zeros, flat = torch.zeros_like(blocks), keys.reshape(-1, 2)
        size = max(CACHED // count, 1) if keys.device.type == "cpu" else len(flat)
        pieces = [threefry((some[:, :1], some[:, 1:]), (blocks, zeros)) for some in torch.split(flat, size)]
        first, second = (torch.cat(words).view(*keys.shape[:-1], count) for words in zip(*pieces, strict=True))
        return first, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], keys: Tensor, place: int, count: int) -> tuple[Any, tuple[int, int]]:
        return _Words.apply(keys.movedim(in_dims[0], 0), place, count), (0, 0)


def task_keys(seed: int | Sequence[int], step: int | Sequence[int], tasks: Tensor, stream: int = TRAINING) -> Tensor:
    """Keys of the noise of the tasks of an outer step, int32 [T, 2]; of L trials [L, T, 2].

    Args:
        seed: of the trial, below 2**32, or of each of L.
        step: the outer step, or that of each trial; in evaluation 0.
        tasks: their numbers in the step, in evaluation in their bank; int32 [T], where the noise will be.
        stream: what the noise is for; each is independent of the others.
    """

    def words(value: int | Sequence[int]) -> Tensor:
        if isinstance(value, int):  # filled in by a kernel rather than copied from the host, which waits for the device
            return torch.full_like(tasks, _signed(value))
        return sent(as_words(value), tasks.device)[:, None]

    return keys_of(words(seed), words(step), tasks, stream)


def keys_of(seed: Tensor, step: Tensor, tasks: Tensor, stream: int = TRAINING) -> Tensor:
    """`task_keys` of words that are there, int32 of shapes that go with the tasks': [..., T, 2]."""
    of_all = torch.broadcast_tensors(  # type: ignore[no-untyped-call]
        seed, torch.full_like(tasks, _signed(stream)), step, tasks
    )
    return torch.stack(threefry((of_all[0], of_all[1]), (of_all[2], of_all[3])), -1)


def as_words(values: Sequence[int]) -> Tensor:
    """Integers below 2**32 as words, int32 on the CPU."""
    return torch.tensor([_signed(one) for one in values], dtype=torch.int32)


class Noise:
    """The random numbers of a task, drawn one after the other from its stream.

    Args:
        key: the task's, int32 [2], one of `task_keys`; under vmap the batched one.
    """

    def __init__(self, key: Tensor) -> None:
        self._key = key
        self._place = 0  # blocks used up
        self._start = 0  # block that the buffer starts at
        self._buffer: tuple[Tensor, Tensor] | None = None

    def uniform(self, like: Tensor) -> Tensor:
        """Values uniform in [0, 1), multiples of 2**-24, in the shape, type and place of `like`."""
        return _laid(self._units(like), like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal values in the shape, type and place of `like` (Box-Muller, below 5.8 in size)."""
        return _laid(_normal(*self._units(like)), like)

    def either(self, like: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What a function makes of each value that `uniform` and `normal` would give, which are of the same draw."""
        units = self._units(like)
        return _laid([pick(*both) for both in zip(units, _normal(*units), strict=True)], like)

    def skip(self, like: Tensor) -> None:
        """Leave out what a draw for this tensor would use up: those after it do not depend on whether it is made."""
        self._place += (like.numel() + 1) // 2

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Two rows of uniform numbers, enough for a value of each element of `like` between them."""
        count = (like.numel() + 1) // 2
        first, second = (_unit(words, like.dtype) for words in self._words(count))
        return first, second

    def _words(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` blocks of the stream."""
        place, end = self._place, self._place + count
        self._place = end
        if self._buffer is None or end > self._start + len(self._buffer[0]):
            # Which blocks are computed together changes nothing in them.
            ahead = LEAST if self._buffer is None else min(2 * len(self._buffer[0]), MOST)
            self._start, self._buffer = place, _Words.apply(self._key, place, max(count, ahead))
        at = place - self._start
        return self._buffer[0][at : at + count], self._buffer[1][at : at + count]


def _normal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    radius = (-2 * (1 - first).log()).sqrt()
    angle = second * (2 * math.pi)
    return radius * angle.cos(), radius * angle.sin()


def _laid(halves: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(halves).narrow(0, 0, like.numel()).view(like.shape)  # type: ignore[arg-type]


def _unit(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The upper 24 bits of int32 words as multiples of 2**-24: exact in float32 and float64."""
    return ((words >> 8) & 0xFFFFFF).to(dtype) * 2.0**-24


def _signed(word: int) -> int:
    """The lower 32 bits of an integer as an int32."""
    return (word + 2**31) % 2**32 - 2**31
