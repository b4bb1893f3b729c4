"""MLflow's web interface as a process beside this one, which leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from raymeta.errors import UserError
from raymeta.installed import child_environment

HOST = "127.0.0.1"
PATIENCE_S = 5.0
LOOK_S = 0.2


def refuse_taken(port: int) -> None:
    """Say that something else answers on a port.

    Raises:
        UserError: it does, or the port may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: cannot be used: {error.strerror}; another one can be given") from error


def serve(uri: str, port: int, ready: Callable[[], None]) -> int:
    """Serve a tracking database on loopback until this process is asked to end; returns the server's exit code.

    The server starts some processes, all in a group of its own, which ends with this call.

    Args:
        uri: of the database.
        port: on this machine.
        ready: called in a thread once the server answers.
    """
    command = [sys.executable, "-P", "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", HOST]
    # One worker is enough for one reader, and starts in half the time; jobs are for judges of language models.
    environment = child_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"], env=environment, start_new_session=True
    )
    threading.Thread(target=_wait, args=(process, port, ready), daemon=True).start()
    try:
        return process.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)


def _wait(process: "subprocess.Popen[bytes]", port: int, ready: Callable[[], None]) -> None:
    while process.poll() is None:
        with suppress(OSError):
            socket.create_connection((HOST, port), timeout=LOOK_S).close()
            ready()
            return
        time.sleep(LOOK_S)
