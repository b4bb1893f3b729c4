"""A call that is killed by -9 at some moment."""

import signal
import subprocess
import sys
import time
from pathlib import Path


def killed(program: str, argument: Path, after: float) -> bool:
    """Run a program and kill it some time after its call has begun; whether that had ended.

    Args:
        program: prints `ready`, reads a line, makes its call and prints `done`.
        argument: its own.
        after: seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(argument)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate()
    assert "Error" not in err, err
    return "done" in out
