"""Settings that are numbers, as tensors."""

from collections.abc import Callable

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from raymeta.schema import numbers


class Numbers(nn.Module):
    """The numbers of a section by name, float64 [] each: buffers, so that a program can be given others.

    They are no part of a state dict: the config has them.

    Args:
        section: of settings.
        more: what else a program takes as numbers, by name: what settings marked `MIXED` come to.
    """

    def __init__(self, section: BaseModel, **more: float | list[float]) -> None:
        super().__init__()
        for name, values in more.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        for name, value in numbers(section).items():
            if "." not in name:  # the numbers of a section in it are that section's
                self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Numbers":
        """Follows the module to a device and stays float64, whatever the weights become."""
        super()._apply(lambda number: number.to(fn(number).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def __getattr__(self, name: str) -> Tensor:
        found: Tensor = super().__getattr__(name)  # type: ignore[assignment]
        return found
