"""The parts of `benchmarks/gpu.py`. A new one is a function `(Here) -> None` and a line in `PARTS`."""

from dataclasses import dataclass

MINUTES = 8.0  # of all parts together, and what their seconds below are made for


@dataclass(frozen=True)
class Part:
    """A measurement with a process of its own.

    Attributes:
        call: `module:function`; the function takes a `gpu_parts.child.Here`.
        seconds: that it may take; what the parts before it did not take is added.
        about: what it measures, in a phrase.
    """

    call: str
    seconds: float
    about: str


PARTS = {
    "machine": Part("gpu_parts.machine:machine", 40, "driver, clocks, versions; bandwidth, arithmetic, launches"),
    "checks": Part("gpu_parts.checks:checks", 80, "every learner and regularizer: steps, gradients, same bits"),
    "speed": Part("gpu_parts.speed:speed", 90, "outer steps and evaluation against learn2learn's way"),
    "lanes": Part("gpu_parts.lanes:lanes", 70, "trials as lanes of one program: trials an hour, memory, launches"),
    "graphs": Part("gpu_parts.graphs:graphs", 50, "outer steps captured as CUDA graphs, alone and in lanes"),
    "block": Part("gpu_parts.block:block", 40, "a convolution of each lane and task: groups, matrix products, Triton"),
    "packing": Part("gpu_parts.packing:packing", 105, "processes that share the device, without and with MPS"),
}
