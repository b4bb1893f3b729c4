"""The tracker on made sequences: it follows, is the same for a seed, says when it has lost; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from reference import small_trial
from typer.testing import CliRunner

import raymeta
from raymeta.analyses.tracking import TrackingAnalysis, TrackingConfig
from raymeta.analysis import Subject
from raymeta.cli import app
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import open_problem
from raymeta.problems.tracking.boxes import overlap
from raymeta.problems.tracking.following import track
from raymeta.problems.tracking.scores import CEILING
from raymeta.problems.tracking.sdnet.tracker import SDNetTracker
from raymeta.report.style import drawn
from raymeta.training.trainer import Trainer

FEW = {"candidates": 60, "boxes": 60, "positives": 10, "negatives": 30, "steps": 4}
CONFIG: dict[str, Any] = {
    "method": "maml",
    "maml": {"inner_steps": 30, "inner_lr": 0.05, "order": "first"},
    "model": {"name": "sdnet"},
    "task": {"problem": "tracking", "side": 16, "positives": 16, "negatives": 48, "tracker": FEW},
}
BOX = np.array([20.0, 25, 14, 12])


def learner(**sections: Any) -> Learner:
    config = parse_trial({**CONFIG, **sections})
    return build_learner(config, open_problem(config.task)).eval()


def red(time: int) -> Image.Image:
    """A red box on grey that goes to the right, a pixel a frame; from frame 12 on it is gone."""
    image = Image.new("RGB", (80, 60), (90, 110, 120))
    if time < 12:
        ImageDraw.Draw(image).rectangle((20 + time, 25, 33 + time, 36), fill=(220, 30, 20))
    return image


def test_it_follows_what_its_first_frame_shows_and_says_when_it_is_gone() -> None:
    """Thirty inner steps teach a network from scratch what is red."""
    found = track(learner(), 16, red, BOX)
    truth = np.stack([BOX + np.array([time, 0, 0, 0]) for time in range(12)])
    assert overlap(found.boxes[:12], truth).min() > 0.5
    assert overlap(found.boxes[:12], truth).mean() > 0.7
    assert (found.scores[1:12] > 0).all()
    assert (found.scores[13:] <= 0).all()
    assert (found.boxes[14] == found.boxes[13]).all()  # what is lost stays where it was
    np.testing.assert_array_equal(found.boxes[0], BOX)


def test_it_is_the_same_for_a_seed_and_knows_no_noise() -> None:
    plain, noisy = learner(), learner(regularizers={"dropgrad": {"rate": 0.5}})
    noisy.load_state_dict(plain.state_dict())
    first, second = track(plain, 5, red, BOX, seed=3), track(noisy, 5, red, BOX, seed=3)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert not np.array_equal(first.boxes, track(plain, 5, red, BOX, seed=4).boxes)


def test_updates_learn_the_connected_layers_alone_and_from_the_hardest() -> None:
    tracker = SDNetTracker(learner(), red(0), BOX, 0)
    before = {name: weight.clone() for name, weight in tracker._weights.items()}
    rest, near = torch.cat(list(tracker._rest)), torch.cat(list(tracker._found))

    def loss() -> float:
        logits = tracker._logits(torch.cat([near, rest]), tracker._weights)
        y = (torch.arange(len(logits)) < len(near)).long()
        return float(torch.nn.functional.cross_entropy(logits, y))

    start = loss()
    for _ in range(5):
        tracker._update()
    assert loss() < start
    for name, weight in tracker._weights.items():
        assert torch.equal(weight, before[name]) == name.startswith("conv")


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((90, 5, 9, 9), r"^--box: found 90,5,9,9, which lies outside the first frame, of 80x60$"),
        ((5, 5, 0, 9), r"^--box: found 5,5,0,9: expected x,y,w,h with w and h above 0$"),
    ],
)
def test_boxes_that_can_not_be_are_a_sentence(box: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        track(learner(), 3, red, np.array(box, float))
    small = Image.new("RGB", (12, 12))
    with pytest.raises(UserError, match=r"^--box: leaves no room in the first frame for crops of anything else$"):
        track(learner(), 3, lambda time: small, np.array([0.0, 0, 12, 12]))


def test_other_networks_and_problems_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^model\.name: a tracker needs sdnet, whose connected layers it goes on learning$"
    ):
        track(learner(model={"name": "conv4", "width": 2}), 3, red, BOX)
    curves = Trainer(small_trial())
    one, subject = (
        TrackingAnalysis(TrackingConfig()),
        Subject(curves.learner, curves.config, curves.problem.bank("train", 0)),
    )
    with pytest.raises(UserError, match=r"^tracking: sinusoid has no sequences to follow a target in$"):
        one.measure(subject)


def test_the_analysis_follows_held_out_sequences_and_draws_both_curves() -> None:
    import pandas

    made = learner(maml={"inner_steps": 1, "inner_lr": 0.01})
    config = parse_trial({**CONFIG, "maml": {"inner_steps": 1, "inner_lr": 0.01}})
    one = TrackingAnalysis(TrackingConfig(sequences=1, frames=12, untrained=True))
    subject = Subject(made, config, made.problem.bank("validation", 0))
    rows = one.measure(subject)
    assert len(rows) == 2 * (21 + 51)
    assert {row["sequence"] for row in rows} == {"validation 000"}  # the subject's split
    assert all(0 <= row["auc"] <= CEILING + 1e-9 for row in rows)
    alone = [row["share"] for row in rows if row["curve"] == "success" and row["state"] == "trained"]
    assert rows[0]["auc"] == pytest.approx(sum(alone) / 21)
    frame = pandas.DataFrame([{"seed": 0, **row} for row in rows])
    assert len(drawn(one.draw(frame, subject))) > 1000


def test_from_the_command_line_and_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(parse_trial({**CONFIG, "budget": {"outer_steps": 1, "validate_every": 1, "validation_tasks": 2},
                                   "outer": {"tasks_per_step": 1}}))  # fmt: skip
    trainer.round()
    trainer.save(tmp_path / "run" / "checkpoint.pt")
    for time in range(10):
        (tmp_path / "frames").mkdir(exist_ok=True)
        red(time).save(tmp_path / "frames" / f"{time}.png")
    found = raymeta.track(tmp_path / "run", tmp_path / "frames", (20, 25, 14, 12))
    assert [Path(frame).name for frame in found.frames] == [f"{time}.png" for time in range(10)]
    words = ["predict", str(tmp_path / "run"), "--frames", str(tmp_path / "frames"), "--box", "20,25,14,12"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    lines = (tmp_path / "boxes.txt").read_text().splitlines()
    assert len(lines) == 10
    assert lines[0] == "20.00,25.00,14.00,12.00"
    np.testing.assert_allclose([[float(w) for w in line.split(",")] for line in lines], found.boxes, atol=0.005)
    assert (tmp_path / "boxes.png").stat().st_size > 1000
    for more, sentence in (
        (words[:4], "predict: found --frames alone: a target needs both"),
        ([*words[:5], "20,25,14"], "--box: found '20,25,14': expected four numbers, x,y,w,h"),
        (words[:2], "predict: name pictures and, by --support, a folder of classes, or --frames and --box of a target"),
        ([*words[:3], "nowhere", *words[4:]], "nowhere: no such folder"),
        ([*words, "a.png"], "predict: --frames and --box follow a target; pictures, --support and --ensemble don't go"),
        (["predict", "x", "a.png", "--support", "y", "--out", "z"], "predict: --out is of the boxes of a target"),
    ):
        with pytest.raises(UserError) as caught:
            CliRunner().invoke(app, more, catch_exceptions=False)
        assert sentence in str(caught.value)
    with pytest.raises(UserError, match=r"run: was trained on sprites, whose tasks have no classes to learn$"):
        raymeta.predict(tmp_path / "run", tmp_path / "frames", [tmp_path / "frames"])
    (tmp_path / "one").mkdir()
    with pytest.raises(UserError, match="found 0 frames: two or more are needed"):
        raymeta.track(tmp_path / "run", tmp_path / "one", (1, 1, 5, 5))
    curves = Trainer(small_trial())
    curves.round()
    curves.save(tmp_path / "curves" / "checkpoint.pt")
    with pytest.raises(UserError, match="was trained on sinusoid, which is no task of tracking"):
        raymeta.track(tmp_path / "curves", tmp_path / "frames", (1, 1, 5, 5))
