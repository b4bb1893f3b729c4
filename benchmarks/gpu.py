"""Everything that is to be known of a GPU, measured in at most 8 minutes, on a machine with torch and NumPy alone.

    uv run python benchmarks/gpu.py --pack build/gpu     # here, with a package registry: what a bare machine lacks
    python3 benchmarks/gpu.py --from build/gpu           # there: Python 3.12, torch with CUDA, NumPy; no network
    uv run python benchmarks/gpu.py                      # where raymeta is installed
    uv run python benchmarks/gpu.py --cpu                # a small form of all parts without a GPU: that they run

Each part is a process with a limit of its own. What it finds it writes at once, row by row, to `results.jsonl` in the
folder `--out`, and what it prints to `log.txt` beside it: a part that fails, hangs or runs out of memory costs the
others nothing. `--list` names the parts:

- machine: versions, clocks and settings as they are found (none is changed), and three rates to read the rest against.
- checks: every learner, and MAML with every regularizer, takes two outer steps and validates; the outer gradient in
  float64 is the CPU's to 1e-9, in a loop and batched; trained twice, the weights are equal to the last bit, or the
  operation that is to blame is named.
- speed: outer steps/s of learn2learn's way (written out in `inner_loop.py`), of raymeta looped and batched, in turn on
  the same episodes once their float64 gradients are compared; what a step takes of the GPU's memory, kernels launched
  and the share of its time in which the GPU computes; an evaluation on 600 tasks. Precision is torch's default (TF32 in
  convolutions).
- lanes: trials an hour of W1 as 1, 4, 16, 64, 128 lanes of one program against one trial; memory and launches.
- graphs: outer steps of W1 and W2 captured as CUDA graphs against uncaptured, a trial's and those of 16 lanes: time,
  launches by the host, memory, and how far the weights are apart.
- block: the second block's convolution of 64 lanes and tasks: one by one, in groups, as products of matrices, by a
  Triton kernel (`triton_block.py`; without a C compiler there its rows say so); errors against float64.
- packing: 1, 2, 4, 8, 16 processes of W1 at once, without MPS and with it; memory against what `--pack auto` assumes.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from gpu_parts import MINUTES, PARTS
from gpu_parts.pack import ROOT, make, open_pack
from gpu_parts.runner import run
from gpu_parts.tables import tables


def main() -> None:
    """List, pack or run. Exit code 1: a part did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--cpu", action="store_true", help="the small form, on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts; their limits are shares of it")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu-results", help="folder of results.jsonl, log.txt")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="make it, with what a bare machine lacks")
    parser.add_argument("--python", default="3.12", help="that the bare machine has; with --pack")
    parser.add_argument("--from", type=Path, metavar="FOLDER", dest="packed", help="take it from there")
    options = parser.parse_args()
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:8} {part.seconds:4.0f} s at most: {part.about}")
    elif options.pack:
        print(make(options.pack, options.python))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and its part with it
        with tempfile.TemporaryDirectory(prefix="raymeta-gpu-") as scratch:
            sys.exit(measured(options, Path(scratch)))


def measured(options: argparse.Namespace, scratch: Path) -> int:
    """Run the parts, print their tables as they come; returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "log.txt"):
        (options.out / name).unlink(missing_ok=True)
    environment = environment_of(options, scratch)
    start, summary = time.monotonic(), []
    chosen = {name: PARTS[name] for name in PARTS if name in options.parts}
    for ended in run(chosen, options.out, environment, scale=options.minutes / MINUTES, cpu=options.cpu):
        print(f"\n== {ended.name}: {ended.how}, {ended.seconds:.0f} s{tables(ended.rows)}", flush=True)
        summary.append(ended)
    print(f"\n{time.monotonic() - start:.0f} s in all; {options.out}/results.jsonl")
    for ended in summary:
        print(f"{ended.name:8} {ended.seconds:4.0f} s  {ended.how}")
    return int(any(ended.how != "ok" for ended in summary))


def environment_of(options: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """Of the parts' processes: that of raymeta's workers, and where to import from."""
    benchmarks, more = [str(Path(__file__).parent), str(ROOT)], {}
    if options.packed:
        folders, more = open_pack(options.packed.resolve(), scratch)
        benchmarks += folders
        sys.path[:0] = benchmarks
    from raymeta.study.machines.resources import WORKER_ENVIRONMENT

    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    gpu = "" if options.cpu else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    own = {
        "PYTHONPATH": os.pathsep.join(benchmarks), "PYTHONUNBUFFERED": "1",
        "RAYMETA_GPU_SCRATCH": str(scratch), "CUDA_VISIBLE_DEVICES": gpu,
    }  # fmt: skip
    return {**kept, **WORKER_ENVIRONMENT, **own, **more}


if __name__ == "__main__":
    main()
