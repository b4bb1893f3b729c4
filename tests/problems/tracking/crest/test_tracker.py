"""CREST's tracker on made sequences: it follows, grows with the target, learns on, says when it has lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from raymeta.cli import app
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import open_problem
from raymeta.problems.tracking.boxes import overlap
from raymeta.problems.tracking.crest.tracker import CrestTracker
from raymeta.problems.tracking.following import track
from raymeta.training.trainer import Trainer

CONFIG: dict[str, Any] = {
    "method": "maml",
    "maml": {"inner_steps": 30, "inner_lr": 0.03, "order": "first"},
    "model": {"name": "crest", "channels": 8},
    "task": {"problem": "crest", "side": 50},
}
BOX = np.array([30.0, 25, 14, 12])


def learner(**sections: Any) -> Learner:
    config = parse_trial({**CONFIG, **sections})
    return build_learner(config, open_problem(config.task)).eval()


def red(time: int, growth: float = 0.0) -> Image.Image:
    """A striped red box on grey that goes to the right, a pixel a frame, and grows."""
    image = Image.new("RGB", (90, 70), (90, 110, 120))
    x, y, wide, high = truth(time, growth)
    ImageDraw.Draw(image).rectangle((x, y, x + wide - 1, y + high - 1), fill=(220, 30, 20))
    ImageDraw.Draw(image).rectangle((x, y, x + wide / 2, y + high / 2), fill=(20, 30, 220))
    return image


def truth(time: int, growth: float = 0.0) -> np.ndarray:
    size = BOX[2:] * (1 + growth) ** time
    return np.concatenate([BOX[:2] + BOX[2:] / 2 + [time, 0] - size / 2, size])


def test_it_follows_what_its_first_frame_shows() -> None:
    """Thirty inner steps teach random features what the target looks like."""
    found = track(learner(), 14, red, BOX)
    shared = overlap(found.boxes, np.stack([truth(time) for time in range(14)]))
    assert shared.min() > 0.6
    assert shared.mean() > 0.75
    assert (found.scores[1:] > 0).all()
    np.testing.assert_array_equal(found.boxes[0], BOX)
    again = track(learner(), 14, red, BOX, seed=5)
    np.testing.assert_array_equal(found.boxes, again.boxes)  # it draws nothing


def test_its_box_grows_with_the_target_unless_it_looks_at_one_size() -> None:
    def growing(time: int) -> Image.Image:
        return red(time, 0.03)

    found = track(learner(), 14, growing, BOX)
    assert 1.15 < found.boxes[-1, 2] / BOX[2] < 1.8  # 1.47 times as large
    fixed = learner(task={**CONFIG["task"], "tracker": {"scale": 1.0}})
    np.testing.assert_array_equal(track(fixed, 14, growing, BOX).boxes[:, 2:], np.tile(BOX[2:], (14, 1)))


def test_updates_learn_what_the_inner_loop_moves_alone() -> None:
    tracker = CrestTracker(learner(task={**CONFIG["task"], "tracker": {"lr": 1e-3, "every": 100}}), red(0), BOX)
    for time in range(1, 8):
        tracker.follow(red(time))
    assert len(tracker._kept) == 7
    x, y = (torch.stack(part) for part in zip(*tracker._kept, strict=True))
    before = {name: weight.detach().clone() for name, weight in tracker._weights.items()}
    start = float(tracker._learner.loss(tracker._outputs(x), y))
    for _ in range(10):
        tracker._update()
    assert float(tracker._learner.loss(tracker._outputs(x), y)) < start
    for name, weight in tracker._weights.items():
        assert torch.equal(weight, before[name]) == (name.startswith("conv") or name == "head.size"), name


def test_where_the_map_is_low_everywhere_the_box_stays() -> None:
    made = learner(maml={"inner_steps": 0, "inner_lr": 0.03})
    with torch.no_grad():
        made.model.weights()["head.weight"].zero_()
        made.model.weights()["head.bias"].fill_(-0.5)
    found = track(made, 4, red, BOX)
    assert (found.scores[1:] == -0.5).all()
    assert (found.boxes == BOX).all()


def test_boxes_and_learners_that_can_not_be_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^--box: found 90,5,9,9, which lies outside the first frame, of 90x70$"):
        track(learner(), 3, red, np.array([90.0, 5, 9, 9]))
    with pytest.raises(UserError, match=r"^--box: found 5,5,0,9: expected x,y,w,h with w and h above 0$"):
        track(learner(), 3, red, np.array([5.0, 5, 0, 9]))


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budget = {"outer_steps": 1, "validate_every": 1, "validation_tasks": 2}
    trainer = Trainer(
        parse_trial({**CONFIG, "maml": {"inner_steps": 1}, "outer": {"tasks_per_step": 1}, "budget": budget})
    )
    trainer.round()
    trainer.save(tmp_path / "run" / "checkpoint.pt")
    (tmp_path / "frames").mkdir()
    for time in range(3):
        red(time).save(tmp_path / "frames" / f"{time + 1:04}.png")
    done = CliRunner().invoke(app, ["predict", "run", "--frames", "frames", "--box", "30,25,14,12", "-o", "found.txt"])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "found.txt").read_text().splitlines()
    assert (len(lines), lines[0]) == (3, "30.00,25.00,14.00,12.00")
    assert (tmp_path / "found.png").stat().st_size > 1000
