"""That numbers reach the maths as tensors: trials that differ in them alone can be one program."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from raymeta.config import TrialConfig, parse_trial
from raymeta.engine.noise import Noise, task_keys
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Learner, task_loss
from raymeta.problem import Tasks
from raymeta.schema import merge, nest
from raymeta.training.trainer import Trainer


class Program(nn.Module):
    """A learner's outer loss of an outer step, in float64, as a function of all that a trial's numbers decide."""

    def __init__(self, learner: Learner, context: Context) -> None:
        super().__init__()
        self.learner, self.context = learner, context

    def forward(self, tasks: Tasks, drawn: list[Any], keys: Tensor) -> Tensor:
        learner, context = self.learner, self.context
        pairs = zip(learner.regularizers, drawn, strict=True)
        hooks = tuple(one.on_step(learner, tasks, context, own) for one, own in pairs)  # type: ignore[operator]
        each = [
            task_loss(learner, tasks.task(number), context.of_task(number, Noise(keys[number]), hooks))
            for number in range(keys.shape[0])
        ]
        return torch.stack(each).mean()


def takes_numbers_as_tensors(trial: TrialConfig) -> None:
    """For two values of each of its numbers, the outer gradients under vmap are those of two separate trials."""
    sections = {trial.method: trial.settings, **{f"regularizers.{n}": s for n, s in trial.regularizers}}
    for section in sections:
        for key, value in trial.numbers().items():
            if key.rpartition(".")[0] == section:
                _check(trial, key, value)


def _check(trial: TrialConfig, key: str, value: float) -> None:
    trials = [_with(trial, key, other) for other in (value, 0.8 * value or 0.05)]
    assert trials[0].structure() == trials[1].structure(), f"{key} is a number and changes the structure"
    trainers = [Trainer(each) for each in trials]
    learner = trainers[0].learner
    if not all(one.batches for one in learner.regularizers):
        return  # the registry says of it that tasks are computed one by one
    inputs, expected = zip(*map(_step, trainers), strict=True)
    outputs = trainers[0].problem.outputs_of(inputs[0][2])
    context = replace(trainers[0].context, vectorized=True, outputs=outputs)
    program = Program(learner, context)

    def loss(learned: Mapping[str, Tensor], rest: Mapping[str, Tensor], *arguments: Any) -> Tensor:
        state = {f"learner.{name}": tensor for name, tensor in {**rest, **learned}.items()}
        found: Tensor = torch.func.functional_call(program, state, arguments)
        return found

    stacked = tree_map(lambda *tensors: torch.stack(tensors), *inputs)
    found = torch.vmap(torch.func.grad(loss))(*stacked)
    for lane, gradients in enumerate(expected):
        scale = max(float(gradient.norm()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            error = float((found[name][lane] - gradient).norm()) / scale
            assert error < 1e-10, f"with {key} as a tensor the gradient of {name} is off by {error:.0e}"


def _with(trial: TrialConfig, key: str, value: float) -> TrialConfig:
    try:
        return parse_trial(merge(trial.as_dict(), nest({key: value})))
    except UserError as error:
        raise AssertionError(f"a smaller {key} than its default is refused: {error}") from error


def _step(trainer: Trainer) -> tuple[Any, dict[str, Tensor]]:
    """What a program takes of a trainer's next outer step, and the gradients that its own step gives."""
    learner = trainer.learner.double()
    learner.zero_grad(set_to_none=True)
    tasks = trainer.tasks_of_step().map(lambda t: t.double() if t.is_floating_point() else t)
    generator = trainer.generator_of_step()
    drawn = [one.draw(tasks, trainer.context, generator) or () for one in learner.regularizers]  # type: ignore[operator]
    keys = task_keys(trainer.config.seed, trainer.outer_step, torch.arange(tasks.size, dtype=torch.int32))
    learned = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
    state = {name: p.detach() for name, p in learner.named_parameters() if not p.requires_grad}
    state |= dict(learner.named_buffers())
    trainer.vectorized = False
    trainer.accumulate(tasks)
    weight = tasks.size if trainer.config.outer.reduction == "sum" else 1
    gradients = {n: p.grad / weight for n, p in learner.named_parameters() if p.grad is not None}
    return (learned, state, tasks, drawn, keys), gradients
