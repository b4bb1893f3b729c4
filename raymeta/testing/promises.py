"""What a learner with an inner loop promises to regularizers: each promise is looked at with a regularizer that does
nothing but watch, or one thing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context, Player, Step, gradients
from raymeta.learner import Learner
from raymeta.models import Pass, Weights
from raymeta.problem import Split, Task, Tasks
from raymeta.schema import Section, merge
from raymeta.training.trainer import Trainer

PROBE = "probe"
TRAINING = Context(True, progress=1.0)  # where learners that begin in first order are in second


class ProbeConfig(Section):
    """A probe has no settings."""


@dataclass
class Seen:
    """What a probe saw in a task.

    Attributes:
        moved: names of the gradients that it was shown, a set for each inner step.
        steps: the inner steps.
        support, query: passes over the support and over the query set.
    """

    moved: list[frozenset[str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    support: list[Pass] = field(default_factory=list)
    query: list[Pass] = field(default_factory=list)


class Probe(Regularizer):
    """Watches, and does what it is given to do."""

    name: ClassVar[str] = PROBE
    Config: ClassVar[type[Section]] = ProbeConfig
    neutral: ClassVar[dict[str, Any]] = {}
    frozen: frozenset[str] = frozenset()
    gradients: Callable[[Tensor], Tensor] | None = None
    blocks: Callable[[Tensor], Tensor] | None = None
    samples: int = 1

    def freezes(self, name: str) -> bool:
        return name in self.frozen

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        self.seen = seen = Seen()
        change, blocks = type(self).gradients, type(self).blocks

        def weights(weights: Weights, now: Pass) -> Weights:
            (seen.query if now.query else seen.support).append(now)
            return weights

        def inner_gradients(gradients: Weights, context: Context) -> Weights:
            seen.moved.append(frozenset(gradients))
            return {name: change(g) for name, g in gradients.items()} if change else gradients

        def block(h: Tensor, layer: str, now: Pass) -> Tensor:
            return blocks(h) if blocks and not now.query else h

        return Hooks(
            weights=weights,
            inner_step=lambda step, context: seen.steps.append(step),
            inner_gradients=inner_gradients,
            block=block,
            samples=type(self).samples,
        )


@contextmanager
def probing(trial: TrialConfig, **does: Any) -> Iterator[Trainer]:
    """A trainer in float64 of a trial that has a probe beside its regularizers."""
    own = {key: staticmethod(value) if callable(value) else value for key, value in does.items()}
    cls = type("Probe", (Probe,), {"of_policies": True, "of_windows": True, **own})
    with registry.planted("regularizer", PROBE, cls):
        trainer = Trainer(parse_trial(merge(trial.as_dict(), {"regularizers": {PROBE: {}}})))
        trainer.learner.double()
        yield trainer


def drawn(trainer: Trainer, split: Split = "train", count: int = 1) -> Tasks:
    """The first tasks of a split; where the learner makes the examples, with those that it makes in evaluation."""
    player = Player.in_evaluation(trainer.learner, 0, count)
    return trainer.problem.bank(split, 0).draw(0, count, player)


def probed(trainer: Trainer, context: Context = TRAINING) -> tuple[Tensor, Seen]:
    """Predictions for the first training task in float64, and what the probe saw on the way."""
    learner = trainer.learner
    tasks = drawn(trainer).map(lambda t: t.double() if t.is_floating_point() else t)
    hooks = learner.hooks(tasks, context, torch.Generator().manual_seed(0))
    task, there = tasks.task(0), replace(context, hooks=hooks, outputs=trainer.problem.outputs_of(tasks))
    with torch.no_grad():
        found = learner.predict(learner.adapt(task.support, there), task.query.x)
    return found, next(one for one in learner.regularizers if one.name == PROBE).seen  # type: ignore[return-value]


def honours_freezing(trial: TrialConfig) -> None:
    """What a regularizer freezes is not among what the inner loop moves, and the rest still is."""
    with probing(trial) as trainer:
        moved = sorted(probed(trainer)[1].moved[0])
    for name in {moved[0], moved[-1]} if len(moved) > 1 else ():
        with probing(trial, frozen=frozenset({name})) as trainer:
            found = probed(trainer)[1].moved
        assert found, f"the inner loop makes no step where {name} is frozen"
        assert all(step == frozenset(moved) - {name} for step in found), (
            f"{name} is frozen, and the inner loop moves it"
        )


def honours_gradient_hooks(trial: TrialConfig) -> None:
    """The gradients of every inner step pass through the hooks, and what comes out is what the update uses."""
    with probing(trial) as trainer:
        plain, seen = probed(trainer)
        steps = int(trainer.learner.settings.inner_steps)
    assert len(seen.moved) == steps, f"{len(seen.moved)} of {steps} inner steps show their gradients to the hooks"
    with probing(trial, gradients=lambda g: 1.5 * g) as trainer:
        assert not torch.allclose(probed(trainer)[0], plain, rtol=1e-9, atol=1e-12), (
            "the update does not use what the hooks make of the gradients"
        )


def shows_its_steps(trial: TrialConfig) -> None:
    """What hooks see of an inner step is one: its gradients are those of its loss at its weights."""
    with probing(trial) as trainer:
        steps = probed(trainer)[1].steps
        expected = range(int(trainer.learner.settings.inner_steps))
    assert [step.number for step in steps] == list(expected), f"{len(steps)} of {len(expected)} inner steps are shown"
    for step in steps:
        found = gradients(step.loss, step.weights, second_order=False, vectorized=False)
        for name, gradient in step.gradients.items():
            torch.testing.assert_close(
                gradient, found[name], rtol=1e-7, atol=1e-10, msg=f"step {step.number}: not the gradient for {name}"
            )


def honours_samples(trial: TrialConfig) -> None:
    """A step's loss is the mean of as many passes over the support as a regularizer asks for."""
    counts = []
    for samples in (1, 3):
        with probing(trial, samples=samples) as trainer:
            found, seen = probed(trainer)
            counts.append(len(seen.support))
            steps = int(trainer.learner.settings.inner_steps)
    assert counts[1] - counts[0] >= 2 * steps, (
        f"{counts[1]} passes over the support where 3 were asked for, {counts[0]} where 1"
    )
    with probing(trial) as trainer:
        plain = probed(trainer)[0]
    torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-10, msg="a loss of alike passes is not their mean")


def honours_activation_hooks(trial: TrialConfig) -> None:
    """Hooks on activations act in the passes of every inner step, and passes say which are over the query."""
    with probing(trial) as trainer:
        plain, seen = probed(trainer)
    assert seen.support, "no pass over the support calls the hooks"
    assert seen.query, "no pass says that it is over the query"
    with probing(
        trial, blocks=lambda h: h * torch.linspace(0.5, 1.5, h.shape[1], dtype=h.dtype).view(-1, *[1] * (h.ndim - 2))
    ) as trainer:
        assert not torch.allclose(probed(trainer)[0], plain, rtol=1e-9, atol=1e-12), (
            "the inner loop does not use what the hooks make of activations"
        )


def honours_steps(trial: TrialConfig) -> None:
    """The context may say how many steps are made; with none the learner is the initial one."""
    with probing(trial) as trainer:
        learner = trainer.learner
        for steps in range(int(learner.settings.inner_steps) + 1):
            found, seen = probed(trainer, replace(TRAINING, steps=steps))
            assert len(seen.moved) == steps, f"{len(seen.moved)} steps were made, and {steps} asked for"
            if not steps:
                task, there = _first(trainer), replace(TRAINING, outputs=_outputs(trainer))
                with torch.no_grad():
                    initial = learner.predict(learner.unadapted(task.support, there), task.query.x)  # type: ignore[operator]
                torch.testing.assert_close(found, initial, rtol=1e-10, atol=1e-12, msg="`unadapted` is another learner")


def honours_the_norm(trial: TrialConfig) -> None:
    """With `model.norm: support` a query is predicted alike whatever else is in the query set."""
    if not hasattr(trial.model, "norm"):
        return
    own = parse_trial(merge(trial.as_dict(), {"model": {"norm": "support"}}))
    trainer = Trainer(own)
    trainer.learner.double()
    task = _first(trainer)
    with torch.no_grad():
        adapted = trainer.learner.adapt(task.support, Context(False, outputs=_outputs(trainer)))
        whole, alone = (trainer.learner.predict(adapted, task.query.x[:count]) for count in (len(task.query.x), 1))
    torch.testing.assert_close(
        whole[:1],
        alone,
        rtol=1e-9,
        atol=1e-11,
        msg="with model.norm support the query is not normalised by the support",
    )


def _first(trainer: Trainer) -> Task:
    return drawn(trainer).map(lambda t: t.double() if t.is_floating_point() else t).task(0)


def _outputs(trainer: Trainer) -> int | None:
    return trainer.problem.outputs_of(drawn(trainer))


CHECKS_OF_PROMISES: list[Callable[[TrialConfig], None]] = [
    honours_freezing,
    honours_gradient_hooks,
    shows_its_steps,
    honours_samples,
    honours_activation_hooks,
    honours_steps,
    honours_the_norm,
]


def has_inner_loop(spec: str) -> bool:
    """Whether there are promises to look at."""
    return bool(registry.find("method", spec.split("+")[0]).inner_loop)


__all__ = ["CHECKS_OF_PROMISES", "Probe", "has_inner_loop", "probed", "probing"]
