"""The renderer: same numbers, same pixels; what turning does; spheres; a slow renderer pixel by pixel."""

import numpy as np
from PIL import Image

from raymeta.problems.viewpoint import shapes
from raymeta.problems.viewpoint.rotations import of_angles
from raymeta.problems.viewpoint.shapes import Things, category, drawn, pictures

LIGHT = np.array([[0.0, 0.0, 1.0]])


def seen(things: Things, angles: list[float], side: int = 48, light: np.ndarray = LIGHT) -> np.ndarray:
    behind = np.full((1, 3, side, side), 90.0)
    return drawn(things, of_angles(np.array([angles])), light, behind)[0]


def coloured(number: int) -> Things:
    plan = category(number)
    own = np.linspace(70, 230, 3 * shapes.PARTS).reshape(1, shapes.PARTS, 3)
    return plan._replace(colours=np.where(plan.colours.any(-1, keepdims=True), plan.colours, own))


def test_pictures_are_a_function_of_category_and_place() -> None:
    images, angles = pictures(3, 7)
    again, same = pictures(3, 4)
    np.testing.assert_array_equal(images[:4], again)
    np.testing.assert_array_equal(angles[:4], same)
    assert not np.array_equal(images[0], pictures(4, 1)[0][0])
    assert (angles >= shapes.LOW).all()
    assert (angles <= shapes.HIGH).all()
    assert images.shape == (7, 3, shapes.SIDE, shapes.SIDE)


def test_each_pixel_is_that_of_a_slow_renderer() -> None:
    """Ray by ray, in float64, from the implicit equation of each ellipsoid, the normal being its gradient."""
    things, angles, side = coloured(5), np.array([[200.0, 25, 8]]), 20
    light = np.array([[0.4, 0.3, 1.0]])
    found = drawn(things, of_angles(angles), light, np.full((1, 3, side, side), 90.0))[0].astype(float)
    (turn,) = of_angles(angles)
    towards = light[0] / np.linalg.norm(light)
    expected = np.full((3, side, side), 90.0)
    for row in range(side):
        for column in range(side):
            right, up = (2 * (column + 0.5) / side - 1), -(2 * (row + 0.5) / side - 1)
            best = -np.inf
            for centre, size, colour in zip(things.centres[0], things.sizes[0], things.colours[0], strict=True):
                if size.min() <= 0:
                    continue
                shape = np.diag(size**-2.0)

                def value(z: float, centre=centre, shape=shape, right=right, up=up) -> float:
                    q = turn.T @ np.array([right, up, z]) * shapes.HALF**0 - centre
                    return float(q @ shape @ q - 1)

                a, b, c = (value(1) + value(-1)) / 2 - value(0), (value(1) - value(-1)) / 2, value(0)
                if b * b - 4 * a * c <= 0:
                    continue
                z = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a)
                if z > best:
                    best = z
                    gradient = turn @ (shape @ (turn.T @ np.array([right, up, z]) - centre))
                    facing = max(0.0, float(gradient @ towards) / float(np.linalg.norm(gradient)))
                    expected[:, row, column] = colour * (shapes.AMBIENT + (1 - shapes.AMBIENT) * facing)
    wrong = np.abs(found - expected.round().clip(0, 255)).max(0) > 1
    assert wrong.mean() < 0.01  # a ray that grazes an edge may fall to either side in float32


def test_tilt_turns_the_picture_in_its_plane() -> None:
    things = coloured(7)
    level, tilted = seen(things, [40, 15, 0], 96), seen(things, [40, 15, 20], 96)
    turned = Image.fromarray(level.transpose(1, 2, 0)).rotate(20, Image.Resampling.BILINEAR, fillcolor=(90, 90, 90))
    apart = np.abs(np.asarray(turned).transpose(2, 0, 1).astype(float) - tilted).mean()
    plain = np.abs(level.astype(float) - tilted).mean()
    assert apart < 1.5
    assert plain > 3 * apart


def test_a_sphere_looks_the_same_from_everywhere() -> None:
    ball = Things(np.zeros((1, 1, 3)), np.full((1, 1, 3), 0.5), np.full((1, 1, 3), 200.0))
    first = seen(ball, [0, 0, 0]).astype(int)
    assert np.abs(seen(ball, [123, 37, -61]) - first).max() <= 1
    inside = (first != 90).any(0).mean()
    assert abs(inside - np.pi * 0.25 / 4) < 0.01  # its disc's share of the picture


def test_what_is_in_front_hides_what_is_behind() -> None:
    centres = np.array([[[0.0, -0.4, 0], [0, 0.4, 0]]])  # from azimuth 0 the viewer looks along +y
    pair = Things(centres, np.full((1, 2, 3), 0.3), np.array([[[250.0, 0, 0], [0, 250.0, 0]]]))
    near, far = seen(pair, [0, 0, 0]), seen(pair, [180, 0, 0])
    assert near[0].max() > 240 > 100 > near[1].max()
    assert far[1].max() > 240 > 100 > far[0].max()
