"""Every learner in a table: its error against the tests' references, what a step costs, how much it learns.

    uv run python benchmarks/learners.py
    uv run python benchmarks/learners.py --rounds 3 maml alfa
    uv run python benchmarks/learners.py --regularizers      # MAML with each of them; without the error

- error: the largest error of a tensor of the outer gradient in float64, by the norm of the largest tensor, over all
  comparisons with an unrolled reference that the learner's tests make, which are run for it;
- steps/s and memory: outer gradients on the same glyph episodes, drawn anew (Conv-4-32, 5-way 1-shot, 15 queries,
  4 tasks; 5 second-order steps where a learner has steps and orders), one thread, in turn with MAML in one process;
  memory is the peak of a process of its own, above what it had before its first step;
- native kernels: how many times as fast an outer gradient is as the same one on torch's (`engine.kernels`), in turn;
- parameters: all that are meta-learned.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raymeta import registry
from raymeta.config import parse_trial, split_spec
from raymeta.ops.library import unusable
from raymeta.problem import open_problem
from raymeta.study.machines.resources import WORKER_ENVIRONMENT
from raymeta.training.trainer import Trainer

ROOT = Path(__file__).parent.parent


def trainer(spec: str, width: int = 32, queries: int = 15, kernels: str = "auto") -> Trainer:
    """A learner on the benchmark's task, in second order and with 5 steps where it has such settings."""
    name, regularizers = split_spec(spec)
    fields = registry.find("method", name).Config.model_fields
    wanted: dict[str, Any] = {"order": "second", "inner_steps": 5, "first_order_share": 0.0}
    data = {
        "method": name,
        "regularizers": {regularizer: {} for regularizer in regularizers},
        name: {key: value for key, value in wanted.items() if key in fields},
        "model": {"name": "conv4", "width": width},
        "task": {"dataset": "glyphs", "queries": queries},
        "engine": {"device": "cpu", "tasks": "loop", "kernels": kernels},
    }
    return Trainer(parse_trial(data))


def error(name: str) -> float:
    """The largest error that the learner's own tests find against their references."""
    program = f"""
import sys
import pytest
sys.path.insert(0, {str(ROOT / "tests")!r})
import unrolled
largest, compare = [0.0], unrolled.relative_error

def watched(found, expected, **options):
    largest[0] = max(largest[0], compare(found, expected, floor=1))
    return compare(found, expected, **options)

unrolled.relative_error = watched
code = pytest.main(["-n", "0", "-k", "reference or unrolled", {f"tests/trainables/test_{name}.py"!r}])
print("LARGEST", largest[0], int(code))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    match = re.search(r"^LARGEST (\S+) (\d+)$", done.stdout, re.MULTILINE)
    if match is None or match[2] != "0" or float(match[1]) == 0:
        raise SystemExit(f"the tests of {name} against its reference did not pass:\n{done.stdout[-3000:]}{done.stderr}")
    return float(match[1])


def seconds(name: str, rounds: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of an outer gradient of MAML, of the learner, and of it on torch's kernels: medians, taken in turn."""
    contenders = [trainer("maml"), trainer(name), trainer(name, kernels="torch")]
    taken: list[list[float]] = [[] for _ in contenders]
    for turn in range(rounds + 2):
        for each, times in zip(contenders, taken, strict=True):
            each.learner.zero_grad(set_to_none=True)
            start = clock()
            each.outer_gradient()
            if turn > 1:  # the first ones fill the heap
                times.append(clock() - start)
    return [statistics.median(times) for times in taken]


def memory(name: str) -> float:
    """Peak MiB of three outer steps of a process of its own, above what it had before."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True, env=os.environ
    )
    return float(done.stdout)


def _memory(name: str) -> None:
    trainer(name, width=2, queries=1).outer_update()  # what torch loads at its first step is nobody's
    now = trainer(name)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the imports, is forgotten (Linux)
    before = _kib("VmRSS")
    for _ in range(3):
        now.outer_update()
    print((_kib("VmHWM") - before) / 1024)


def _kib(key: str) -> int:
    """A figure of this process, from Linux."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", default=registry.names("method"))
    parser.add_argument("--regularizers", action="store_true", help="MAML with each regularizer instead.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="The thread's, on a machine with other work to do.")
    parser.add_argument("--times-alone", action="store_true", help="Neither errors nor memory.")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "RAYMETA_BENCHMARK" not in os.environ:  # malloc reads its settings when a process starts
        environment = {**os.environ, **WORKER_ENVIRONMENT, "MALLOC_TOP_PAD_": "1048576", "RAYMETA_BENCHMARK": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch.set_num_threads(1)
    if options.memory:
        _memory(options.memory)
        return
    open_problem(trainer("maml").config.task).prepare()
    alone, clock = options.times_alone, time.thread_time if options.cpu_time else time.perf_counter
    base = 0.0 if alone else memory("maml")
    about = [f"torch {torch.__version__}, one thread, {options.rounds} rounds", f"kernels: {unusable() or 'native'}"]
    about += ["by processor time"] if options.cpu_time else []
    about += [] if alone else [f"MAML's peak: {base:.0f} MiB"]
    print("; ".join(about))
    head = ("learner", "gradient error", "outer steps/s", "cost (MAML 1)", "native kernels")
    print(f"| {' | '.join((*head, 'peak memory (MAML 1)', 'meta-learned'))} |")
    print(f"|{' --- |' * (len(head) + 2)}")
    added = [f"maml+{name}" for name in registry.names("regularizer")]
    for name in added if options.regularizers else options.learners:
        maml, own, on_torch = seconds(name, options.rounds, clock)
        count = sum(p.numel() for p in trainer(name).learner.parameters() if p.requires_grad)
        apart = "-" if options.regularizers or alone else f"{error(name):.0e}"
        peak = "-" if alone else f"{memory(name) / base:.2f}"
        row = (apart, f"{1 / own:.2f}", f"{own / maml:.2f}", f"{on_torch / own:.2f}x", peak, f"{count:,}")
        print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
