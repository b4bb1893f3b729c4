"""raymeta's conformance suite on what this package brings, and the closed forms of its problem."""

import math

import torch
from own.problems.compass import Compass, CompassTask

from raymeta.testing import conformance

COMPASS = {"task": {"problem": "compass", "shots": 4, "queries": 4}, "model": {"name": "smooth", "units": 8}}

test_the_method_conforms = conformance("unitmaml", "unitmaml+gradnoise", "unitmaml+mr", "unitmaml+taml+dropgrad")
test_on_its_own_problem = conformance("unitmaml+gradnoise", problems={"compass": COMPASS})
test_maml_on_its_own_problem = conformance("maml+dropgrad", "cavia", problems={"compass": COMPASS})


def test_the_score_is_the_angle() -> None:
    problem = Compass(CompassTask())
    angles = torch.tensor([0.0, 0.3, 3.0])
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    assert float(problem.score(2 * directions, directions)) < 1e-3
    assert math.isclose(float(problem.score(-directions, directions)), 180, abs_tol=1e-3)
    turned = torch.stack([(angles + 0.5).cos(), (angles + 0.5).sin()], 1)
    assert math.isclose(float(problem.score(turned, directions)), math.degrees(0.5), abs_tol=1e-4)
    assert math.isclose(float(problem.loss(turned, directions)), 1 - math.cos(0.5), abs_tol=1e-6)
