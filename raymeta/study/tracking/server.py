"""MLflow's web interface as a process beside this one, which leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from raymeta.errors import UserError
from raymeta.installed import child_environment

HOST = "127.0.0.1"
PATIENCE_S = 5.0


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


def serve(uri: str, port: int) -> int:
    """Serve a tracking database on loopback until this process is asked to end; returns the server's exit code.

    The server starts a dozen processes, all in a group of its own, which ends with this call.
    """
    command = [sys.executable, "-P", "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", HOST]
    process = subprocess.Popen([*command, "--port", str(port)], env=child_environment(), start_new_session=True)
    try:
        return process.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
