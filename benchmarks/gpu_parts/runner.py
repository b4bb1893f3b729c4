"""Parts one after the other, each in a process that is ended at its limit. The standard library only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts import Part
from gpu_parts.child import write

KILLED_S = 5.0  # how long a killed part may take to be gone: one that waits for a driver may never go


@dataclass(frozen=True)
class Ended:
    """How a part ended.

    Attributes:
        how: `ok`, or why not.
        seconds: that it took.
        rows: its results.
    """

    name: str
    how: str
    seconds: float
    rows: list[dict[str, Any]]


def run(
    parts: Mapping[str, Part], folder: Path, environment: Mapping[str, str], *, scale: float = 1.0, cpu: bool = False
) -> Iterator[Ended]:
    """Run parts in turn and tell how each ended.

    Args:
        parts: by name.
        folder: for `results.jsonl`, which the parts write row by row, and `log.txt`, what they print.
        environment: of their processes.
        scale: their seconds are multiplied by this.
        cpu: the small form.
    """
    results, log = folder / "results.jsonl", folder / "log.txt"
    deadline = time.monotonic()
    for name, part in parts.items():
        start = time.monotonic()
        deadline += part.seconds * scale
        command = [sys.executable, "-P", "-m", "gpu_parts.child", name, part.call, str(results)]
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"== {name}\n")
            output.flush()
            process = subprocess.Popen(
                command + ["--cpu"] * cpu,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # a process group: its own processes end with it
            )
        code = None
        try:
            code = process.wait(deadline - start)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        rows = [row for row in read(results) if row.get("part") == name]
        how = f"hung: ended after {deadline - start:.0f} s" if code is None else _how(code, rows)
        ended = Ended(name, how, time.monotonic() - start, [row for row in rows if "table" in row])
        write(results, {"part": name, "ended": how, "seconds": round(ended.seconds, 1)})
        yield ended


def read(results: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, which may not be there."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def _how(code: int, rows: list[dict[str, Any]]) -> str:
    """How a part ended that did end, by its exit code and what it wrote."""
    errors = [row["error"] for row in rows if "error" in row]
    if errors:
        return str(errors[-1])
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory runs out"
    if code:
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    notes = sum(bool(row.get("note")) for row in rows)
    return f"{notes} of {len(rows)} rows have a note" if notes else "ok"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a part's process group, whatever of it is left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_S)
