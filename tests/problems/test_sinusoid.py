import math

import pytest
import torch

from raymeta.config import TaskConfig
from raymeta.errors import UserError
from raymeta.problems.images.episodes import Episodes
from raymeta.problems.images.store import TestSplitClosed, open_dataset
from raymeta.problems.sinusoid import Sinusoid, SinusoidEpisodes

TASK = TaskConfig(dataset="sinusoid", **Sinusoid.task_defaults)


def test_shapes_and_ranges() -> None:
    dataset = open_dataset(TASK)
    dataset.prepare()
    assert (dataset.kind, dataset.input_shape, dataset.outputs(TASK), dataset.ready) == ("regression", (1,), 1, True)
    train, validation = (dataset.bank(split, 0).batch(0, 50) for split in ("train", "validation"))  # type: ignore[arg-type]
    assert [tuple(t.shape) for t in train] == [(50, 10, 1)] * 4
    assert validation.query_x.shape == (50, 100, 1)
    assert {t.dtype for t in validation} == {torch.float32}
    x, y = validation.query_x, validation.query_y
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    assert 4 < y.abs().max() <= 5


def test_points_lie_on_one_curve_of_the_family() -> None:
    """Solved for from the points alone: for the right w, y is a linear function of sin(w x) and cos(w x)."""
    episodes = open_dataset(TASK).bank("validation", 5).batch(0, 20)
    for i in range(episodes.tasks):
        support_x, support_y, query_x, query_y = (t.double() for t in episodes.task(i))
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
    bank = SinusoidEpisodes(TASK, "train", 0)
    whole = bank.batch(3, 6)
    parts = Episodes(*(torch.cat(pair) for pair in zip(bank.batch(3, 2), bank.batch(5, 4), strict=True)))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    others = [SinusoidEpisodes(TASK, "validation", 0), SinusoidEpisodes(TASK, "train", 1)]
    assert all(not torch.equal(other.batch(3, 6).support_x, whole.support_x) for other in others)


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^task\.ways: found 5, but sinusoid is a regression: allowed: 1$"):
        open_dataset(TaskConfig(dataset="sinusoid"))
    with pytest.raises(UserError, match="rotations: found 'always'"):
        open_dataset(TASK.model_copy(update={"rotations": "always"}))
    with pytest.raises(TestSplitClosed, match="opened by final runs only"):
        open_dataset(TASK).bank("test", 0)
