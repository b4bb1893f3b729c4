"""Ctrl-C, heard instead of raised: whoever computes decides what it means."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_ctrl_c(heard: Callable[[], None]) -> Iterator[None]:
    """Call `heard` at each Ctrl-C inside; what was there before is there again afterwards.

    Outside the main thread, where Python allows no handler and Ctrl-C does not arrive, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        heard()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
