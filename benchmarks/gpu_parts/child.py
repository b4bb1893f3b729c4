"""One part, in a process of its own: `python -P -m gpu_parts.child PART CALL RESULTS [--cpu]`."""

import argparse
import json
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")  # what torch's errors say


@dataclass(frozen=True)
class Here:
    """What a part gets.

    Attributes:
        part: its name.
        results: the file of JSON lines.
        small: on a CPU, with sizes that show only that everything runs.
    """

    part: str
    results: Path
    small: bool = False

    @property
    def device(self) -> str:
        """`cuda` or `cpu`, as torch and `engine.device` have it."""
        return "cpu" if self.small else "cuda"

    def report(self, table: str, **row: Any) -> None:
        """Write a row of a table at once: what follows may fail, hang or run out of memory."""
        write(self.results, {"part": self.part, "table": table, **row})


def write(results: Path, line: dict[str, Any]) -> None:
    """Append a JSON line."""
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def reason(error: BaseException) -> str:
    """An error in a line."""
    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".strip(": ")
    short = isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
    return f"out of memory: {said}" if short else said


def main() -> None:
    """Run the part; what it raised is the last row of its results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("call")
    parser.add_argument("results", type=Path)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    with suppress(OSError):  # if the machine runs out of memory, this is what the system is to end
        Path("/proc/self/oom_score_adj").write_text("1000")
    here = Here(options.part, options.results, options.cpu)
    module, _, function = options.call.partition(":")
    try:
        getattr(import_module(module), function)(here)
    except Exception as error:
        traceback.print_exc()
        write(options.results, {"part": options.part, "error": reason(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
