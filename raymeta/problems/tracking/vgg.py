"""Convolutions of a VGG network from a file that the user has: MatConvNet's `imagenet-vgg-m.mat` or
`imagenet-vgg-verydeep-16.mat`, or a state dict of torch's.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raymeta.errors import UserError, shown
from raymeta.storage.files import missing


def convolutions(path: Path, count: int, network: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of a network's first convolutions, in their order.

    Raises:
        UserError: the file is not there, or is no such file.
    """
    if not path.is_file():
        raise missing(path)
    found = _matlab(path) if path.suffix == ".mat" else _torch(path)
    if len(found) < count:
        raise UserError(
            f"{shown(path)}: has {len(found)} convolutions: expected {network}'s, of which {count} are used"
        )
    return found[:count]


def _matlab(path: Path) -> list[tuple[Tensor, Tensor]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        layers = np.atleast_1d(loadmat(path, squeeze_me=True, struct_as_record=False)["layers"])
    except (MatReadError, NotImplementedError, ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(f"{shown(path)}: not a network of MatConvNet's ({error})") from error
    found = []
    for layer in layers:
        given = getattr(layer, "weights", None)
        parts = (
            [given[0], given[1]]
            if given is not None and len(given) == 2
            else [getattr(layer, "filters", None), getattr(layer, "biases", None)]
        )
        if parts[0] is not None and np.ndim(parts[0]) == 4:  # height, width, inputs, outputs
            weight = torch.from_numpy(np.ascontiguousarray(np.asarray(parts[0], np.float32).transpose(3, 2, 0, 1)))
            found.append((weight, torch.from_numpy(np.asarray(parts[1], np.float32).ravel())))
    return found


def _torch(path: Path) -> list[tuple[Tensor, Tensor]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kernels = [name for name, value in state.items() if name.endswith("weight") and value.ndim == 4]
        return [(state[name].float(), state[name.removesuffix("weight") + "bias"].float()) for name in kernels]
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError, OSError) as error:
        raise UserError(f"{shown(path)}: not a state dict of torch's with kernels and biases") from error
