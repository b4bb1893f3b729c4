"""The conformance suite: what every learner must do, in this repository or outside it.

    # test_mine.py, in your own package
    from raymeta.testing import conformance

    test_mine = conformance("mine", "mine+dropgrad")

Every check trains the composition for real, on small tasks of the embedded data. That a method does what its paper says
no suite can know: compare its outer gradient with a reference of your own too, as `tests/trainables` does.
"""

import gc
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_spec
from raymeta.errors import UserError
from raymeta.inner import predictions
from raymeta.problem import Examples, Split, Tasks, open_problem
from raymeta.schema import merge
from raymeta.storage.files import parse_yaml
from raymeta.testing.numbers import takes_numbers_as_tensors
from raymeta.testing.promises import CHECKS_OF_PROMISES, drawn, has_inner_loop
from raymeta.training.trainer import Trainer

SMALL: dict[str, dict[str, Any]] = {
    "images": {
        "task": {"dataset": "glyphs", "ways": 3, "shots": 2, "queries": 3},
        "model": {"name": "conv4", "width": 4},
    },
    "sinusoid": {
        "task": {"problem": "sinusoid", "shots": 5, "queries": 5, "eval_queries": 5},
        "model": {"name": "mlp", "hidden": [8, 8]},
    },
    "policies": {
        "task": {"problem": "navigation2d", "trajectories": 2, "horizon": 3},
        "model": {"name": "policy", "hidden": [8]},
    },
}
INNER_STEPS = 2  # of learners that have them: the first differs from the last, and second order stays cheap
BUDGET = {
    "outer": {"tasks_per_step": 2},
    "budget": {"outer_steps": 4, "validate_every": 2, "validation_tasks": 4, "test_tasks": 4},
}


def conformance(
    *specs: str,
    config: Mapping[str, Any] | None = None,
    problems: Mapping[str, Mapping[str, Any]] = SMALL,
) -> Callable[..., None]:
    """A test function for pytest, run for every composition and every check, on each problem that fits.

    Args:
        specs: what a user types: `mine`, `mine+dropgrad`.
        config: sections on top of the suite's small trial, `{"mine": {"inner_steps": 2}}` say.
        problems: by name the sections `task` and `model` of small tasks; the default is images, sinusoids and policies.
    """
    cases = [(spec, kind, check) for spec in specs for kind in _problems(spec, problems) for check in checks(spec)]
    names = [f"{spec}-{kind}-{check.__name__}" for spec, kind, check in cases]

    @pytest.mark.parametrize(("spec", "kind", "check"), cases, ids=names)
    def test(spec: str, kind: str, check: Callable[[TrialConfig], None]) -> None:
        trial = small_trial(spec, problems[kind], config or {})
        open_problem(trial.task).prepare()
        check(trial)

    return test


def small_trial(
    spec: str, problem: str | Mapping[str, Any] = "images", config: Mapping[str, Any] | None = None
) -> TrialConfig:
    """A trial of a second: two rounds of two outer steps, with few inner steps.

    Args:
        spec: the composition.
        problem: one of the suite's small problems, or sections of one's own.
        config: sections on top of it.
    """
    method, regularizers = split_spec(spec)
    data = SMALL[problem] if isinstance(problem, str) else problem
    own = {"method": method, "regularizers": {name: {} for name in regularizers}}
    adapts = "inner_steps" in type(parse_trial({"method": method}).settings).model_fields
    steps = {method: {"inner_steps": INNER_STEPS}} if adapts else {}
    return parse_trial(merge(BUDGET, data, own, steps, config or {}))


def outer_gradient(
    trainer: Trainer, episodes: Tasks | None = None, *, vectorized: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient, by parameter name, of the trainer's next outer step, in float64.

    Args:
        trainer: its method is in float64 afterwards.
        episodes: those of the step; None: the first of its training bank.
        vectorized: batch the tasks with vmap.
    """
    trainer.learner.double().zero_grad(set_to_none=True)
    trainer.vectorized = vectorized
    loss = float(trainer.accumulate(episodes or _double(trainer)))
    return loss, {n: p.grad for n, p in trainer.learner.named_parameters() if p.grad is not None}


def is_deterministic(trial: TrialConfig) -> None:
    """Same config and seed, same numbers to the last bit; another seed, others."""
    first, again, other = (_trained(t) for t in (trial, trial, trial.model_copy(update={"seed": 1})))
    _assert_same(first, again)
    assert _metrics(first) != _metrics(other), "the seed changes nothing"


def resumes_exactly(trial: TrialConfig) -> None:
    """Saved after any round and loaded by another process' trainer, it goes on as if nothing had happened."""
    whole = _trained(trial)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        trainer = Trainer(trial)
        while not trainer.done:
            trainer.round()
            trainer.save(path)
            trainer = Trainer(trial)
            trainer.load(path)
    _assert_same(whole, trainer)


def reuses_an_actor(trial: TrialConfig) -> None:
    """A Ray actor that had another trial before gives the numbers of a fresh one."""
    from raymeta.trainable import MetaTrainable

    other = trial.model_copy(update={"seed": 1, "outer": trial.outer.model_copy(update={"lr": 0.01})})
    fresh, used = MetaTrainable(trial.as_dict()), MetaTrainable(other.as_dict())
    used.step()
    assert used.reset_config(trial.as_dict())
    for actor in (fresh, used):
        actor.step()
    _assert_same(fresh.trainer, used.trainer)


def batches_tasks(trial: TrialConfig) -> None:
    """Tasks batched by vmap and tasks in a loop: the same gradients and predictions; or vmap is refused."""
    trainer = Trainer(trial)
    if not trainer.problem.one_shape or not all(one.batches for one in trainer.learner.regularizers):
        with pytest.raises(UserError, match=r"^engine.tasks: found 'vmap', but "):
            Trainer(parse_trial(merge(trial.as_dict(), {"engine": {"tasks": "vmap"}})))
        return
    looped, batched = Trainer(trial), Trainer(trial)
    (loss, expected), (batched_loss, found) = outer_gradient(looped), outer_gradient(batched, vectorized=True)
    assert abs(loss - batched_loss) <= 1e-9 * abs(loss), f"the loss is {loss} in a loop and {batched_loss} with vmap"
    assert found.keys() == expected.keys()
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((gradient - found[name]).norm()) / scale
        assert error < 1e-8, f"the gradient of {name} differs by {error:.0e} with vmap"
    with torch.no_grad():
        one, all_ = (predictions(looped.learner, _double(looped), way) for way in (False, True))
    torch.testing.assert_close(one, all_, rtol=1e-8, atol=1e-8)


def learns_its_parameters(trial: TrialConfig) -> None:
    """Every parameter that asks for a gradient gets one, and training moves it; the others stay as they are."""
    trainer = Trainer(trial)
    before = {name: tensor.clone() for name, tensor in trainer.learner.named_parameters()}
    for _ in range(trial.budget.outer_steps):
        trainer.outer_update()
    for name, parameter in trainer.learner.named_parameters():
        assert parameter.requires_grad is (parameter.grad is not None), f"{name} gets no gradient"
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), f"{name} moved"


def follows_its_loss(trial: TrialConfig) -> None:
    """In second order the outer gradient is the derivative of the training loss along a random direction."""
    fields = type(trial.settings).model_fields
    wanted = {key: value for key, value in (("order", "second"), ("first_order_share", 0.0)) if key in fields}
    wanted |= registry.find("method", trial.method).exact
    # Channels that hardly vary make the loss so crooked that no step is small enough.
    smooth = {"norm_eps": 1e-3} if "norm_eps" in type(trial.model).model_fields else {}
    trial = parse_trial(merge(trial.as_dict(), {trial.method: wanted, "model": smooth}))
    trainer, generator = Trainer(trial), torch.Generator().manual_seed(0)
    # Of noise: white paper is full of ties in ReLU and pooling, at which the inner gradient jumps.
    episodes = _double(trainer)
    episodes = Tasks(*(Examples(torch.randn(x.shape, generator=generator, dtype=x.dtype), y) for x, y in episodes))
    with torch.no_grad():  # so are biases of zero, once dropout leaves nothing else
        for parameter in trainer.learner.double().parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    _, gradient = outer_gradient(trainer, episodes)
    parameters = {name: p for name, p in trainer.learner.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in parameters.items()}
    count = 1 if trial.outer.reduction == "mean" else trial.outer.tasks_per_step
    step, errors = 1e-7, []
    for _ in range(4):  # a jump may lie on the way; a wrong gradient is wrong along every way
        way = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in parameters.items()}
        losses = []
        for sign in (1, -1):
            for name, parameter in parameters.items():
                parameter.data.copy_(start[name] + sign * step * way[name])
            losses.append(outer_gradient(trainer, episodes)[0])
        expected = count * (losses[0] - losses[1]) / (2 * step)
        found = sum(float((gradient[name] * way[name]).sum()) for name in gradient)
        errors.append(abs(found - expected) / max(abs(expected), 1e-3))
        if errors[-1] < 1e-4:
            return
    raise AssertionError(f"the gradient is not the loss's: relative errors of {errors} along random directions")


def keeps_tasks_apart(trial: TrialConfig) -> None:
    """A task is predicted alike whatever tasks came before it."""
    trainer = Trainer(trial)
    episodes = _double(trainer)
    trainer.learner.double()
    turned = episodes.map(lambda part: part.flip(0))
    with torch.no_grad():
        numbers = range(episodes.size)
        there = predictions(trainer.learner, episodes, False, numbers)
        back = predictions(trainer.learner, turned, False, numbers[::-1])
    assert torch.equal(there, back.flip(0)), "a task's predictions depend on the tasks before it"


def evaluates_cleanly(trial: TrialConfig) -> None:
    """Evaluation changes nothing in the method, builds no graph, and its memory does not grow with the tasks."""
    trainer = _trained(trial)
    before = {name: tensor.clone() for name, tensor in trainer.learner.state_dict().items()}
    trainer.learner.zero_grad(set_to_none=True)
    counts = []
    gc.freeze()  # what is there already need not be counted again and again
    for _ in range(3):
        with torch.no_grad():
            outputs = predictions(trainer.learner, _first(trainer, "validation", 8), False)
        assert outputs.grad_fn is None, "a graph was built"
        del outputs
        gc.collect()
        counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    gc.unfreeze()
    assert counts[2] <= counts[1], f"{counts[2] - counts[1]} tensors more after each evaluation"
    for name, tensor in trainer.learner.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} changed"
    assert all(parameter.grad is None for parameter in trainer.learner.parameters())


def keeps_its_config(trial: TrialConfig) -> None:
    """The config survives YAML, and the method's settings say what they are."""
    assert parse_trial(parse_yaml(trial.to_yaml(), "config")) == trial
    assert (registry.find("method", trial.method).__doc__ or "").strip(), "the class has no docstring"


def neutral_is_the_plain_learner(trial: TrialConfig) -> None:
    """With every regularizer at its neutral settings the outer gradient is the learner's own."""
    neutral = {name: registry.find("regularizer", name).neutral for name in type(trial.regularizers).model_fields}
    with_them = Trainer(parse_trial(merge(trial.as_dict(), {"regularizers": neutral})))
    loss, found = outer_gradient(with_them)
    plain_loss, expected = outer_gradient(plain := _plain(trial))
    assert abs(loss - plain_loss) <= 1e-10 * abs(plain_loss), f"the loss is {loss}, and {plain_loss} without them"
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm()) / scale
        assert error < 1e-9, f"the gradient of {name} differs by {error:.0e} from the plain learner's"
    # A whole training too, with its own episodes: changes of the tasks, ramps.
    trained = [_trained(parse_trial(merge(trial.as_dict(), {"regularizers": neutral}))), _trained(plain.config)]
    losses = [[entry["train_loss"] for entry in each.rounds] for each in trained]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), f"training losses are {losses[0]}, and {losses[1]} without"


def is_off_in_evaluation(trial: TrialConfig) -> None:
    """Evaluation is the plain learner's under the same weights; of one that acts there too, repeatable."""
    trainer, plain = _trained(trial), _plain(trial)
    episodes, state = _first(trainer, "validation", 4), trainer.learner.state_dict()
    plain.learner.load_state_dict({name: state[name] for name in plain.learner.state_dict()})
    with torch.no_grad():
        found, again = (predictions(trainer.learner, episodes, False) for _ in range(2))
        expected = predictions(plain.learner, episodes, False)
    assert torch.equal(found, again), "a second evaluation predicts something else"
    if not any(one.in_evaluation for one in trainer.learner.regularizers):
        assert torch.equal(found, expected), "a regularizer acts in evaluation and does not say so"


CHECKS: list[Callable[[TrialConfig], None]] = [
    is_deterministic,
    resumes_exactly,
    reuses_an_actor,
    batches_tasks,
    learns_its_parameters,
    follows_its_loss,
    keeps_tasks_apart,
    evaluates_cleanly,
    keeps_its_config,
    takes_numbers_as_tensors,
]


def _of_a_learner(spec: str) -> list[Callable[[TrialConfig], None]]:
    """The promises of a learner with an inner loop; those of one that is searched with regularizers are its own."""
    return CHECKS_OF_PROMISES if "+" not in spec and has_inner_loop(spec) else []


CHECKS_OF_REGULARIZERS: list[Callable[[TrialConfig], None]] = [neutral_is_the_plain_learner, is_off_in_evaluation]


def checks(spec: str) -> list[Callable[[TrialConfig], None]]:
    """Those of a composition: with regularizers there are more."""
    return CHECKS + (CHECKS_OF_REGULARIZERS if "+" in spec else []) + _of_a_learner(spec)


def _problems(spec: str, problems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The small problems on which a composition has a meaning."""
    method, regularizers = split_spec(spec)
    parts = [registry.find("method", method), *(registry.find("regularizer", name) for name in regularizers)]
    needs = frozenset[str]().union(*(part.needs for part in parts)) & {"images", "labels"}
    kinds = {"policy": "of_policies", "windows": "of_windows"}  # offers to what those that fit say of themselves
    unfit = {offer for offer, key in kinds.items() if not all(vars(part).get(key) for part in parts)}
    offers = {name: open_problem(small_trial("maml", data).task).offers for name, data in problems.items()}
    return [name for name, found in offers.items() if needs <= found and not unfit & found]


def _plain(trial: TrialConfig) -> Trainer:
    """The learner without its regularizers."""
    return Trainer(parse_trial({**trial.as_dict(), "regularizers": {}}))


def _first(trainer: Trainer, split: Split, count: int) -> Tasks:
    """The first episodes of a split, or the first one alone where each has a shape of its own."""
    return drawn(trainer, split, count if trainer.problem.one_shape else 1)


def _double(trainer: Trainer) -> Tasks:
    """The first training episodes in float64."""
    episodes = _first(trainer, "train", trainer.config.outer.tasks_per_step)
    return episodes.map(lambda part: part.double() if part.is_floating_point() else part)


def _trained(trial: TrialConfig) -> Trainer:
    trainer = Trainer(trial)
    while not trainer.done:
        trainer.round()
    assert not trainer.diverged
    return trainer


def _metrics(trainer: Trainer) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in trainer.rounds]


def _assert_same(one: Trainer, other: Trainer) -> None:
    assert _metrics(one) == _metrics(other), "the metrics of the rounds differ"
    for name, tensor in one.learner.state_dict().items():
        assert torch.equal(tensor, other.learner.state_dict()[name]), f"{name} differs"


__all__ = ["BUDGET", "CHECKS", "CHECKS_OF_REGULARIZERS", "checks", "conformance", "outer_gradient", "small_trial"]
