"""Threads beside a driver's main one."""

import signal
import threading


class SideThread(threading.Thread):
    """A daemon thread to which no SIGTERM is delivered.

    The system gives a process's signal to any thread that takes it. While Ray starts, it has a handler that ends the
    process, and the main thread takes none; what runs beside it must not, either.
    """

    def run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # Windows has none
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        super().run()
