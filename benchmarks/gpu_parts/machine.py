"""The machine: what is there, and what it can do at most."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from gpu_parts.child import Here
from gpu_parts.works import attempt, medians

ASKED = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
    "power.limit", "temperature.gpu", "persistence_mode", "compute_mode", "mig.mode.current",
)  # fmt: skip


def machine(here: Here) -> None:
    """Report versions and settings, then three rates that the other figures are read against."""

    def row(what: str, value: object) -> None:
        here.report("machine", what=what, value=str(value))

    row("Python, torch, NumPy", f"{platform.python_version()}, {torch.__version__}, {np.__version__}")
    row("system, cores", f"{platform.system()} {platform.release()}, {len(os.sched_getaffinity(0))}")
    row("torch's threads", torch.get_num_threads())
    if not here.small:
        found = torch.cuda.get_device_properties(0)  # raises where there is none
        row("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
        row(
            "GPU", f"{found.name}, compute capability {found.major}.{found.minor}, {found.total_memory / 2**30:.1f} GiB"
        )
        row("multiprocessors", found.multi_processor_count)
        row("TF32", f"convolutions {torch.backends.cudnn.allow_tf32}, products {torch.backends.cuda.matmul.allow_tf32}")
    for name, value in smi(*ASKED).items():
        row(f"nvidia-smi {name}", value)
    row("nvidia-cuda-mps-control", shutil.which("nvidia-cuda-mps-control") or "not on PATH")
    sys.stdout.flush()
    rates(here)


def smi(*names: str) -> dict[str, str]:
    """Figures of the first GPU from `nvidia-smi`; the only one says why, if it tells none."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", f"--id={gpu}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"says nothing": f"{type(error).__name__}: {error}"}
    return dict(zip(names, done.stdout.strip().split(", "), strict=False))


def rates(here: Here) -> None:
    """Bytes copied, products in float32 and in TF32, and operations launched, per second."""
    size, side = (2**22, 256) if here.small else (2**32, 8192)
    source = torch.randint(255, (size,), dtype=torch.uint8, device=here.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=here.device) for _ in range(2))
    one = torch.zeros(1, device=here.device)

    def product(tf32: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.mm(a, b)
        torch.backends.cuda.matmul.allow_tf32 = False

    def add() -> None:
        for _ in range(1000):
            one.add_(1)

    asked: dict[str, tuple[Callable[[], object], float, str]] = {
        "copy, read and written": (lambda: target.copy_(source), 2 * size / 1e12, "TB/s"),
        "product, float32": (lambda: product(False), 2 * side**3 / 1e12, "TFLOP/s"),
        "product, TF32 allowed": (lambda: product(True), 2 * side**3 / 1e12, "TFLOP/s"),
        "operations launched": (add, 1000 / 1e6, "million/s"),
    }
    for what, (step, amount, unit) in asked.items():
        taken, why = attempt(partial(medians, here, {"": step}, 0.0 if here.small else 1.0))
        here.report("machine", what=what, value=f"{amount / taken[''][0]:.3g} {unit}" if taken else why)
