import math

import pytest
import torch
from reference import joined, same_tasks
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import TestSplitClosed, open_problem
from raymeta.problems.sinusoid import Curves, SinusoidTask

TASK = SinusoidTask()


def test_shapes_and_ranges() -> None:
    dataset = open_problem(TASK)
    dataset.prepare()
    assert (dataset.labels, dataset.input_shape, dataset.outputs, dataset.ready) == (None, (1,), 1, True)
    train, validation = (dataset.bank(split, 0).draw(0, 50) for split in ("train", "validation"))  # type: ignore[arg-type]
    assert [tuple(t.shape) for part in train for t in part] == [(50, 10, 1)] * 4
    assert validation.query.x.shape == (50, 100, 1)
    assert {t.dtype for part in validation for t in part} == {torch.float32}
    x, y = validation.query.x, validation.query.y
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    assert 4 < y.abs().max() <= 5


def test_points_lie_on_one_curve_of_the_family() -> None:
    """Solved for from the points alone: for the right w, y is a linear function of sin(w x) and cos(w x)."""
    episodes = open_problem(TASK).bank("validation", 5).draw(0, 20)
    for i in range(episodes.size):
        (support_x, support_y), (query_x, query_y) = episodes.map(Tensor.double).task(i)
        best = (math.inf, 0.0, torch.zeros(2))
        for w in torch.linspace(0.8, 1.2, 2001).tolist():
            basis = torch.cat([torch.sin(w * query_x), torch.cos(w * query_x)], 1)
            fit = torch.linalg.lstsq(basis, query_y).solution
            best = min(best, (float((basis @ fit - query_y).abs().max()), w, fit[:, 0]), key=lambda found: found[0])
        error, w, fit = best
        amplitude, phase = float(fit.norm()), math.atan2(float(fit[1]), float(fit[0]))
        assert error < 5e-3 * amplitude
        assert amplitude * 1.001 >= 0.1
        assert amplitude <= 5.005
        assert -0.002 <= phase <= math.pi + 0.002
        assert torch.allclose(amplitude * torch.sin(w * support_x + phase), support_y, atol=1e-2 * amplitude)


def test_episodes_do_not_depend_on_batching_and_splits_are_other_streams() -> None:
    bank = Curves(TASK, "train", 0)
    whole = bank.draw(3, 6)
    assert same_tasks(whole, joined(bank.draw(3, 2), bank.draw(5, 4)))
    others = [Curves(TASK, "validation", 0), Curves(TASK, "train", 1)]
    assert all(not torch.equal(other.draw(3, 6).support.x, whole.support.x) for other in others)


def test_bad_settings_are_one_sentence() -> None:
    allowed = "allowed: bank_seed, eval_queries, problem, queries, shots"
    for key, value in (("ways", 5), ("rotations", "always"), ("dataset", "sinusoid")):
        with pytest.raises(UserError, match=rf"^config: unknown key 'task\.{key}', .*{allowed}\)?$"):
            parse_trial({"method": "maml", "task": {"problem": "sinusoid", key: value}})
    with pytest.raises(TestSplitClosed, match="opened by final runs only"):
        open_problem(TASK).bank("test", 0)
