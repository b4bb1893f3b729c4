"""Numbers that a user has, as tensors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymeta.errors import UserError


def as_numbers(given: Any, name: str) -> Tensor:
    """An array of NumPy or torch, or a list, as float32.

    Raises:
        UserError: it is none, or holds a number that is not finite.
    """
    try:
        found = torch.as_tensor(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, np.float32))
    except (TypeError, ValueError):
        raise UserError(f"{name}: found {type(given).__name__}: expected an array of numbers") from None
    if not found.isfinite().all():
        raise UserError(f"{name}: found a number that is not finite")
    return found
