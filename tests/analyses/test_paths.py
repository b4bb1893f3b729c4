"""Paths of policies: their places are the trajectories', before and after adaptation."""

from dataclasses import replace

import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.policies.paths import Paths, PathsConfig
from raymeta.errors import UserError

PLANE = {
    "task": {"problem": "navigation2d", "trajectories": 4, "horizon": 6},
    "model": {"name": "policy", "hidden": [8]},
}


def test_they_are_the_trajectories() -> None:
    import pandas

    looked = subject("maml+dropgrad", PLANE)
    looked = replace(looked, bank=looked.bank.bank)  # type: ignore[attr-defined]  # a policy's are of its own type
    analysis = Paths(PathsConfig(tasks=2, paths=3))
    analysis.refuse(looked)
    found = pandas.DataFrame(analysis.measure(looked)).assign(seed=0)
    assert sorted(found["moment"].unique()) == ["after", "before"]
    assert sorted(found["path"].unique()) == [0, 1, 2]
    case = next(looked.cases(1, first=1))
    own = found[(found["task"] == 1) & (found["moment"] == "after") & (found["path"] == 2)]
    (query,) = case.tasks.query.x
    torch.testing.assert_close(torch.tensor(own[["x", "y"]].to_numpy()), query.view(4, 6, 2)[2, : len(own)])
    score = looked.learner.problem.score(query, case.tasks.query.y[0])
    assert float(own["return"].iloc[0]) == pytest.approx(float(score))
    assert len(analysis.draw(found, looked).axes) == 2


def test_where_there_is_no_plane_they_are_refused() -> None:
    with pytest.raises(UserError, match=r"^paths needs a plane, and sinusoid has none$"):
        Paths(PathsConfig()).refuse(subject("maml"))
    with pytest.raises(UserError, match=r"^paths: maml makes no inner steps here, so there is no before and after$"):
        Paths(PathsConfig()).refuse(subject("maml", PLANE, maml={"inner_steps": 0}))
