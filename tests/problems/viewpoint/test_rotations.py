"""Distances and projections of rotations against quaternions, closed forms and SciPy's own rotations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from raymeta.problems.viewpoint.rotations import about_z, distance, of_angles, projected, square

SEEDS = st.integers(0, 10_000)


def some(count: int, seed: int) -> Rotation:
    return Rotation.random(count, random_state=seed)


def tensor(rotations: Rotation) -> torch.Tensor:
    return torch.from_numpy(rotations.as_matrix())


@settings(max_examples=10)
@given(SEEDS)
def test_distance_is_a_bi_invariant_metric_and_that_of_quaternions(seed: int) -> None:
    a, b, c, q = (some(20, seed + place) for place in (0, 20_000, 40_000, 60_000))
    found = distance(tensor(a), tensor(b))
    quaternions = np.degrees(2 * np.arccos(np.abs((a.as_quat() * b.as_quat()).sum(1)).clip(max=1)))
    np.testing.assert_allclose(found, quaternions, atol=1e-5)  # arccos near 1 keeps half of the digits
    np.testing.assert_allclose(found, np.degrees((a.inv() * b).magnitude()), atol=1e-9)
    torch.testing.assert_close(found, distance(tensor(b), tensor(a)), rtol=0, atol=1e-9)
    for moved in ((q * a, q * b), (a * q, b * q)):
        torch.testing.assert_close(found, distance(*map(tensor, moved)), rtol=0, atol=1e-9)
    assert (found <= distance(tensor(a), tensor(c)) + distance(tensor(c), tensor(b)) + 1e-9).all()
    squared = (tensor(a) - tensor(b)).square().sum((-2, -1))
    torch.testing.assert_close(squared, 8 * torch.deg2rad(found / 2).sin().square(), rtol=0, atol=1e-12)


def test_distance_of_a_turn_is_its_angle_at_both_ends_too() -> None:
    (start,) = tensor(some(1, 0))
    for degrees in (0.0, 1e-9, 1e-4, 30.0, 90.0, 179.999, 180.0, -75.0):
        turned = start @ torch.from_numpy(about_z(np.array(degrees)))
        assert float(distance(start, turned)) == pytest.approx(abs(degrees), abs=1e-12 + 1e-10 * abs(degrees))


@settings(max_examples=10)
@given(SEEDS)
def test_projection_is_the_nearest_rotation(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    numbers[::2] *= torch.linalg.det(square(numbers[::2])).sign()[:, None] * -1  # half of them mirror
    found = projected(numbers)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(8).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).double().expand(8, 3, 3), rtol=0, atol=1e-9)
    torch.testing.assert_close(projected(found.flatten(1)), found, rtol=0, atol=1e-9)
    apart = (square(numbers) - found).square().sum((-2, -1))
    for other in range(4):  # no rotation near it, nor any other, is nearer
        moved = tensor(some(8, seed + other)) if other else found @ tensor(Rotation.from_rotvec([1e-3, 2e-3, 0]))
        assert (apart <= (square(numbers) - moved).square().sum((-2, -1)) + 1e-12).all()
    rotations = tensor(some(8, seed))
    torch.testing.assert_close(projected(rotations.flatten(1)), rotations, rtol=0, atol=1e-9)


def test_angles_are_turns_about_the_things_and_the_cameras_axes() -> None:
    angles = np.random.default_rng(0).uniform(-180, 180, (50, 3))
    azimuth, elevation, tilt = angles.T[..., None]
    expected = (
        Rotation.from_euler("z", tilt, degrees=True)
        * Rotation.from_euler("x", elevation - 90, degrees=True)
        * Rotation.from_euler("z", -azimuth, degrees=True)
    )
    np.testing.assert_allclose(of_angles(angles), expected.as_matrix(), atol=1e-12)
    (level,) = of_angles(np.zeros((1, 3)))
    np.testing.assert_allclose(level @ [0, 0, 1], [0, 1, 0], atol=1e-12)  # what is up is up in the picture
    (above,) = of_angles(np.array([[0.0, 90, 0]]))
    np.testing.assert_allclose(above @ [0, 0, 1], [0, 0, 1], atol=1e-12)  # and from above comes to the viewer


def test_chance_of_uniform_rotations_is_the_closed_form() -> None:
    """P(d < x) = (x - sin x) / pi: 0.75 % below 30 degrees, and half below 132.3."""
    count = 200_000
    found = distance(tensor(some(count, 1)), tensor(some(count, 2)))
    below = math.radians(30)
    share = (below - math.sin(below)) / math.pi
    assert share == pytest.approx(0.0075, abs=5e-5)
    assert float((found < 30).double().mean()) == pytest.approx(share, abs=5 * (share / count) ** 0.5)
    assert float(found.median()) == pytest.approx(132.3, abs=0.5)
