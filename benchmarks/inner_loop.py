"""Outer steps per second on one thread: raymeta against `higher` and against learn2learn's way of doing it.

    uv run --group bench python benchmarks/inner_loop.py            # W1 to W4, interleaved, about 8 minutes
    uv run --group bench python benchmarks/inner_loop.py W4 --rounds 9
    uv run python benchmarks/inner_loop.py W1 W4 --evaluate 600     # evaluation of so many tasks instead
    uv run python benchmarks/inner_loop.py W1 W3 --memory           # peak memory instead
    uv run python benchmarks/inner_loop.py W1 W4 --errors 48        # outer gradients of so many tasks against float64

Raymeta runs on its own kernels by tiles of 2 and of 4 (`engine.tiles`) and on torch's (`engine.kernels`). All compute
the gradients of an outer step on the same episodes, from the same weights, in one process and in turn (A B C A B C …);
the figure is the ratio of the medians. learn2learn itself is not installed: its documented two calls, `clone()` and
`adapt(loss)`, are written out here on a plain torch network. First the gradients are compared in float64 (in float32 a
ReLU or a pool decision that ties may turn over, and whole gradients then differ by 1e-2: `--errors`).
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymeta.config import TrialConfig, parse_trial
from raymeta.inner import predictions
from raymeta.learner import build_learner
from raymeta.ops.library import unusable
from raymeta.problem import CHUNK, Examples, Tasks
from raymeta.study.machines.resources import WORKER_ENVIRONMENT
from raymeta.training.outer import OuterUpdate
from raymeta.training.trainer import Trainer

GREY = {"shape": (1, 28, 28), "shots": 1, "tasks": 4}
COLOUR = {"shape": (3, 84, 84), "shots": 5, "tasks": 2}
WORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "W1": ("Conv-4-64, second order", {"width": 64, "order": "second", **GREY}),
    "W2": ("Conv-4-64, first order", {"width": 64, "order": "first", **GREY}),
    "W3": ("Conv-4-48, 84x84 colour, 5-shot, 2 tasks, second order", {"width": 48, "order": "second", **COLOUR}),
    "W4": ("Conv-4-32, first order", {"width": 32, "order": "first", **GREY}),
}
INNER_LR, STEPS, WAYS, QUERIES = 0.01, 5, 5, 15


def config(work: dict[str, Any], kernels: str, tiles: int) -> TrialConfig:
    """5-way, 15 queries, 5 inner steps; 1-shot, 28x28 grey, 4 tasks an outer step unless the work says otherwise."""
    return parse_trial(
        {
            "method": "maml",
            "maml": {"order": work["order"], "inner_steps": STEPS, "inner_lr": INNER_LR},
            "model": {"name": "conv4", "width": work["width"]},
            "task": {"dataset": "glyphs", "shots": work["shots"], "queries": QUERIES},
            "outer": {"tasks_per_step": work["tasks"]},
            "engine": {"device": "cpu", "tasks": "loop", "kernels": kernels, "tiles": tiles},
        }
    )


class Shaped(Trainer):
    """A trainer whose learner takes images of the work's shape, which need not be those of the data set."""

    def __init__(self, work: dict[str, Any], kernels: str, tiles: int = 2) -> None:
        trial = config(work, kernels, tiles)
        super().__init__(trial)
        if self.problem.input_shape != work["shape"]:
            self.problem.input_shape = work["shape"]
            self.learner = build_learner(trial, self.problem)
            self.update = OuterUpdate(trial, self.learner)


def drawn(trainer: Trainer, work: dict[str, Any]) -> Tasks:
    """The tasks of the outer step: of the data set, or noise about a mean image for each class."""
    if work["shape"] == GREY["shape"]:
        return trainer.problem.bank("train", 0).draw(0, work["tasks"])
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(work["tasks"], WAYS, 1, *work["shape"], generator=generator)
    parts = []
    for count in (work["shots"], QUERIES):
        x = means + torch.randn(work["tasks"], WAYS, count, *work["shape"], generator=generator)
        y = torch.arange(WAYS).repeat_interleave(count).expand(work["tasks"], -1)
        parts.append(Examples(x.flatten(1, 2), y))
    return Tasks(*parts)


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
    for i in range(episodes.size):
        support, (query_x, query_y) = episodes.task(i)
        learner = _adapted_clone(network, support, second_order)
        (F.cross_entropy(learner(query_x), query_y) / episodes.size).backward()


def learn2learn_predictions(network: Plain, episodes: Tasks) -> Tensor:
    """The same without the last part, in first order, which is all that an evaluation needs: logits [T, n, 5]."""
    found = []
    for i in range(episodes.size):
        support, query = episodes.task(i)
        learner = _adapted_clone(network, support, second_order=False)
        with torch.no_grad():
            found.append(learner(query.x))
    return torch.stack(found)


def _adapted_clone(network: Plain, support: Examples, second_order: bool) -> Plain:
    names, learner = adapted(network), copy.copy(network)
    _set(learner, {name: value.clone() for name, value in network.named_parameters()})
    for _ in range(STEPS):
        current = dict(_tensors(learner))
        loss = F.cross_entropy(learner(support.x), support.y)
        grads = torch.autograd.grad(
            loss, [current[name] for name in names], retain_graph=second_order, create_graph=second_order
        )
        _set(learner, {name: current[name] - INNER_LR * grad for name, grad in zip(names, grads, strict=True)})
    return learner


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
Predict = Callable[[Tasks], Tensor]
RAYMETA = {"raymeta": ("auto", 2), "by tiles of 4": ("auto", 4), "on torch's kernels": ("torch", 2)}
WHO = (*RAYMETA, "learn2learn's way")


def own(name: str, dtype: torch.dtype) -> dict[str, Shaped]:
    """Raymeta's ways to compute a work, from the same weights."""
    trainers = {who: Shaped(WORKS[name][1], kernels, tiles) for who, (kernels, tiles) in RAYMETA.items()}
    for each in trainers.values():
        each.learner.to(dtype)
    return trainers


def in_type(episodes: Tasks, dtype: torch.dtype) -> Tasks:
    return episodes.map(lambda part: part.to(dtype) if part.is_floating_point() else part)


def predict_of(trainer: Shaped) -> Predict:
    return torch.no_grad()(partial(predictions, trainer.learner, vectorized=False))  # type: ignore[no-any-return]


def contenders(name: str, dtype: torch.dtype, higher: bool) -> dict[str, tuple[nn.Module, Step, Predict]]:
    """Who computes the gradients of the same outer step: the module that holds them, the call, and that of evaluation
    (of `higher` there is none).
    """
    work, trainers = WORKS[name][1], own(name, dtype)
    trainer = trainers["raymeta"]
    episodes = in_type(drawn(trainer, work), dtype)
    first, second = (plain_like(trainer).to(dtype) for _ in range(2))
    order = work["order"] == "second"
    found: dict[str, tuple[nn.Module, Step, Predict]] = {
        who: (each.learner.model, partial(each.accumulate, episodes), predict_of(each))
        for who, each in trainers.items()
    }
    found["learn2learn's way"] = (
        first,
        lambda: learn2learn_step(first, episodes, order),
        partial(learn2learn_predictions, first),
    )
    if higher:
        found["higher"] = second, lambda: higher_step(second, episodes, order), predict_of(trainer)
    return found


def difference(name: str, higher: bool) -> float:
    """The largest relative difference of a peer's whole outer gradient from raymeta's, in float64."""
    gradients = []
    for module, step, _ in contenders(name, torch.float64, higher).values():
        step()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    return max(float((gradients[0] - other).norm() / gradients[0].norm()) for other in gradients[1:])


def compare_errors(name: str, tasks: int) -> None:
    """Relative errors of the outer gradients of single tasks in float32."""
    exact, trainers = own(name, torch.float64)["raymeta"], own(name, torch.float32)
    bank = exact.problem.bank("train", 0)
    errors: dict[str, list[float]] = {who: [] for who in trainers}
    for number in range(tasks):
        one = bank.draw(number, 1)
        right = outer_gradient(exact, in_type(one, torch.float64))
        for who, each in trainers.items():
            errors[who].append(float((outer_gradient(each, one) - right).norm() / right.norm()))
    print(f"{name} {WORKS[name][0]}: outer gradients of {tasks} tasks, one by one, against float64")
    for who, values in errors.items():
        small = sum(value < 1e-5 for value in values)
        print(f"   {who:18} median {statistics.median(values):.1e}, {small} below 1e-5, largest {max(values):.0e}")


def outer_gradient(trainer: Shaped, episodes: Tasks) -> Tensor:
    trainer.learner.zero_grad(set_to_none=True)
    trainer.accumulate(episodes)
    return torch.cat([p.grad.flatten() for p in trainer.learner.parameters() if p.grad is not None]).double()


def compare_evaluation(name: str, tasks: int, clock: Callable[[], float]) -> None:
    """Time the predictions for so many validation tasks, in turn by CHUNK of them."""
    work = WORKS[name][1]
    runners = contenders(name, torch.float32, False)
    bank = Shaped(work, "torch").problem.bank("validation", 0)
    seconds, same = dict.fromkeys(runners, 0.0), dict.fromkeys(runners, 0.0)
    for first in range(-CHUNK, tasks, CHUNK):  # the first of these is a warm-up
        episodes = bank.draw(max(first, 0), min(CHUNK, tasks - first))
        answers = {}
        for who, (_, _, predict) in runners.items():
            start = clock()
            answers[who] = predict(episodes).argmax(-1)
            if first >= 0:
                seconds[who] += clock() - start
                same[who] += float((answers[who] == answers["raymeta"]).double().mean()) * episodes.size / tasks
    print(f"{name} {WORKS[name][0]}: {tasks} tasks evaluated, {STEPS} steps each")
    for who, spent in seconds.items():
        print(
            f"   {who:18} {spent:6.1f} s   raymeta is {spent / seconds['raymeta']:.2f}x   "
            f"{100 * same[who]:.2f} % of the answers are raymeta's",
            flush=True,
        )


def compare_memory(name: str) -> None:
    """Peak MiB of three outer steps, and of two evaluated tasks, of a process each, above what it had before."""
    print(f"{name} {WORKS[name][0]}: peak MiB of an outer step; of an evaluation")
    for who in WHO:
        found = [
            subprocess.run(
                [sys.executable, __file__, name, "--peak", who, part], capture_output=True, text=True, check=True
            )
            for part in ("step", "evaluation")
        ]
        print(f"   {who:18} {found[0].stdout.strip():>6}; {found[1].stdout.strip():>6}", flush=True)


def peak(name: str, who: str, part: str) -> None:
    """What one of those processes does; Linux tells."""
    small = {**WORKS[name][1], **GREY, "width": 2, "tasks": 1}
    WORKS["small"] = ("", small)
    for work, times in (("small", 1), (name, 3)):  # what torch loads at its first step is of no work
        module, step, predict = contenders(work, torch.float32, False)[who]
        episodes = drawn(Shaped(WORKS[work][1], "torch"), WORKS[work][1])
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _kib("VmRSS")
        for _ in range(times):
            module.zero_grad(set_to_none=True)
            step() if part == "step" else predict(episodes)
    print(f"{(_kib('VmHWM') - before) / 1024:.0f}")


def _kib(key: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def compare(name: str, rounds: int, higher: bool, clock: Callable[[], float]) -> None:
    """Time one work."""
    print(f"{name} {WORKS[name][0]}: gradients differ by {difference(name, higher):.0e} in float64")
    runners = contenders(name, torch.float32, higher)
    seconds: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + 1):  # the first is a warm-up
        for who, (module, step, _) in runners.items():
            module.zero_grad(set_to_none=True)
            start = clock()
            step()
            if turn:
                seconds[who].append(clock() - start)
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    for who, median in medians.items():
        best = min(seconds[who]) / min(seconds["raymeta"])
        print(
            f"   {who:18} {1 / median:6.2f} outer steps/s   raymeta is {median / medians['raymeta']:.2f}x "
            f"(best of all: {best:.2f}x)",
            flush=True,
        )


def main() -> None:
    """Run the works asked for, under the environment that raymeta gives its workers unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=list(WORKS), help="W1, W2, W3, W4")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--evaluate", type=int, metavar="TASKS", help="evaluation in place of outer steps; not of W3")
    parser.add_argument("--memory", action="store_true", help="peak memory in place of time")
    parser.add_argument("--errors", type=int, metavar="TASKS", help="rounding errors in place of time; not of W3")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--without-higher", action="store_true", help="it is slow, and needs the group bench")
    parser.add_argument("--cpu-time", action="store_true", help="the thread's, on a machine with other work to do")
    parser.add_argument("--default-malloc", action="store_true", help="the allocator as users of the peers run it")
    options = parser.parse_args()
    # malloc reads its settings when a process starts, so the work is done in a second one. (Merely importing
    # raymeta.study sets them in os.environ: to find them there says nothing.)
    if "RAYMETA_BENCHMARK" not in os.environ:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        settings = {} if options.default_malloc else WORKER_ENVIRONMENT
        if options.memory:
            settings = {**settings, "MALLOC_TOP_PAD_": "1048576"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**kept, **settings, "RAYMETA_BENCHMARK": "1"})
    torch.set_num_threads(1)
    if options.peak:
        peak(options.works[0], *options.peak)
        return
    from raymeta.problem import open_problem
    from raymeta.problems.images.task import ImagesTask

    open_problem(ImagesTask(dataset="glyphs")).prepare()
    print(f"torch {torch.__version__}, 1 thread, {options.rounds} rounds, ", end="")
    print(f"kernels: {unusable() or 'native'}, ", end="")
    print("default malloc" if options.default_malloc else "raymeta's malloc settings", "for all", end="")
    print(", by processor time" if options.cpu_time else "")
    clock = time.thread_time if options.cpu_time else time.perf_counter
    for name in options.works:
        if options.errors:
            compare_errors(name, options.errors)
        elif options.evaluate:
            compare_evaluation(name, options.evaluate, clock)
        elif options.memory:
            compare_memory(name)
        else:
            compare(name, options.rounds, not options.without_higher, clock)


if __name__ == "__main__":
    main()
