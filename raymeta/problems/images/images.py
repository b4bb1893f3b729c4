"""The images of a store by row, as networks see them: gathered in host memory, or on the device that trains."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raymeta.engine.transfer import sent

Scaled = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # pixels [..., C, H, W] to what networks see


class Images(Protocol):
    """Where episodes take their images from."""

    def take(self, rows: NDArray[np.int64], turns: NDArray[np.int64] | None) -> Tensor:
        """Images, turned and scaled.

        Args:
            rows: of the store, [..., n].
            turns: quarter turns, counter-clockwise, of each n of them, [...]; None: none is turned.

        Returns:
            float32 [..., n, C, H, W].
        """
        ...


class HostImages:
    """Gathered from the memory map by NumPy; the batch is new memory of this process."""

    def __init__(self, images: NDArray[np.uint8], scaled: Scaled) -> None:
        self._images, self._scaled = np.asarray(images), scaled  # asarray: a plain view of the memory map

    def take(self, rows: NDArray[np.int64], turns: NDArray[np.int64] | None) -> Tensor:
        """See `Images`."""
        pixels = self._images[rows]
        if turns is not None:
            for quarter in (1, 2, 3):
                which = turns == quarter
                pixels[which] = np.rot90(pixels[which], quarter, axes=(-2, -1))
        return torch.from_numpy(self._scaled(pixels))


class DeviceImages:
    """All images as one uint8 tensor on a device, gathered there: only row numbers travel.

    Scaling is a look-up in the 256 values that the host's gives for each channel, so that batches are equal to the bit.
    It must therefore be pixel by pixel.
    """

    def __init__(self, images: NDArray[np.uint8], scaled: Scaled, device: torch.device) -> None:
        channels = images.shape[1]
        values = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, channels, 1, 1))
        self._values = torch.from_numpy(scaled(values)[:, :, 0, 0]).to(device)  # [256, C]
        self._channel = torch.arange(channels, device=device)[:, None, None]
        self._images = torch.from_numpy(np.array(images)).to(device)
        self._device = device

    def take(self, rows: NDArray[np.int64], turns: NDArray[np.int64] | None) -> Tensor:
        """See `Images`."""
        pixels = self._images[sent(rows, self._device)]
        if turns is not None:  # each way for all, as the device can't say how many there are without being waited for
            turned = sent(turns, self._device)[..., None, None, None, None]
            for quarter in (1, 2, 3):
                pixels = torch.where(turned == quarter, torch.rot90(pixels, quarter, (-2, -1)), pixels)
        return self._values[pixels.long(), self._channel]
