"""Two machines with a fleet each, one of which goes away: its lanes go on on the other."""

from pathlib import Path

import pytest
from study.driving import TINY, load, numbers, raymeta, rounds_noted, start, until
from study.two_nodes import two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

# Long enough to lose a machine in its middle, and nothing is cut, which would depend on timing.
BUDGET = ["budget.outer_steps=216", "study.first_rung=216", "study.finalists=0"]
LANES = [*TINY, *BUDGET, "engine.lanes=8", "--slots", "2", "--name", "lanes"]


def test_lanes_of_a_machine_that_is_gone_go_on_on_the_other(studies: Path, tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    done = raymeta("search", *LANES, RAYMETA_STUDIES=str(quiet))
    assert done.returncode == 0, done.stderr
    with two_nodes(tmp_path) as nodes:
        second = nodes.cluster.add_node(num_cpus=1)
        driver = start("search", *LANES, RAY_ADDRESS=nodes.address)
        until(lambda: rounds_noted("lanes") >= 16, driver)
        nodes.cluster.remove_node(second, allow_graceful=False)
        _, err = driver.communicate(timeout=600)
    print(f"\n{err}")
    assert driver.returncode == 0, err
    assert "it goes on from its checkpoint (try 2 of 4)" in err
    assert "(try 3 of 4)" not in err  # a machine's loss is one failure
    assert {trial.state for trial in load("lanes").trials()} == {"completed"}
    assert numbers("lanes") == numbers("lanes", quiet)
