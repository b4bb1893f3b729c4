"""Ctrl-C, heard instead of raised: whoever computes decides what it means."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_ctrl_c(heard: Callable[[], None]) -> Iterator[None]:
    """Call `heard` at each Ctrl-C inside; what was there before is there again afterwards."""

    def handle(number: int, frame: FrameType | None) -> None:
        heard()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
