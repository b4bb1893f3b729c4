"""Tasks of views: what they are a function of, fronts, labels that are consistent, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import joined, same_tasks

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import Tasks, TestSplitClosed, open_problem
from raymeta.problems.viewpoint.bank import Views
from raymeta.problems.viewpoint.datasets import Shapes3D
from raymeta.problems.viewpoint.rotations import distance, projected, square
from raymeta.problems.viewpoint.viewpoint import Viewpoint, ViewpointTask


@pytest.fixture(scope="module")
def shapes(session_cache: Path) -> None:
    Shapes3D(ViewpointTask()).prepare()


def drawn(
    front: str = "task", split: str = "train", first: int = 0, count: int = 6, seed: int = 0, **task: Any
) -> Tasks:
    problem = open_problem(ViewpointTask(front=front, **task))  # type: ignore[arg-type]
    return problem.bank(split, seed).draw(first, count)  # type: ignore[arg-type]


@pytest.mark.usefixtures("shapes")
def test_shapes_splits_and_what_tasks_are_a_function_of() -> None:
    problem = open_problem(ViewpointTask())
    assert isinstance(problem, Viewpoint)
    assert (problem.outputs, problem.labels, problem.input_shape, problem.ready) == (9, None, (3, 24, 24), True)
    assert problem.describe()["classes"] == {"train": 76, "validation": 12, "test": 17}
    tasks = drawn()
    assert [tuple(t.shape) for part in tasks for t in part] == [(6, 10, 3, 24, 24), (6, 10, 9)] * 2
    assert drawn(split="validation").query.x.shape[1] == 20
    assert same_tasks(tasks, joined(drawn(count=2), drawn(first=2, count=4)))
    for other in (drawn(seed=1), drawn(split="validation", eval_queries=10)):
        assert not torch.equal(other.support.x, tasks.support.x)
    parts = {split: set(problem.store.classes(split).tolist()) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 105
    with pytest.raises(TestSplitClosed):
        problem.bank("test", 0)


@pytest.mark.usefixtures("shapes")
def test_a_tasks_views_are_of_one_category_and_no_two_the_same() -> None:
    problem = open_problem(ViewpointTask(front="given"))
    assert isinstance(problem, Viewpoint)
    bank, store = problem.bank("train", 3), problem.store
    assert isinstance(bank, Views)
    tasks = bank.draw(0, 4)
    for number in range(4):
        task = tasks.task(number)
        pixels = store.pixels(torch.cat([task.support.x, task.query.x]).numpy())
        which = store.class_names.index(bank.category(number))
        own = {store.images[row].tobytes() for row in range(100 * which, 100 * which + 100)}
        there = [picture.tobytes() for picture in pixels]
        assert len(set(there)) == 20
        assert set(there) <= own


@pytest.mark.usefixtures("shapes")
def test_the_front_changes_labels_and_no_pixel() -> None:
    given, category, task = (drawn(front, count=40) for front in ("given", "category", "task"))
    assert torch.equal(given.support.x, task.support.x)
    assert torch.equal(given.query.x, category.query.x)
    turned = {}
    for name, tasks in (("category", category), ("task", task)):
        turn = square(given.query.y).mT.double() @ square(tasks.query.y).double()  # Rz(c) of each view
        assert (turn - turn[:, :1]).abs().max() < 1e-5  # one for all views of a task
        assert (turn[..., 2, 2] - 1).abs().max() < 1e-5  # about the upright axis
        turned[name] = torch.rad2deg(torch.atan2(turn[:, 0, 1, 0], turn[:, 0, 0, 0])) % 360
    problem = open_problem(ViewpointTask())
    bank = problem.bank("train", 0)
    names = [problem.called(bank, number) for number in range(40)]
    twice = [(i, j) for i in range(40) for j in range(i) if names[i] == names[j]]
    assert twice
    for i, j in twice:
        assert turned["category"][i] == pytest.approx(float(turned["category"][j]), abs=0.01)
        assert abs(float(turned["task"][i] - turned["task"][j])) > 0.01
    assert turned["task"].min() < 60 < 300 < turned["task"].max()


@pytest.mark.usefixtures("shapes")
def test_a_linear_map_of_true_poses_learns_any_front_from_ten_views() -> None:
    """vec(R Rz(c)) is linear in vec(R): the labels of a task are consistent, and its support set tells the front."""
    given, task = drawn("given", count=20), drawn("task", count=20)
    for number in range(20):
        (_, known), (_, asked) = given.task(number)
        (_, labels), (_, wanted) = task.task(number)
        fit = torch.linalg.lstsq(known.double(), labels.double(), driver="gelsd").solution
        apart = distance(projected(asked.double() @ fit), square(wanted))
        assert float(apart.max()) < 0.1  # labels are float32


def test_scores_are_those_of_angles_by_hand() -> None:
    problem = open_problem(ViewpointTask())
    assert isinstance(problem, Viewpoint)
    turns = torch.tensor([0.0, 10, 29.9, 30.1, 90, 180]).double()
    from raymeta.problems.viewpoint.rotations import about_z

    outputs = 3.7 * torch.from_numpy(about_z(turns.numpy())).flatten(1)  # as long as they point the same way
    truth = torch.eye(3).double().flatten().expand(6, 9)
    assert float(problem.score(outputs, truth)) == 0.5
    torch.testing.assert_close(problem.errors(outputs, truth), turns, rtol=0, atol=1e-9)
    assert problem.also([(outputs, truth), (outputs[:1], truth[:1])]) == pytest.approx(
        {"mederr": (30.0 + 0.0) / 2, "mederr_pooled": 29.9}
    )
    assert float(problem.loss(truth + 0.5, truth)) == 0.25


@pytest.mark.usefixtures("shapes")
def test_what_can_not_be_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^task: 90 shots and 20 queries are 110 views, but the category 'shape 076' "):
        open_problem(ViewpointTask(shots=90)).bank("validation", 0)
    for section, sentence in [
        ({"dataset": "shapes3D"}, r"unknown data set 'shapes3D': did you mean 'shapes3d'\?"),
        ({"dataset": "glyphs"}, "task.dataset: found 'glyphs', which is of the problem images and not of viewpoint"),
        ({"ways": 5}, r"unknown key 'task\.ways'"),
        ({"front": "side"}, r"task\.front: found 'side'"),
    ]:
        with pytest.raises(UserError, match=sentence):
            parse_trial({"method": "maml", "task": {"problem": "viewpoint", **section}})
    with pytest.raises(UserError, match=r"^task.dataset: found 'shapes3d', which is of the problem viewpoint and not"):
        parse_trial({"method": "maml", "task": {"dataset": "shapes3d"}})
    with pytest.raises(UserError, match=r"^task.size: found 84, but shapes3d is drawn at 24: leave it out"):
        open_problem(ViewpointTask(size=84))
    with pytest.raises(UserError, match=r"^task.source: found '/x', but shapes3d has none"):
        open_problem(ViewpointTask(source="/x"))
    with pytest.raises(UserError, match=r"--data-root$"):
        Shapes3D(ViewpointTask()).build(Path("/x"), lambda done, total: None)
