"""Whether what was made on CPUs is right on a GPU: every learner and regularizer, small, and the works as they are."""

import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu_parts.child import Here
from gpu_parts.works import EQUAL, Work, attempt, config, works
from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_spec
from raymeta.problem import Tasks, open_problem
from raymeta.schema import merge
from raymeta.training.trainer import Trainer

SMALL = {
    "task": {"dataset": "glyphs", "ways": 3, "shots": 2, "queries": 3},
    "model": {"name": "conv4", "width": 4},
    "outer": {"tasks_per_step": 2},
    "budget": {"outer_steps": 4, "validate_every": 2, "validation_tasks": 4},
}
CURVES = {"task": {"problem": "sinusoid", "shots": 5, "queries": 5}, "model": {"name": "mlp", "hidden": [8]}}
MISSING = "torchvision"  # beside torch it need not be there; one regularizer is made of it


def checks(here: Here) -> None:
    """A row for each learner, for MAML with each regularizer, for other backbones and for the works."""
    for name, make in compositions(here).items():
        row, note = attempt(partial(checked, make))
        if MISSING in note and "ModuleNotFoundError" in note:
            here.report("checks", composition=name, verdict=f"skipped: no {MISSING} here")
        else:
            verdict = "failed" if note else "ok"
            here.report("checks", **{"composition": name, "verdict": verdict, "note": note, **(row or {})})
    for work in works(here):
        same, note = attempt(partial(_work_repeated, here, work))
        verdict = "failed" if note else "ok"
        here.report("checks", composition=f"maml, {work.name}", verdict=verdict, same_bits=same, note=note)


def _work_repeated(here: Here, work: Work) -> str:
    return repeated(config(here, work), 2)


def compositions(here: Here) -> dict[str, Callable[[], TrialConfig]]:
    """Small trials by name: two outer steps and a validation are a round."""
    specs = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]
    found = {spec: partial(small, here, spec) for spec in specs}
    found["maml, sinusoid, mlp"] = partial(small, here, "maml", CURVES)
    for model in ("resnet10", "resnet12", "resnet18"):
        changed = {"model": {"name": model, "channels": [4] * 4}}
        found[f"protonet, {model}"] = partial(small, here, "protonet", changed)
    return found


def small(here: Here, spec: str, changed: dict[str, Any] | None = None) -> TrialConfig:
    """A composition on the device."""
    method, regularizers = split_spec(spec)
    fields = registry.find("method", method).Config.model_fields
    own = {
        "method": method,
        "regularizers": {name: {} for name in regularizers},
        method: {"inner_steps": 2} if "inner_steps" in fields else {},
        "engine": {"device": here.device, "kernels": "torch"},
    }
    base = {**SMALL, **{section: {} for section in changed or {}}}
    trial = parse_trial(merge(base, own, changed or {}))
    open_problem(trial.task).prepare()
    return trial


def checked(make: Callable[[], TrialConfig]) -> dict[str, Any]:
    """The row of a small trial."""
    trial = make()
    same = repeated(trial, 2)
    looped = compared(trial, vectorized=False)
    batches = all(one.batches for one in Trainer(trial).learner.regularizers)
    batched = compared(trial, vectorized=True) if batches else None
    wrong = [f"{value:.0e}" for value in (looped, batched) if value is not None and not value < EQUAL]
    row = {"off_in_a_loop": looped, "off_batched": batched, "same_bits": same}
    return row | {"verdict": "failed", "note": f"the gradient is off by {wrong[0]}"} if wrong else row


def repeated(trial: TrialConfig, steps: int) -> str:
    """Train twice: `yes` if all weights and losses are equal to the last bit, or what is not deterministic."""
    if equal(trial, steps):
        return "yes"
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        if equal(trial, steps):
            return "no: cuDNN's convolutions"
    finally:
        torch.backends.cudnn.deterministic = before
    return f"no: {', '.join(suspects(trial)) or 'by no operation that torch knows of'}"


def equal(trial: TrialConfig, steps: int) -> bool:
    """Two trainings give the same numbers."""
    (losses, weights), (same_losses, same_weights) = (trained(trial, steps) for _ in range(2))
    return losses == same_losses and all(torch.equal(weights[name], same_weights[name]) for name in weights)


def trained(trial: TrialConfig, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of some outer steps and, where validations are small, of one; and the weights after them."""
    trainer = Trainer(trial)
    losses = [float(trainer.outer_update()) for _ in range(steps)]
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError(f"diverged: losses {losses}")
    if trial.budget.validation_tasks < 10:
        losses += trainer.validate().values()
    return losses, {name: tensor.detach().clone() for name, tensor in trainer.learner.state_dict().items()}


def suspects(trial: TrialConfig) -> list[str]:
    """What torch warns of in an outer step when it is asked for determinism."""
    trainer = Trainer(trial)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.outer_update()
    finally:
        torch.use_deterministic_algorithms(False)
    said = [re.match(r"(\S+) does not have a deterministic", str(warning.message)) for warning in caught]
    return sorted({match[1] for match in said if match})


def compared(trial: TrialConfig, *, vectorized: bool) -> float:
    """The largest error of a tensor of the device's outer gradient in float64, against the CPU's in a loop."""
    tried = Trainer(trial)
    reference = Trainer(parse_trial(merge(trial.as_dict(), {"engine": {"device": "cpu", "tasks": "auto"}})))
    reference.vectorized, tried.vectorized = False, vectorized
    generator = torch.Generator().manual_seed(0)
    # Noise in place of images, and weights that are nowhere zero: ties, at which a ReLU's and a pool's gradients jump,
    # would be rounded up on one device and down on the other.
    tasks = reference.problem.bank("train", 0).draw(0, trial.outer.tasks_per_step)
    tasks = tasks.map(lambda tensor: _like(tensor, generator) if tensor.is_floating_point() else tensor)
    with torch.no_grad():
        for parameter in reference.learner.double().parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    tried.learner.double().load_state_dict(reference.learner.state_dict())
    expected, found = (gradients(trainer, tasks) for trainer in (reference, tried))
    if found.keys() != expected.keys():
        raise AssertionError(f"gradients of other tensors: {sorted(found.keys() ^ expected.keys())}")
    scale = max(float(gradient.norm()) for gradient in expected.values())
    return max(float((gradient - found[name]).norm()) / scale for name, gradient in expected.items())


def gradients(trainer: Trainer, tasks: Tasks) -> dict[str, Tensor]:
    """Of an outer step, by parameter, on the CPU."""
    trainer.accumulate(tasks.to(trainer.device))
    return {name: p.grad.cpu() for name, p in trainer.learner.named_parameters() if p.grad is not None}


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
