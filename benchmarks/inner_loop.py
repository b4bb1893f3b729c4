"""Outer steps per second on one thread: raymeta against `higher` and against learn2learn's way of doing it.

    uv run --group bench python benchmarks/inner_loop.py            # W1, W2 and W4, interleaved, about 4 minutes
    uv run --group bench python benchmarks/inner_loop.py W4 --rounds 9

All three compute the gradients of an outer step on the same episodes, from the same weights, in one process and in turn
(A B C A B C …); the figure is the ratio of the medians. learn2learn itself is not installed: its documented two calls,
`clone()` and `adapt(loss)`, are written out here on a plain torch network. First the gradients are compared in float64
(in float32 a ReLU or a pool decision that ties may turn over, and whole gradients then differ by 1e-2).
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymeta.config import TrialConfig, parse_trial
from raymeta.problem import Tasks
from raymeta.study.machines.resources import WORKER_ENVIRONMENT
from raymeta.training.trainer import Trainer

WORKS = {
    "W1": ("Conv-4-64, second order", {"width": 64, "order": "second"}),
    "W2": ("Conv-4-64, first order", {"width": 64, "order": "first"}),
    "W4": ("Conv-4-32, first order", {"width": 32, "order": "first"}),
}
INNER_LR, STEPS, TASKS = 0.01, 5, 4


def config(work: dict[str, object]) -> TrialConfig:
    """5-way 1-shot, 15 queries, 28x28 grey, 5 inner steps, 4 tasks an outer step."""
    return parse_trial(
        {
            "method": "maml",
            "maml": {"order": work["order"], "inner_steps": STEPS, "inner_lr": INNER_LR},
            "model": {"name": "conv4", "width": work["width"]},
            "task": {"dataset": "glyphs", "queries": 15},
            "outer": {"tasks_per_step": TASKS},
            "engine": {"device": "cpu", "tasks": "loop"},
        }
    )


class Plain(nn.Module):
    """Conv-4 as users write it with torch's own layers."""

    def __init__(self, width: int, channels: int, features: int) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(width if i else channels, width, 3, padding=1),
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for i in range(4)
        ]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def plain_like(trainer: Trainer) -> Plain:
    """The plain network with the weights of raymeta's (the parameters come in the same order), on its device."""
    model = trainer.learner.model
    network = Plain(model.map_shape[0], model.input_shape[0], model.feature_size).to(trainer.device)
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    return network


def adapted(network: Plain) -> list[str]:
    """What MAML adapts: everything but the norm's scale and shift."""
    norms = {f"{name}." for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return [name for name, _ in network.named_parameters() if not any(name.startswith(norm) for norm in norms)]


def learn2learn_step(network: Plain, episodes: Tasks, second_order: bool) -> None:
    """`learner = maml.clone(); learner.adapt(loss(learner(x), y)); loss(learner(qx), qy).backward()`, for each task."""
    names = adapted(network)
    for i in range(episodes.size):
        (support_x, support_y), (query_x, query_y) = episodes.task(i)
        learner = copy.copy(network)
        _set(learner, {name: value.clone() for name, value in network.named_parameters()})
        for _ in range(STEPS):
            current = dict(_tensors(learner))
            loss = F.cross_entropy(learner(support_x), support_y)
            grads = torch.autograd.grad(
                loss, [current[name] for name in names], retain_graph=second_order, create_graph=second_order
            )
            _set(learner, {name: current[name] - INNER_LR * grad for name, grad in zip(names, grads, strict=True)})
        (F.cross_entropy(learner(query_x), query_y) / episodes.size).backward()


def _tensors(module: nn.Module, prefix: str = "") -> list[tuple[str, Tensor]]:
    own = [(prefix + name, value) for name, value in module._parameters.items() if value is not None]
    return own + [t for name, child in module._modules.items() if child for t in _tensors(child, f"{prefix}{name}.")]


def _set(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Put tensors in the place of parameters, in copies of the modules that hold them."""
    module._parameters = dict(module._parameters)
    module._modules = dict(module._modules)
    for name in {key.split(".", 1)[0] for key in values if "." in key}:
        child = copy.copy(module._modules[name])
        assert child is not None
        _set(child, {key.split(".", 1)[1]: value for key, value in values.items() if key.startswith(f"{name}.")})
        module._modules[name] = child
    for key, value in values.items():
        if "." not in key:
            module._parameters[key] = value  # type: ignore[assignment]


def higher_step(network: Plain, episodes: Tasks, second_order: bool) -> None:
    """`higher.innerloop_ctx` as in its README; in first order the adapted copy's gradients are added by hand."""
    import higher

    names = adapted(network)
    for i in range(episodes.size):
        (support_x, support_y), (query_x, query_y) = episodes.task(i)
        optimizer = torch.optim.SGD([value for name, value in network.named_parameters() if name in names], lr=INNER_LR)
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False, track_higher_grads=second_order) as (
            learner,
            inner,
        ):
            for _ in range(STEPS):
                inner.step(F.cross_entropy(learner(support_x), support_y))
            loss = F.cross_entropy(learner(query_x), query_y) / episodes.size
            if second_order:
                loss.backward()
            else:
                grads = torch.autograd.grad(loss, list(learner.parameters()))
                for parameter, grad in zip(network.parameters(), grads, strict=True):
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad


Step = Callable[[], object]


def contenders(name: str, dtype: torch.dtype) -> dict[str, tuple[nn.Module, Step]]:
    """Who computes the gradients of the same outer step: the module that holds them, and the call."""
    work = WORKS[name][1]
    trainer = Trainer(config(work))
    trainer.learner.to(dtype)
    episodes = trainer.problem.bank("train", 0).draw(0, TASKS)
    episodes = episodes.map(lambda part: part.to(dtype) if part.is_floating_point() else part)
    first, second = (plain_like(trainer).to(dtype) for _ in range(2))
    order = work["order"] == "second"
    return {
        "raymeta": (trainer.learner.model, lambda: trainer.accumulate(episodes)),
        "learn2learn's way": (first, lambda: learn2learn_step(first, episodes, order)),
        "higher": (second, lambda: higher_step(second, episodes, order)),
    }


def difference(name: str) -> float:
    """The largest relative difference of a peer's whole outer gradient from raymeta's, in float64."""
    gradients = []
    for module, step in contenders(name, torch.float64).values():
        step()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    return max(float((gradients[0] - other).norm() / gradients[0].norm()) for other in gradients[1:])


def compare(name: str, rounds: int) -> None:
    """Time one work."""
    print(f"{name} {WORKS[name][0]}: gradients differ by {difference(name):.0e} in float64")
    runners = contenders(name, torch.float32)
    seconds: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + 1):  # the first is a warm-up
        for who, (module, step) in runners.items():
            module.zero_grad(set_to_none=True)
            start = time.perf_counter()
            step()
            if turn:
                seconds[who].append(time.perf_counter() - start)
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    for who, median in medians.items():
        print(
            f"   {who:18} {1 / median:6.2f} outer steps/s   raymeta is {median / medians['raymeta']:.2f}x", flush=True
        )


def main() -> None:
    """Run the works asked for, under the environment that raymeta gives its workers unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=list(WORKS), help="W1, W2, W4")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--default-malloc", action="store_true", help="the allocator as users of the peers run it")
    options = parser.parse_args()
    # malloc reads its settings when a process starts, so the work is done in a second one. (Merely importing
    # raymeta.study sets them in os.environ: to find them there says nothing.)
    if "RAYMETA_BENCHMARK" not in os.environ:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        settings = {} if options.default_malloc else WORKER_ENVIRONMENT
        os.execve(sys.executable, [sys.executable, *sys.argv], {**kept, **settings, "RAYMETA_BENCHMARK": "1"})
    torch.set_num_threads(1)
    from raymeta.problem import open_problem
    from raymeta.problems.images.task import ImagesTask

    open_problem(ImagesTask(dataset="glyphs")).prepare()
    print(f"torch {torch.__version__}, 1 thread, {options.rounds} rounds, ", end="")
    print("default malloc" if options.default_malloc else "raymeta's malloc settings", "for all")
    for name in options.works:
        compare(name, options.rounds)


if __name__ == "__main__":
    main()
