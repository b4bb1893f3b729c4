"""Images computed some at a time: the same outer gradients in float64, less memory, and what can't be."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial, split_spec
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import build_learner, task_loss
from raymeta.problem import Examples, Task, open_problem
from raymeta.training.device import refuse_unfit

SMALL: dict[str, Any] = {
    "conv4": {"width": 4},
    "resnet10": {"channels": [3, 4, 5, 6]},
    "resnet12": {"channels": [3, 4, 5, 6]},
}


def trial(spec: str, model: dict[str, Any], **engine: Any) -> TrialConfig:
    method, regularizers = split_spec(spec)
    steps = {} if method == "protonet" else {method: {"inner_steps": 2, "inner_lr": 0.1}}
    added = {name: {} for name in regularizers}
    return parse_trial({"method": method, "regularizers": added, "model": model, "engine": engine, **steps})


def gradients(config: TrialConfig) -> tuple[Tensor, list[Tensor]]:
    """The outer loss of a task from noise, of 13 support and 11 query images, and its gradients."""
    learner = build_learner(config, open_problem(config.task)).double()
    generator = torch.Generator().manual_seed(0)

    def examples(count: int) -> Examples:
        x = torch.randn(count, *learner.problem.input_shape, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(count) % 5)

    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    task = Task(examples(13), examples(11))
    loss = task_loss(learner, task, Context(True))
    found = torch.autograd.grad(loss, [p for p in learner.parameters() if p.requires_grad], allow_unused=True)
    return loss, [torch.zeros(()) if one is None else one for one in found]


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("protomaml", {"name": "conv4", "norm": "support"}),
        ("maml", {"name": "conv4", "norm": "batch"}),
        ("mamlpp", {"name": "conv4", "norm": "per_step"}),
        ("maml", {"name": "conv4", "stride": 2, "pools": 0}),
        ("protomaml", {"name": "resnet10", "norm": "support"}),
        ("maml", {"name": "resnet12"}),
    ],
)
def test_outer_gradients_are_those_of_all_images_at_once(spec: str, model: dict[str, Any], kernels: str) -> None:
    """In chunks of 4 of 13 and 11 images, the last one smaller; in second order where the learner has it."""
    if kernels == "native" and not model["name"].startswith("conv4"):
        kernels = "auto"
    own = {**model, **SMALL[model["name"]]}
    whole, expected = gradients(trial(spec, own, kernels=kernels))
    loss, found = gradients(trial(spec, own, kernels=kernels, chunk=4))
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10 * float(other.abs().max() + 1))


@pytest.mark.parametrize(
    ("spec", "model", "engine", "sentence"),
    [
        ("maml", {"name": "conv4", "norm": "running"}, {}, "engine.chunk: found 4, but model.norm running updates its"),
        ("maml+metadropout", {"name": "conv4"}, {}, "engine.chunk: found 4, but metadropout changes what convolutions"),
        ("maml", {"name": "conv4"}, {"tasks": "vmap"}, "engine.tasks: found 'vmap', but engine.chunk computes some"),
    ],
)
def test_what_needs_all_images_at_once_is_refused(
    spec: str, model: dict[str, Any], engine: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        refuse_unfit(trial(spec, model, chunk=4, **engine))
    assert str(refused.value).startswith(sentence)


def test_a_network_without_convolutions_has_no_chunks() -> None:
    config = {"method": "maml", "task": {"problem": "sinusoid"}, "model": {"name": "mlp"}, "engine": {"chunk": 4}}
    with pytest.raises(
        UserError, match=r"^engine.chunk: found 4, but model.name mlp has no convolutions; allowed: nul"
    ):
        refuse_unfit(parse_trial(config))
