"""From the CPU to where it is computed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def sent(values: Any, device: torch.device) -> Tensor:
    """A tensor or an array of the CPU on a device, to which a GPU is not waited for: what it does goes on meanwhile."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # a copy from other memory waits for all that was asked before
    return tensor.to(device, non_blocking=True)
