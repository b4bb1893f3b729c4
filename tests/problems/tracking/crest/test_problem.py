"""Windows and their places, the score and the loss by hand, what a task is a function of; training and its promises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import joined, same_tasks

from raymeta.api.given import given_task
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import TestSplitClosed, open_problem, parse_task
from raymeta.problems.tracking import sprites
from raymeta.problems.tracking.boxes import overlap
from raymeta.problems.tracking.clips import Clip
from raymeta.problems.tracking.crest.bank import Windows
from raymeta.problems.tracking.crest.maps import WINDOW, wanted
from raymeta.problems.tracking.crest.problem import CrestTask
from raymeta.problems.tracking.frames import window
from raymeta.problems.uniforms import Uniforms
from raymeta.study.tracking.model import described
from raymeta.testing import conformance
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

TASK = CrestTask(side=30, queries=2, eval_queries=3)
SMALL = {
    "task": {"problem": "crest", "side": 22, "queries": 2, "eval_queries": 2},
    "model": {"name": "crest", "channels": 4, "rows": 5, "columns": 3},
}


def test_shapes_and_what_tasks_are_a_function_of() -> None:
    problem: Any = open_problem(TASK)
    bank = problem.bank("train", 0)
    tasks = bank.draw(2, 3)
    assert [tuple(t.shape) for part in tasks for t in part] == [
        (3, 1, 3, 30, 30),
        (3, 1, 4),
        (3, 2, 3, 30, 30),
        (3, 2, 4),
    ]
    assert same_tasks(tasks, joined(bank.draw(2, 1), bank.draw(3, 2)))
    assert not torch.equal(problem.bank("train", 1).draw(2, 3).support.x, tasks.support.x)
    assert problem.bank("validation", 0).draw(0, 1).query.x.shape == (1, 3, 3, 30, 30)
    assert problem.called(bank, 2) == bank.clip(2).name
    with pytest.raises(TestSplitClosed):
        problem.bank("test", 0)


def test_the_target_is_where_y_says_and_as_large() -> None:
    """A white target on black, found again in the windows."""
    boxes = np.array([[20.0 + 2 * t, 30 - t, 16, 8] for t in range(6)])

    def read(time: int) -> Image.Image:
        image = np.zeros((60, 80, 3), np.uint8)
        x, y, wide, high = boxes[time].astype(int)
        image[y : y + high, x : x + wide] = 255
        return Image.fromarray(image)

    clip = Clip("made", (80, 60), boxes, read)
    bank = Windows(lambda number: clip, 1, TASK.model_copy(update={"side": 80}), "train", Uniforms(0))
    for number in range(5):
        task = bank.draw(number, 1).task(0)
        np.testing.assert_allclose(task.support.y[0], [0, 0, 1 / WINDOW, 0.5 / WINDOW], atol=1e-6)
        for side in task:
            for x, y in zip(side.x, side.y, strict=True):
                rows, columns = torch.nonzero(x[0] > 0.5).unbind(1)
                found = [float(one.double().mean() + 0.5) / 80 - 0.5 for one in (columns, rows)]
                np.testing.assert_allclose(found, y[:2], atol=0.02)
                assert len(rows) == pytest.approx(80 * 80 * float(y[2] * y[3]), rel=0.25)
        assert (task.query.y[:, :2].abs() <= 1 / WINDOW + 1e-6).all()


def test_a_window_beside_the_frame_is_grey() -> None:
    frame = sprites.clip("train", 0).read(0)
    assert (window(frame, np.array([-300.0, 20]), 50, 10) == 0).all()
    inner = window(frame, np.array([48.0, 48]), 32, 16)
    expected = np.asarray(frame.crop((32, 32, 64, 64)).resize((16, 16), 2))
    np.testing.assert_allclose(inner.permute(1, 2, 0) * 128 + 128, expected, atol=1e-3)


def test_overlap_and_loss_by_hand() -> None:
    problem: Any = open_problem(TASK)
    y = torch.tensor([[0.1, 0.0, 0.2, 0.2], [-0.2, 0.2, 0.2, 0.1]])
    right = torch.cat([wanted(y, 15).flatten(1), y[:, 2:]], 1)
    assert float(problem.loss(right, y)) == 0
    assert float(problem.score(right, y)) > 0.8  # of a map of cells
    np.testing.assert_allclose(problem.answers(right), y, atol=0.02)
    flat = torch.zeros(1, 227)
    truth = wanted(y[:1], 15)
    far = truth >= 0.1
    expected = (truth.exp() * truth)[far].square().sum() / (far.sum() + 1)
    assert float(problem.loss(flat, y[:1])) == pytest.approx(float(expected), rel=1e-6)
    near = torch.cat([(wanted(y, 15) - 0.09).flatten(1), y[:, 2:]], 1)
    assert float(problem.loss(near, y)) == 0  # closer than a tenth everywhere
    peaked = torch.zeros(1, 227)
    peaked[0, 7 * 15 + 9] = 1  # two cells to the right of the middle
    box, found = np.array([0.0, 0, 0.2, 0.2]), np.array([2 / 15, 0, 0.2, 0.2])
    middle = torch.tensor([[0.0, 0, 0.2, 0.2]])
    assert float(problem.score(peaked, middle)) == pytest.approx(float(overlap(found, box)), rel=1e-5)


def test_lanes_are_trainers_side_by_side() -> None:
    """Trials of seeds and rates of their own."""
    plain = {**SMALL, "method": "metasgd", "outer": {"tasks_per_step": 2, "optimizer": "sgd", "lr": 0.1}}
    configs = [
        parse_trial({**plain, "seed": seed, "metasgd": {"inner_lr": 0.1 + 0.1 * seed, "inner_steps": 1}})
        for seed in range(2)
    ]
    together, singly = ([Trainer(config) for config in configs] for _ in range(2))
    lanes = Lanes(together[0], 2)
    for one in together:
        lanes.join(one)
    lanes.step(range(2))
    for lane, single in zip(together, singly, strict=True):
        before = single.learner.model.weights()["head.weight"].detach().clone()
        single.outer_update()
        found, expected = lane.state_dict()["method"], single.state_dict()["method"]
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
        assert not torch.equal(before, single.learner.model.weights()["head.weight"])


def test_an_outer_step_reads_no_value_on_the_host() -> None:
    """On torch's meta device: what would wait on a GPU is an error there."""
    for tasks in ("loop", "vmap"):
        config = {**SMALL, "method": "metasgd", "regularizers": {"dropgrad": {}}, "engine": {"tasks": tasks}}
        trainer = Trainer(parse_trial(config))
        trainer.learner.to("meta")
        trainer.device = torch.device("meta")
        assert trainer.outer_gradient().is_meta
        assert all(p.grad is not None and p.grad.is_meta for p in trainer.learner.parameters())


def test_a_window_that_a_user_has_is_a_task() -> None:
    problem: Any = open_problem(TASK)
    task = problem.bank("validation", 0).draw(0, 1).task(0)
    given = given_task(problem, problem.given(task.support.x), task.support.y.numpy())
    torch.testing.assert_close(given.x, task.support.x, rtol=0, atol=1e-5)
    assert given.answers(problem.answers(torch.zeros(2, 227))).shape == (2, 4)
    model = described(problem, "checkpoint.pt", "weights", {})
    assert model is not None
    assert model.forms["predicted"] == ("float32", (-1, 4))


def test_the_name_says_whose_sequences(tmp_path: Path) -> None:
    assert parse_task("crest") == {"problem": "crest"}
    assert parse_task("crest-sequences") == {"problem": "crest", "clips": "sequences"}
    assert (CrestTask().name, CrestTask(clips="sequences").name) == ("crest", "crest-sequences")
    problem: Any = open_problem(CrestTask(clips="sequences"))
    assert not problem.ready
    assert open_problem(TASK).describe()["name"] == "crest"
    with pytest.raises(UserError, match=r"^sequences: name the folder of sequences by --data-root$"):
        problem.bank("train", 0)


def test_sequences_of_a_folder(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name / "img").mkdir(parents=True)
        for time in range(3):
            sprites.clip("train", ord(name)).read(time).save(tmp_path / name / "img" / f"{time + 1:04}.png")
        (tmp_path / name / "groundtruth_rect.txt").write_text("5,6,20,14\n" * 3)
    task = CrestTask(clips="sequences", source=str(tmp_path), side=30)
    problem: Any = open_problem(task)
    drawn = problem.bank("train", 0).draw(0, 2)
    np.testing.assert_allclose(drawn.support.y[:, 0], [[0, 0, 0.2, 0.14]] * 2, atol=1e-6)
    assert problem.describe()["classes"] == {"test": 1, "validation": 1, "train": 1}
    (tmp_path / "a" / "groundtruth_rect.txt").write_text("5,6,0,14\n" * 3)
    with pytest.raises(UserError, match=r"line 1: the box 4, 5, 0, 14 has no area$"):
        open_problem(task).bank("train", 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"clips": "sprite"}, r"unknown data set 'sprite': did you mean 'sprites'\?"),
        ({"clips": "glyphs"}, r"task\.clips: found 'glyphs', which has no sequences: .*sequences, sprites"),
        ({"source": "/x"}, r"task\.source: found '/x', but sprites has none"),
        ({"dataset": "sprites"}, r"unknown key 'task\.dataset'"),
        ({"shift": -1}, r"task\.shift: found -1"),
    ],
)
def test_what_can_not_be_is_a_sentence(section: dict[str, Any], sentence: str) -> None:
    given = {"method": "maml", "model": {"name": "crest"}, "task": {"problem": "crest", **section}}
    with pytest.raises(UserError, match=sentence):
        open_problem(parse_trial(given).task)


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--task crest-5s: expected crest, or crest-sequences with --data-root$"):
        parse_task("crest-5s")


test_crest_keeps_the_promises = pytest.mark.slow(
    conformance("metasgd", "metasgd+dropgrad", "maml+dropout", problems={"windows": SMALL})
)
