"""Whose kernels a trial runs on, block by block, as a task that it goes through shows."""

from typing import Any

import torch

from raymeta.config import TrialConfig
from raymeta.engine.noise import Noise, task_keys
from raymeta.inner import Context
from raymeta.learner import build_learner, task_loss
from raymeta.models.conv4 import Block
from raymeta.models.kernels import kernels_of, slower
from raymeta.problem import Examples, Problem, Tasks, open_problem


def explained(config: TrialConfig) -> dict[str, str]:
    """What a trial's network runs on here: `kernels`, and each of its blocks if they differ from torch's.

    Raises:
        UserError: the config asks for native kernels, and this machine can't have them.
    """
    kernels = kernels_of(config)
    if kernels == "torch":
        return {"kernels": f"torch ({_reason(config)})"}
    engine = config.engine
    found = {"kernels": f"native (engine.kernels: {engine.kernels}, engine.tiles: {engine.tiles})"}
    learner = build_learner(config, open_problem(config.task))
    seen: dict[str, list[str]] = {}

    def note(block: Any, given: tuple[Any, ...]) -> None:
        x, _, now, layer = given
        words = block.runs_on(x, now)
        if words not in seen.setdefault(layer, []):
            seen[layer].append(words)

    for module in learner.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(note)
    tasks = _noise(learner.problem, config.outer.tasks_per_step)
    plain = Context(True)
    hooks = learner.hooks(tasks, plain, torch.Generator().manual_seed(0))
    key = task_keys(config.seed, 0, torch.zeros(1, dtype=torch.int32))[0]
    task_loss(learner, tasks.task(0), plain.of_task(0, Noise(key), hooks))
    return found | {layer: "; and ".join(words) for layer, words in seen.items()}


def _reason(config: TrialConfig) -> str:
    """Why a trial runs on torch's kernels, in words."""
    if config.engine.kernels == "torch":
        return "engine.kernels: torch"
    return slower(config) or "there are no others for this network or where it computes"


def _noise(problem: Problem, count: int) -> Tasks:
    """So many tasks of a problem's shape, from noise: its data need not be there."""
    classes, generator, parts = problem.labels, torch.Generator().manual_seed(0), []
    for each in (1, 2):
        n = each * (classes or 5)
        x = torch.randn(count, n, *problem.input_shape, generator=generator)
        labels = torch.arange(n).div(each, rounding_mode="floor").expand(count, n)
        values = torch.randn(count, n, problem.outputs, generator=generator)
        parts.append(Examples(x, values if classes is None else labels))
    return Tasks(*parts)
