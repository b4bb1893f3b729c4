"""Capturing, on a back end that does operations again on the same memory, as CUDA's does."""

import gc
import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from raymeta.engine import graphs
from raymeta.engine.graphs import BEFORE, CHECKED, Captured, CudaGraphs
from raymeta.engine.recorded import RecordedGraphs

READY = BEFORE + 1  # calls until one is captured


def scaled(fixed: Any, weights: Any, x: Tensor, more: Any) -> dict[str, Any]:
    """A function with a gradient in it."""
    weight = weights["w"].detach().requires_grad_()
    loss = (x @ weight * (2 if fixed else 3)).square().mean() * more[1]
    return {"loss": loss.detach(), "gradient": torch.autograd.grad(loss, weight)[0] + more[0]}


def drawn(seed: int, rows: int = 4) -> tuple[Tensor, tuple[Tensor, float]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, generator=generator), (torch.randn(3, generator=generator), 0.5)


def same(found: Any, expected: Any) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_replay_sees_what_is_given_and_what_stays() -> None:
    recorder, weights = RecordedGraphs(), {"w": torch.ones(3)}
    captured = Captured(scaled, recorder)
    for seed in range(12):
        with torch.no_grad():
            weights["w"] += 0.1 * torch.randn(3)  # written in place, as by an optimizer
        given = drawn(seed)
        assert same(captured(True, weights, *given), scaled(True, weights, *given))
    assert (recorder.early_calls, recorder.recorded, recorder.replays) == (BEFORE, 1, 12 - BEFORE)
    assert captured.problem is None


def test_kinds_of_calls_are_told_apart() -> None:
    recorder, weights = RecordedGraphs(), {"w": torch.ones(3)}
    captured = Captured(scaled, recorder)
    for turn in range(3 * READY):
        for fixed, rows, more in ((True, 4, 0.5), (False, 4, 0.5), (True, 5, 0.5), (True, 4, 0.25)):
            x, (shift, _) = drawn(turn, rows)
            assert same(captured(fixed, weights, x, (shift, more)), scaled(fixed, weights, x, (shift, more)))
        if turn == READY:  # what stays lies elsewhere: four kinds more
            weights = {"w": torch.full((3,), 2.0)}
    assert (recorder.recorded, captured.problem) == (8, None)
    transposed = torch.ones(3, 4).t()
    assert captured._about(transposed) != captured._about(transposed.contiguous())


def test_results_are_overwritten_by_the_next_call_of_any_kind() -> None:
    captured, weights = Captured(scaled, RecordedGraphs()), {"w": torch.ones(3)}
    for turn in range(READY + CHECKED):
        for rows in (4, 5):
            captured(True, weights, *drawn(turn, rows))
    first = captured(True, weights, *drawn(0))
    expected = first["loss"].clone()
    captured(True, weights, *drawn(1, 5))
    assert not first["loss"].equal(expected)


def test_what_is_no_input_is_found_out() -> None:
    """A number from outside stays at what it was at the capture: the first replays don't agree, and say so."""
    rate = [1.0]

    def leaking(fixed: Any, weights: Any, x: Tensor) -> Tensor:
        return weights["w"] * x * rate[0]

    captured, weights = Captured(leaking, RecordedGraphs()), {"w": torch.ones(3)}
    for turn in range(3 * READY):
        rate[0] = turn + 1.0
        assert captured(None, weights, torch.ones(3)).equal(torch.full((3,), turn + 1.0))
    assert "other numbers" in str(captured.problem)


class Failing(RecordedGraphs):
    """A capture that is not possible."""

    def record(self, flat: Any, tensors: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_cannot_be_captured_runs_as_it_is_and_says_why() -> None:
    captured, weights = Captured(scaled, Failing()), {"w": torch.ones(3)}
    for seed in range(2 * READY):
        assert same(captured(True, weights, *drawn(seed)), scaled(True, weights, *drawn(seed)))
    assert str(captured.problem) == "operation not permitted when stream is capturing"
    assert not captured._ready


def test_one_kind_that_cannot_be_captured_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, weights = RecordedGraphs(), {"w": torch.ones(3)}
    captured = Captured(scaled, recorder)
    for seed in range(2 * READY):
        captured(True, weights, *drawn(seed))
    monkeypatch.setattr(recorder, "record", Failing().record)
    for seed in range(2 * READY):
        assert same(captured(False, weights, *drawn(seed)), scaled(False, weights, *drawn(seed)))
    before = recorder.replays
    assert same(captured(True, weights, *drawn(0)), scaled(True, weights, *drawn(0)))
    assert (recorder.replays, captured.problem is None) == (before + 1, False)


@pytest.mark.parametrize(
    ("found", "equal"),
    [([1.0, 2.0], True), ([1.0, 2.1], True), ([1.0, 3.0], False), ([1.0, float("nan")], False), ([0.0, 0.0], False)],
)
def test_rounding_is_no_difference(found: list[float], equal: bool) -> None:
    def tree(values: list[float]) -> Any:
        return {"a": torch.tensor(values), "n": torch.tensor(1)}

    assert graphs.alike(tree(found), tree([1.0, 2.0])) is equal
    lost = tree([1.0, float("inf")])
    assert graphs.alike(lost, lost)


def test_a_tensor_on_another_device_is_named() -> None:
    captured, weights = Captured(lambda fixed, weights, x: weights["w"], RecordedGraphs()), {"w": torch.ones(3)}
    for _ in range(READY):
        captured(None, weights, torch.ones(3, device="meta"))
    assert str(captured.problem) == "a tensor is on meta, others are on cpu"


@pytest.mark.parametrize("fails", [False, True])
def test_what_cuda_is_asked_for_in_which_order(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in that takes what torch's own takes; there is no GPU here."""
    taken, seen, own = inspect.signature(torch.cuda.graph), [], MagicMock()

    def captures(*given: Any, **named: Any) -> AbstractContextManager[None]:
        bound = taken.bind(*given, **named).arguments
        assert (bound["pool"], bound["stream"]) == ("pool", own)
        seen.append("capture")
        return nullcontext()

    for name, value in {
        "Stream": lambda: own, "graph_pool_handle": lambda: "pool", "current_stream": MagicMock(),
        "stream": lambda stream: nullcontext(seen.append("beside")), "graph": captures,
        "CUDAGraph": lambda: MagicMock(replay=lambda: seen.append("replay")),
    }.items():  # fmt: skip
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, value)

    def flat(tensors: list[Tensor]) -> str:
        assert not gc.isenabled()
        if fails:
            raise RuntimeError("refused")
        return "results"

    graphs = CudaGraphs()
    assert graphs.early(lambda: "early") == "early"
    own.wait_stream.assert_called_once()
    if fails:
        with pytest.raises(RuntimeError, match="refused"):
            graphs.record(flat, [])
        assert gc.isenabled()
        return
    again = graphs.record(flat, [])
    assert gc.isenabled()
    assert [again(), again()] == ["results", "results"]
    assert seen == ["beside", "capture", "replay", "replay"]
