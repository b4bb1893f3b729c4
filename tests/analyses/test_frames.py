"""Frames of bodies: where they are drawn is where their trajectories were."""

import numpy as np
import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.policies.frames import LIMB, Frames, FramesConfig, outline
from raymeta.errors import UserError

pytest.importorskip("mujoco")
CHEETAH = {
    "task": {"problem": "halfcheetah-dir", "trajectories": 2, "horizon": 6},
    "model": {"name": "policy", "hidden": [8]},
}


def test_they_are_the_trajectories() -> None:
    import pandas

    looked = subject("maml", CHEETAH)
    looked = looked.__class__(looked.learner, looked.config, looked.bank.bank)  # type: ignore[attr-defined]
    looked.learner.float()
    analysis = Frames(FramesConfig(tasks=2, frames=4))
    analysis.refuse(looked)
    found = pandas.DataFrame(analysis.measure(looked)).assign(seed=0)
    assert sorted(found["step"].unique()) == [0, 2, 4, 6]
    case = next(looked.cases(1, first=1))
    made, bank = case.task.query, looked.bank
    torso = made.x.view(2, 6, -1)[0, :, -3:].double().numpy()  # what was seen before each step: the torso's place
    replayed = [bodies.data[0].xpos[1].copy() for bodies in bank.replayed(1, made, "query")]  # type: ignore[attr-defined]
    assert len(replayed) == 7
    np.testing.assert_allclose(np.array(replayed[:6]), torso, atol=1e-6)
    own = found[(found["task"] == 1) & (found["moment"] == "after") & (found["step"] == 4)]
    middle = (own[["x1", "z1"]].to_numpy() + own[["x2", "z2"]].to_numpy())[0] / 2  # the torso's capsule lies around it
    np.testing.assert_allclose(middle, torso[4, [0, 2]], atol=1e-6)
    assert float(own["return"].iloc[0]) == pytest.approx(float(looked.learner.problem.score(made.x, made.y)))
    assert len(analysis.draw(found, looked).axes) == 4
    assert (found["radius"] > 0).all()
    assert set(LIMB) <= set(found.columns)


def test_a_capsules_rim_is_its_radius_away_from_its_line() -> None:
    rim = outline(1.0, 2.0, 4.0, 6.0, 0.5)
    along = (rim - [1, 2]) @ np.array([0.6, 0.8])
    nearest = np.array([1, 2]) + along.clip(0, 5)[:, None] * np.array([0.6, 0.8])
    np.testing.assert_allclose(np.linalg.norm(rim - nearest, axis=1), 0.5)
    assert torch.isfinite(torch.from_numpy(rim)).all()


def test_where_there_is_no_body_they_are_refused() -> None:
    with pytest.raises(UserError, match=r"^frames needs a body, and sinusoid has none$"):
        Frames(FramesConfig()).refuse(subject("maml"))
    with pytest.raises(UserError, match=r"^frames: maml makes no inner steps here, so there is no before and after$"):
        Frames(FramesConfig()).refuse(subject("maml", CHEETAH, maml={"inner_steps": 0}))
