"""Tasks of two frames: bounds, gaps, labels, and what they are a function of; scores; what has no meaning."""

from typing import Any

import numpy as np
import pytest
import torch
from reference import joined, same_tasks, small_trial

from raymeta.api.given import given_task
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.problem import TestSplitClosed, open_problem, parse_task
from raymeta.problems.tracking import sprites
from raymeta.problems.tracking.boxes import overlap
from raymeta.problems.tracking.frames import MARGIN, crops
from raymeta.problems.tracking.sdnet import bank as banks
from raymeta.problems.tracking.sdnet.problem import TrackingTask
from raymeta.study.tracking.model import described
from raymeta.training.trainer import Trainer

TASK = TrackingTask(side=16, positives=5, negatives=9)
SPRITES = {
    "maml": {"inner_lr": 0.02, "inner_steps": 1},
    "model": {"name": "sdnet"},
    "task": {"problem": "tracking", "dataset": "sprites", "side": 16, "positives": 4, "negatives": 6},
}


def test_shapes_splits_and_what_tasks_are_a_function_of() -> None:
    problem = open_problem(TASK)
    bank = problem.bank("train", 0)
    tasks = bank.draw(2, 5)
    assert [tuple(t.shape) for part in tasks for t in part] == [(5, 14, 3, 16, 16), (5, 14)] * 2
    assert same_tasks(tasks, joined(bank.draw(2, 2), bank.draw(4, 3)))
    assert not torch.equal(problem.bank("train", 1).draw(2, 5).support.x, tasks.support.x)
    assert not torch.equal(problem.bank("validation", 0).draw(2, 5).support.x, tasks.support.x)
    with pytest.raises(TestSplitClosed):
        problem.bank("test", 0)
    swapped = {tuple(y.tolist()) for y in bank.draw(0, 40).support.y}
    target = (1,) * 5 + (0,) * 9
    assert swapped == {target, tuple(1 - one for one in target)}
    for part in (
        problem.bank("validation", 0).draw(0, 20),
        open_problem(TASK.model_copy(update={"swap": False})).bank("train", 0).draw(0, 20),
    ):
        assert {tuple(y.tolist()) for y in part.query.y} == {target}
    both = bank.draw(0, 40)
    assert torch.equal(both.support.y, both.query.y)  # in both frames alike


def test_crops_are_of_one_sequence_within_the_gap_and_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, np.ndarray]] = []
    plain = banks.crops
    monkeypatch.setattr(
        banks, "crops", lambda frame, boxes, side: (seen.append((frame, boxes)), plain(frame, boxes, side))[1]
    )
    problem = open_problem(TASK)
    bank = problem.bank("train", 3)
    for number in range(12):
        seen.clear()
        bank.draw(number, 1)
        clip = bank.clip(number)  # type: ignore[attr-defined]
        (first, near), (second, later) = seen
        times = [next(t for t in range(len(clip)) if clip.read(t) is frame) for frame in (first, second)]
        assert 1 <= times[1] - times[0] <= 10
        for time, boxes in zip(times, (near, later), strict=True):
            shared = overlap(boxes, clip.boxes[time])
            assert (shared[:5] >= 0.7 - 1e-9).all()
            assert (shared[5:] <= 0.5 + 1e-9).all()


def test_a_crop_is_the_box_with_its_margin_as_far_as_the_frame_goes() -> None:
    clip = sprites.clip("train", 0)
    frame = clip.read(0)
    box = np.array([[20.0, 30, 32, 16]])
    (found,) = crops(frame, box, 16, margin=0.0)
    expected = frame.resize((16, 16), 2, box=(20, 30, 52, 46))
    np.testing.assert_allclose(found.permute(1, 2, 0) * 128 + 128, np.asarray(expected), atol=1e-3)
    (found,) = crops(frame, np.array([[0.0, 0, 96, 96]]), 16)
    np.testing.assert_allclose(found.permute(1, 2, 0) * 128 + 128, np.asarray(frame.resize((16, 16), 2)), atol=1e-3)
    assert pytest.approx(0.1495, abs=1e-4) == MARGIN


def test_sequences_are_drawn_the_same_with_exact_boxes_and_families_of_their_own() -> None:
    for number in range(6):
        clip = sprites.clip("validation", number)
        assert len(clip) == 40
        boxes = clip.boxes
        assert (boxes[:, 2:] >= 8).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= 96).all()
        steps = np.abs(np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0))
        assert steps.max() < 10  # smooth
    before = np.asarray(sprites.clip("train", 5).read(7))
    sprites._frame.cache_clear()
    sprites._scene.cache_clear()
    np.testing.assert_array_equal(before, np.asarray(sprites.clip("train", 5).read(7)))
    assert not np.array_equal(before, np.asarray(sprites.clip("test", 5).read(7)))


def test_balanced_accuracy_by_hand() -> None:
    problem = open_problem(TASK)
    y = torch.tensor([1, 1, 0, 0, 0, 0])
    said = torch.tensor([1, 0, 0, 0, 0, 1])
    outputs = torch.nn.functional.one_hot(said).double()
    assert float(problem.score(outputs, y)) == pytest.approx((0.5 + 0.75) / 2)
    assert float(problem.score(torch.zeros(6, 2), y)) == 0.5  # says the same of all
    summed = open_problem(TASK.model_copy(update={"reduction": "sum"}))
    assert float(summed.loss(outputs, y)) == pytest.approx(6 * float(problem.loss(outputs, y)))


def test_a_short_training_with_dropgrad_resumes_to_the_same_bits(tmp_path: Any) -> None:
    config = small_trial(SPRITES, "metasgd", regularizers={"dropgrad": {"rate": 0.2}})
    whole, half = Trainer(config), Trainer(config)
    rounds = [whole.round() for _ in range(3)]
    half.round()
    half.save(tmp_path / "checkpoint.pt")
    again = Trainer(config)
    again.load(tmp_path / "checkpoint.pt")
    for expected in rounds[1:]:
        found = again.round()
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in expected.items() if k != "seconds"
        }
    assert all(0 <= one["val_balanced_accuracy"] <= 1 for one in rounds)


def test_crops_that_a_user_has_are_a_task_of_two_classes() -> None:
    problem = open_problem(TASK)
    task = problem.bank("validation", 0).draw(0, 1).task(0)
    pictures = problem.given(task.support.x)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (14, 16, 16, 3))
    torch.testing.assert_close(problem.inputs(pictures), task.support.x, rtol=0, atol=1e-5)
    given = given_task(problem, pictures, ["target"] * 5 + ["rest"] * 9)
    assert given.classes == ["target", "rest"]
    large = np.repeat(np.repeat(pictures, 2, 1), 2, 2)
    assert problem.inputs(large).shape == (14, 3, 16, 16)
    model = described(problem, "checkpoint.pt", "weights", {})
    assert model.forms["support_y"] == ("int64", (-1,))
    assert model.example is not None
    assert model.example["support_y"].dtype == np.int64


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"dataset": "sprite"}, r"unknown data set 'sprite': did you mean 'sprites'\?"),
        ({"dataset": "glyphs"}, "task.dataset: found 'glyphs', which is of the problem images and not of tracking"),
        ({"shots": 5}, r"unknown key 'task\.shots'"),
        ({"reduction": "max"}, r"task\.reduction: found 'max'"),
    ],
)
def test_what_can_not_be_is_a_sentence(section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_trial({"method": "maml", "task": {"problem": "tracking", **section}})


def test_what_needs_classes_or_sources_is_refused() -> None:
    assert parse_task("sprites") == {"problem": "tracking", "dataset": "sprites"}
    with pytest.raises(UserError, match=r"^--task sprites-5s: expected sprites, or sequences with --data-root$"):
        parse_task("sprites-5s")
    with pytest.raises(UserError, match=r"^task.test_source: found '/x', but sprites has none$"):
        open_problem(TrackingTask(test_source="/x"))
    for method, sentence in (
        ("protonet", "protonet needs labels, and sprites has none"),
        ("cxgrad", "cxgrad needs labels"),
    ):
        config = parse_trial({"method": method, "task": SPRITES["task"]})
        with pytest.raises(UserError, match=sentence):
            build_learner(config, open_problem(config.task))
