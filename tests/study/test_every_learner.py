"""A search of every learner, from the command to MLflow. Takes minutes: `uv run pytest -m slow`."""

from pathlib import Path

import pytest
from study.driving import assert_mlflow_equals_record, load, parse, raymeta, runs_of

from raymeta import registry

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("method", registry.names("method"))
def test_a_smoke_search_ends_in_mlflow(method: str, studies: Path, glyphs: object) -> None:
    done = raymeta("search", method, "--preset", "smoke", "--name", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    answer = parse(done.stdout)
    assert sum(answer["trials"].values()) == 6
    assert answer["trials"]["failed"] == answer["trials"]["running"] == 0
    _, trials = runs_of("smoke")
    own = {f"{method}.{key}" for key in registry.find("method", method).Config.model_fields}
    for trial in trials:
        assert own <= set(trial.data.params), f"MLflow lacks {own - set(trial.data.params)}"
        assert "val_accuracy" in trial.data.metrics
    points = [trial.point for trial in load("smoke").trials()]
    assert len({tuple(sorted(point.items(), key=str)) for point in points}) == 6
    assert_mlflow_equals_record("smoke")
