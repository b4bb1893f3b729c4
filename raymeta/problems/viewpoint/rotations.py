"""Rotations: of angles, of nine numbers, and how far two are apart.

    R = Rz(tilt) Rx(elevation - 90°) Rz(-azimuth), from the thing to the camera (x right, y up, z to the viewer)
    d(R, R') = arccos((tr R^T R' - 1) / 2), the angle of the rotation from one to the other
    |R - R'|_F^2 = 8 sin^2(d / 2)

Any convention of angles gives the same distances if truth and prediction share it: d is the same under a rotation of
both arguments from either side.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Angles = Array  # degrees: azimuth, elevation, tilt, [..., 3]


def of_angles(angles: Angles) -> Array:
    """Rotations [..., 3, 3] from thing to camera."""
    azimuth, elevation, tilt = np.moveaxis(np.radians(angles), -1, 0)
    lifted = _about("x", elevation - np.pi / 2)
    found: Array = _about("z", tilt) @ lifted @ _about("z", -azimuth)
    return found


def about_z(degrees: Array) -> Array:
    """Rotations [..., 3, 3] about the thing's own upright axis."""
    return _about("z", np.radians(degrees))


def square(numbers: Tensor) -> Tensor:
    """Numbers [..., 9] as matrices [..., 3, 3], row by row."""
    return numbers.reshape(*numbers.shape[:-1], 3, 3)


def projected(outputs: Tensor) -> Tensor:
    """The rotations [..., 3, 3], float64, that are nearest to numbers [..., 9] in the Frobenius norm.

    U diag(1, 1, det(U V^T)) V^T of the numbers' singular value decomposition (Kabsch 1976; Levinson et al. 2020).
    """
    u, _, vh = torch.linalg.svd(square(outputs.double()))
    signs = torch.ones_like(u[..., 0])
    signs[..., 2] = torch.linalg.det(u @ vh)
    found: Tensor = u @ (signs[..., None] * vh)
    return found


def distance(first: Tensor, second: Tensor) -> Tensor:
    """D of rotations [..., 3, 3] in degrees, [...], float64.

    By atan2(sin d, cos d) with |Q - Q^T|_F = 2 sqrt 2 sin d for Q = R^T R', which is exact to rounding at 0 and at 180
    degrees, where arccos is not.
    """
    between = first.double().mT @ second.double()
    sine = (between - between.mT).flatten(-2).norm(dim=-1) / 8**0.5
    cosine = (between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def _about(axis: str, radians: Array) -> Array:
    cos, sin, zero = np.cos(radians), np.sin(radians), np.zeros_like(radians)
    one = zero + 1
    rows = {
        "x": ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos)),
        "z": ((cos, -sin, zero), (sin, cos, zero), (zero, zero, one)),
    }[axis]
    return np.stack([np.stack(row, -1) for row in rows], -2)
