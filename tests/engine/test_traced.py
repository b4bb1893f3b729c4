"""Functions as flat lists of operations: when they are traced, and that they stay what they are."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta.engine import traced
from raymeta.engine.traced import Traced


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "AFTER", 2)


def test_each_kind_of_call_is_traced_once(soon: None) -> None:
    runs: list[Any] = []

    def slope(power: int, x: Tensor, more: dict[str, Any]) -> dict[str, Tensor]:
        runs.append((power, tuple(x.shape), more["scale"]))
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad((more["scale"] * more["own"] * x**power).sum(), x)
        return {"slope": found}

    function = Traced(slope)
    for number in range(6):
        for power, length, scale in ((2, 3, 1.0), (3, 3, 1.0), (3, 4, 1.0), (3, 4, 5.0)):
            x, own = torch.full((length,), 1.0 + number), torch.tensor(float(number))
            found = function(power, x, {"own": own, "scale": scale})["slope"]
            assert found.tolist() == [scale * number * power * (1.0 + number) ** (power - 1)] * length
            assert not found.requires_grad
    assert len(runs) == 4 * (2 + 1)  # called twice, and once to be traced
    assert function.problem is None


def test_what_cannot_be_traced_is_called_and_what_the_attempt_had_is_let_go(soon: None) -> None:
    held: list[Any] = []

    def by_value(fixed: None, x: Tensor) -> Tensor:
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        try:
            raise LookupError
        except LookupError:  # an error that comes now knows of this one, and of where it was
            return x * int(x.sum())

    function = Traced(by_value)
    for number in range(5):
        assert function(None, torch.full((2,), number)).tolist() == [2 * number**2] * 2
    assert function.problem is not None
    assert len(held) == 5 + 1
    assert all(one() is None for one in held)


def test_no_more_than_some_kinds_are_kept(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Traced, "most", 1)
    runs: list[int] = []

    def doubled(fixed: None, x: Tensor) -> Tensor:
        runs.append(len(x))
        return 2 * x

    function = Traced(doubled)
    for _ in range(5):
        for length in (1, 2):
            assert function(None, torch.ones(length)).tolist() == [2.0] * length
    assert runs.count(1) == 3
    assert runs.count(2) == 5
