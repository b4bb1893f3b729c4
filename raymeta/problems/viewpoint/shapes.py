"""Things made of ellipsoids, and pictures of them by ray casting: what `shapes3d` is made of.

A category is a body, a nose along +x, a fin along +z and two or three bumps; its number says how large they are and
where. A thing of it has them moved by up to 10 % and scaled by up to 12 %, with colours of its own but for the red nose
and the green fin, which all categories share: without them minutes of a processor's time don't teach a small network
which way a thing looks. It is seen from azimuths of 0 to 360 degrees, elevations of -5 to 40, tilts of -10 to 10, in
light and before a background of its own.

Every ellipsoid |D^-1 (q - c)| = 1 is met by the ray of a pixel, (u, v, z) in the camera's frame with q = R^T (u, v, z),
where a quadratic in z has its larger root; the nearest is seen, with Lambert's shading.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymeta.problems.uniforms import Uniforms
from raymeta.problems.viewpoint.rotations import Angles, Array, of_angles

VERSION = 1
SIDE = 24
HALF = 1.0  # from the middle of a picture to its edge, where a body is about 0.5 long
CATEGORIES = {"train": 76, "validation": 12, "test": 17}
PICTURES = 100  # of a category
LOW, HIGH = np.array([0.0, -5, -10]), np.array([360.0, 40, 10])  # of the angles
PLACE, SIZE = 0.10, 0.12  # how much things of a category differ
NOSE, FIN = (220.0, 40, 40), (40.0, 190, 70)
PARTS = 6
AMBIENT, GRAIN = 0.35, 12.0


class Things(NamedTuple):
    """N things of up to P ellipsoids; what is not there has no size.

    Attributes:
        centres, sizes: [N, P, 3], in the thing's frame.
        colours: [N, P, 3], 0..255.
    """

    centres: Array
    sizes: Array
    colours: Array


def category(number: int) -> Things:
    """The plan of a category, N = 1; its colours are 0 where things have their own."""
    (u,) = Uniforms("shapes3d", VERSION, "categories").rows(number, 1, 64)
    body = np.array([0.40 + 0.25 * u[0], 0.25 + 0.2 * u[1], 0.22 + 0.2 * u[2]])
    nose, fin = 0.13 + 0.1 * u[3:6], np.array([0.12 + 0.1 * u[6], 0.06 + 0.05 * u[7], 0.14 + 0.14 * u[8]])
    centres = [np.zeros(3), np.array([body[0] + 0.05, 0, 0.2 * (u[9] - 0.3)])]
    centres.append(np.array([0.5 * (u[10] - 0.6) * body[0], 0, body[2] + 0.6 * fin[2]]))
    sizes = [body, nose, fin]
    for bump in range(3):
        turn, lift, scale, there = u[16 + 8 * bump : 20 + 8 * bump]
        turn, lift = 2 * np.pi * turn, np.pi * (lift - 0.5)
        out = np.array([np.cos(turn) * np.cos(lift), np.sin(turn) * np.cos(lift), np.sin(lift)])
        centres.append(out * body * (0.9 + 0.3 * scale))
        size = 0.1 + 0.16 * u[20 + 8 * bump : 23 + 8 * bump]
        sizes.append(size * float(bump < 2 or there < 0.5))
    colours = np.zeros((1, PARTS, 3))
    colours[0, 1:3] = NOSE, FIN
    return Things(np.stack(centres)[None], np.stack(sizes)[None], colours)


def pictures(number: int, count: int = PICTURES, side: int = SIDE) -> tuple[NDArray[np.uint8], Angles]:
    """The first pictures of a category, [count, 3, side, side], and from where they are seen, [count, 3] degrees."""
    plan = category(number)
    table = Uniforms("shapes3d", VERSION, "things", number).rows(0, count, 128)
    angles = (LOW + (HIGH - LOW) * table[:, :3]).round(2)
    moved = 2 * table[:, 8 : 8 + 3 * PARTS].reshape(count, PARTS, 3) - 1
    scaled = 2 * table[:, 32 : 32 + 3 * PARTS].reshape(count, PARTS, 3) - 1
    own = 60 + 180 * table[:, 56 : 56 + 3 * PARTS].reshape(count, PARTS, 3)
    things = Things(
        plan.centres * (1 + PLACE * moved),
        plan.sizes * (1 + SIZE * scaled),
        np.where(plan.colours.any(-1, keepdims=True), plan.colours, own),
    )
    slant = 1.2 * (table[:, 3:5] - 0.5)
    light = np.concatenate([slant, np.ones((count, 1))], 1)
    grain = Uniforms("shapes3d", VERSION, "grain", number).rows(0, count, 3 * side * side)
    grey, tint = 60 + 130 * table[:, 80, None], 60 * (table[:, 5:8] - 0.5)
    behind = (grey + tint)[..., None, None] + GRAIN * 2 * (grain.reshape(count, 3, side, side) - 0.5)
    return drawn(things, of_angles(angles), light, behind), angles


def drawn(things: Things, rotations: Array, light: Array, behind: Array) -> NDArray[np.uint8]:
    """Pictures of N things.

    Args:
        things: N of them.
        rotations: [N, 3, 3], from thing to camera.
        light: [N, 3], where it comes from, in the camera's frame.
        behind: [N, 3, side, side], the backgrounds, 0..255.

    Returns:
        uint8 [N, 3, side, side].
    """
    side = behind.shape[-1]
    middles = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) * np.float32(HALF)
    u, v = middles[None, :], -middles[:, None]
    light = light / np.linalg.norm(light, axis=1, keepdims=True)
    shape = (len(rotations), side, side)
    depth, picture = np.full(shape, -np.inf, np.float32), behind.astype(np.float32)
    turned = np.moveaxis(rotations, -1, -2)  # R^T
    for part in range(things.sizes.shape[1]):
        size = things.sizes[:, part]
        there = size.min(1) > 0
        if not there.any():
            continue
        scale = np.where(there[:, None], size, 1.0)
        # In the ellipsoid's own frame it is the unit sphere, and a ray is offset + u right + v up + z ahead.
        right, up, ahead, offset = (
            (one / scale).astype(np.float32)[:, :, None, None]
            for one in (*np.moveaxis(turned, -1, 0), -things.centres[:, part])
        )
        start = [offset[:, axis] + u * right[:, axis] + v * up[:, axis] for axis in range(3)]
        a = sum(ahead[:, axis] ** 2 for axis in range(3))
        b = sum(ahead[:, axis] * start[axis] for axis in range(3))
        c = sum(one * one for one in start) - 1
        inside = b * b - a * c
        z = (-b + np.sqrt(inside.clip(min=0))) / a
        seen = (inside > 0) & (z > depth) & there[:, None, None]
        # The normal of |A p + offset| = 1 is A^T of the point on the unit sphere, A's columns being right, up, ahead.
        point = [start[axis] + z * ahead[:, axis] for axis in range(3)]
        normal = [sum(column[:, axis] * point[axis] for axis in range(3)) for column in (right, up, ahead)]
        length = np.sqrt(sum(one * one for one in normal))
        lit = sum(one * way for one, way in zip(normal, light.astype(np.float32).T[..., None, None], strict=True))
        bright = AMBIENT + (1 - AMBIENT) * (lit / length).clip(min=0)
        colour = things.colours[:, part].astype(np.float32)[:, :, None, None] * bright[:, None]
        picture = np.where(seen[:, None], colour, picture)
        depth = np.where(seen, z, depth)
    return picture.round().clip(0, 255).astype(np.uint8)
