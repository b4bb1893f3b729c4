"""Bodies of the simulator, and environments of Gymnasium. Needs the extra rl."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems.rl.made import NOISE, SMALL

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import parse_task
from raymeta.problems.rl import bodies
from raymeta.problems.rl.locomotion import Ants, Bodies, Cheetahs
from raymeta.schema import merge
from raymeta.training.trainer import Trainer

pytestmark = pytest.mark.slow
SIZES = [(Cheetahs, 20, 6, 27), (Ants, 125, 8, 43)]


def small(name: str) -> dict[str, Any]:
    return merge(SMALL, NOISE, {"task": {"problem": name, "trajectories": 2, "horizon": 5}})


@pytest.mark.parametrize(("kind", "observations", "actions", "starts"), SIZES)
def test_a_body_s_course_is_its_start_s_and_its_forces_alone(
    kind: type[Bodies], observations: int, actions: int, starts: int
) -> None:
    rng = np.random.default_rng(0)
    noise, forces, goals = rng.random((3, starts)), rng.uniform(-12, 12, (4, 3, actions)), np.array([[1.0], [-1], [1]])

    def course(first: int, last: int, body: Bodies) -> list[np.ndarray]:
        seen = [body.reset(goals[first:last], noise[first:last])]
        for one in forces:
            seen += body.step(one[first:last], np.ones(last - first, bool))[:2]
        return seen

    used = kind(3)
    course(0, 3, used)
    whole = course(0, 3, used)
    assert whole[0].shape == (3, observations)
    apart = [np.concatenate(pair) for pair in zip(course(0, 1, kind(1)), course(1, 3, kind(2)), strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, apart, strict=True))


def test_rewards_are_speed_less_effort() -> None:
    body = Cheetahs(2)
    body.reset(np.array([[1.0], [-1.0]]), np.full((2, 27), 0.5))
    before = body.forward()
    _, reward, ended = body.step(np.tile([10.0, -20, 5, 0, 0, 0], (2, 1)), np.ones(2, bool))
    speed = (body.forward() - before) / 0.05
    assert reward == pytest.approx(np.array([1, -1]) * speed - 0.05 * (1 + 1 + 0.25))  # 10 is full force, 20 no more
    assert speed[0] == speed[1]
    assert not ended.any()


def test_the_model_is_the_file_s() -> None:
    import gymnasium
    import mujoco

    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
    theirs, ours = mujoco.MjModel.from_xml_path(str(path)), bodies.model("half_cheetah.xml", 14.0)
    assert ours.body_mass.sum() == pytest.approx(14)
    for name in ("body_mass", "body_inertia", "dof_invweight0", "body_invweight0"):
        assert np.array_equal(getattr(theirs, name), getattr(ours, name)), name


def test_ants_fall_and_touch_the_ground() -> None:
    body = Ants(1)
    body.reset(np.ones((1, 1)), np.full((1, 43), 0.5))
    data = body.data[0]
    touched = False
    for _ in range(10):
        seen, _, ended = body.step(np.zeros((1, 8)), np.ones(1, bool))
        touched = touched or bool(seen[0, Ants.contacts].any())
        assert not ended.any()
    assert touched
    data.qpos[2] = 1.5
    seen, _, ended = body.step(np.zeros((1, 8)), np.ones(1, bool))
    assert ended.all()
    assert np.abs(seen[0, Ants.contacts]).max() <= 1


@pytest.mark.parametrize("name", ["halfcheetah-dir", "ant-dir"])
def test_they_are_trained_and_resumed_as_any(name: str, tmp_path: Path) -> None:
    assert parse_task(name) == {"problem": name}
    config = parse_trial(small(name))
    whole, half = Trainer(config), Trainer(config)
    whole.round()
    half.outer_update()
    half.save(tmp_path / "checkpoint.pt")
    again = Trainer(config)
    again.load(tmp_path / "checkpoint.pt")
    again.outer_update()
    for key, tensor in whole.learner.state_dict().items():
        assert np.array_equal(tensor.numpy(), again.learner.state_dict()[key].numpy())
    directions = whole.problem.bank("validation", 0).goals(0, 4)  # type: ignore[attr-defined]
    assert directions.tolist() == [[1.0], [-1.0], [1.0], [-1.0]]
    drawn = whole.problem.bank("train", 0).goals(0, 200)  # type: ignore[attr-defined]
    assert 60 < (drawn == 1).sum() < 140


def test_a_missing_simulator_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        Trainer(parse_trial(small("halfcheetah-dir")))
    assert str(caught.value) == "rl: the task halfcheetah-dir needs mujoco; pip install 'raymeta[rl]'"


def test_an_environment_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[3] / "examples" / "halfcheetahvel.py"
    spec = importlib.util.spec_from_file_location("halfcheetahvel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "halfcheetahvel", module)
    spec.loader.exec_module(module)
    config = parse_trial(small("halfcheetahvel"))
    one, same = Trainer(config), Trainer(config)
    assert one.outer_update() == same.outer_update()

    def fail() -> None:
        raise ValueError("no such\n leg")

    monkeypatch.setattr(one.problem, "make", fail)
    with pytest.raises(UserError, match=r"^halfcheetahvel: its environment failed: ValueError: no such leg$"):
        one.outer_update()
    monkeypatch.setattr(type(same.problem), "observations", 3)
    with pytest.raises(UserError, match=r"^halfcheetahvel: its environment has observations of shape \(17,\)"):
        same.outer_update()
