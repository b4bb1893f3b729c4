"""Outer gradients clipped by hand, task by task; parameters with an optimizer of their own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import CURVES, GLYPHS, SMALL, small_trial
from torch import Tensor

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import Tasks
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import merge
from raymeta.testing import suite
from raymeta.training.trainer import Trainer

Gradients = dict[str, Tensor]
METHODS = {"l2f": CURVES, "metasgd": CURVES, "mamlpp": GLYPHS}  # each learns something beside the model


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Trainers that compute in float64."""
    monkeypatch.setattr(Tasks, "to", lambda self, _: self.map(lambda t: t.double() if t.is_floating_point() else t))

    def build(data: dict[str, Any], method: str, **sections: Any) -> Trainer:
        if method == "relationnet":  # which has none of MAML's settings
            own = {key: value for key, value in merge(SMALL, data).items() if key != "maml"}
            made = Trainer(parse_trial(merge(own, {"method": method}, sections)))
        else:
            made = Trainer(small_trial(data, method, **sections))
        made.learner.double()
        return made

    return build


def stepped(trainer: Trainer) -> Gradients:
    """The gradients that the optimizer saw in an outer step."""
    trainer.outer_update()
    return {name: p.grad.clone() for name, p in trainer.learner.named_parameters() if p.grad is not None}


def of_each_task(trainer: Trainer) -> list[Gradients]:
    """The gradients of each task's own loss in the next outer step, without clipping."""
    found = []
    for number in range(trainer.config.outer.tasks_per_step):
        trainer.learner.zero_grad()
        trainer.accumulate(trainer.tasks_of_step(number, 1).to("cpu"), number)
        found.append({n: p.grad.clone() for n, p in trainer.learner.named_parameters() if p.grad is not None})
    return found


def clipped(gradients: Gradients, way: dict[str, Any]) -> Gradients:
    """By hand: parts are (which names, and whether they are one vector)."""
    beside = sorted({name.split(".")[0] for name in gradients})
    parts = {
        "all": [list(gradients)],
        "model": [[n for n in gradients if n.startswith("model.")]],
        "head": [["model.head.weight", "model.head.bias"]],
        "per_module": [[n for n in gradients if n.split(".")[0] == module] for module in beside],
    }[way.get("clip_scope", "all")]
    found = dict(gradients)
    for part in parts:
        if "clip" in way:
            bound = torch.tensor(way["clip"], dtype=torch.float64)
            found |= {
                n: torch.where(gradients[n].abs() > bound, bound * gradients[n].sign(), gradients[n]) for n in part
            }
        else:
            norm = math.sqrt(sum(float(x) ** 2 for n in part for x in gradients[n].flatten()))
            found |= {n: gradients[n] * min(1.0, way["clip_norm"] / (norm + 1e-6)) for n in part}
    return found


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("when", ["after_mean", "per_task"])
@pytest.mark.parametrize(
    ("way", "method"),
    [
        ({"clip": 0.02}, "l2f"),
        ({"clip": 0.02, "clip_scope": "model"}, "l2f"),
        ({"clip": 0.02, "clip_scope": "head"}, "metasgd"),
        ({"clip_norm": 0.1}, "l2f"),
        ({"clip_norm": 0.1, "clip_scope": "model"}, "mamlpp"),
        ({"clip_norm": 0.1, "clip_scope": "head"}, "metasgd"),
        ({"clip_norm": 0.1, "clip_scope": "per_module"}, "mamlpp"),
    ],
    ids=str,
)
def test_clipping_is_that_by_hand(
    way: dict[str, Any], method: str, when: str, engine: str, double: Callable[..., Trainer], glyphs: ImageDataset
) -> None:
    data, reduction = METHODS[method], "sum" if method == "l2f" else "mean"
    outer = {"clip_scope": "all", **way, "clip_when": when, "reduction": reduction}
    found = stepped(double(data, method, outer=outer, engine={"tasks": engine}))
    plain = double(data, method, engine={"tasks": "loop"})
    each = of_each_task(plain)
    weight = 1.0 if reduction == "sum" else 1 / len(each)

    def together(parts: list[Gradients]) -> Gradients:
        return {name: weight * sum(part[name] for part in parts) for name in parts[0]}  # type: ignore[misc]

    unclipped = together(each)
    expected = together([clipped(g, outer) for g in each]) if when == "per_task" else clipped(unclipped, outer)
    assert found.keys() == expected.keys()
    changed = [name for name in expected if not torch.allclose(expected[name], unclipped[name], rtol=1e-3, atol=0)]
    assert changed  # or nothing was to be clipped
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)


def test_norms_of_what_is_finite_are_finite() -> None:
    trainer = Trainer(small_trial(CURVES, outer={"clip_norm": 0.5}))
    learned = trainer.update.learned

    def of(fill: Callable[[Tensor], Tensor]) -> Gradients:
        return trainer.update.clipped({name: fill(p.detach()) for name, p in learned.items()})

    count = sum(p.numel() for p in learned.values())
    large = torch.cat([g.flatten() for g in of(lambda p: torch.full_like(p, -1e30)).values()])
    assert torch.allclose(large, torch.tensor(-0.5 / math.sqrt(count)))  # squares of 1e30 are infinite in float32
    assert all(not g.any() for g in of(torch.zeros_like).values())
    tiny = of(lambda p: torch.full_like(p, 1e-30))
    assert all(torch.equal(g, torch.full_like(g, 1e-30)) for g in tiny.values())
    assert all(g.isnan().all() for g in of(lambda p: torch.full_like(p, math.nan)).values())


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("when", ["after_mean", "per_task"])
@pytest.mark.parametrize("way", [{"clip": 1.0}, {"clip_norm": 1.0}], ids=str)
def test_clipping_hides_no_divergence(way: dict[str, float], when: str, engine: str) -> None:
    trainer = Trainer(small_trial(CURVES, outer={**way, "clip_when": when}, engine={"tasks": engine}))
    with torch.no_grad():
        trainer.learner.model.head.bias.fill_(1e25)  # type: ignore[union-attr]
    assert trainer.round()["diverged"]
    assert trainer.outer_step < 2


# Groups of parameters


def two_optimizers(trainer: Trainer, rates: Callable[[int], tuple[float, float]], norm: float | None) -> None:
    """Train as the authors do: an optimizer for the model and one for what is beside it, each clipped by itself."""
    parts = [[], []]  # type: list[list[torch.nn.Parameter]]
    for name, parameter in trainer.learner.named_parameters():
        parts[not name.startswith("model.")].append(parameter)
    optimizers = [torch.optim.Adam(part) for part in parts]
    for step in range(trainer.config.budget.outer_steps):
        for optimizer, lr in zip(optimizers, rates(step), strict=True):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
        trainer.outer_gradient()
        for part in parts:
            if norm is not None:
                torch.nn.utils.clip_grad_norm_(part, norm)
        for optimizer in optimizers:
            optimizer.step()
        trainer.outer_step += 1


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    for (name, found), expected in zip(one.learner.named_parameters(), other.learner.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def test_relationnets_two_optimizers(double: Callable[..., Trainer], glyphs: ImageDataset) -> None:
    """Its authors' code: two Adams, halved together, gradient norms of encoder and module clipped separately."""
    outer = {"lr": 1e-3, "schedule": "exponential", "every": 0.5, "decay": 0.5, "tasks_per_step": 1}
    ours = double(GLYPHS, "relationnet", outer={**outer, "clip_norm": 0.05, "clip_scope": "per_module"})
    theirs = double(GLYPHS, "relationnet", outer=outer)
    two_optimizers(theirs, lambda step: (1e-3 * 0.5 ** (step // 3),) * 2, 0.05)
    for _ in range(6):
        ours.outer_update()
    assert_same_weights(ours, theirs)


def test_modgrads_two_optimizers(double: Callable[..., Trainer], glyphs: ImageDataset) -> None:
    """Its authors' code: two Adams, one halved twice, the other four times."""
    model = {"schedule": "step", "milestones": [2 / 6, 4 / 6], "factors": [0.5, 0.25]}
    added = {"lr": 2e-3, "milestones": [1 / 6, 2 / 6, 3 / 6, 5 / 6], "factors": [0.5, 0.25, 0.125, 0.0625]}
    outer = {"lr": 1e-3, "tasks_per_step": 2, **model, "added": added}
    ours = double(GLYPHS, "modgrad", outer=outer, modgrad={"context_size": 4})
    theirs = double(GLYPHS, "modgrad", outer={"tasks_per_step": 2}, modgrad={"context_size": 4})
    halved = (0, 1, 2, 3, 3, 4)
    two_optimizers(theirs, lambda step: (1e-3 * 0.5 ** (step // 2), 2e-3 * 0.5 ** halved[step]), None)
    for _ in range(6):
        ours.outer_update()
    assert_same_weights(ours, theirs)


def noted(trainer: Trainer) -> tuple[list[Gradients], list[Gradients]]:
    """Parameters before the first of all outer updates and after each, and the gradients in between."""

    def now() -> Gradients:
        return {name: p.detach().clone() for name, p in trainer.learner.named_parameters()}

    path, gradients = [now()], []
    for _ in range(trainer.config.budget.outer_steps):
        gradients.append(stepped(trainer))
        path.append(now())
    return path, gradients


def adam(start: Tensor, gradients: list[Tensor], lr: float, every: int) -> list[Tensor]:
    """Kingma and Ba's, forgetting everything after so many steps."""
    path, w = [start], start
    for t, g in enumerate(gradients):
        since = t % every + 1
        if since == 1:
            m, s = torch.zeros_like(w), torch.zeros_like(w)
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**since)) / (torch.sqrt(s / (1 - 0.999**since)) + 1e-8)
        path.append(w)
    return path


@pytest.mark.parametrize("of", ["all", "unadapted"])
@pytest.mark.parametrize("every", [1, 4])
def test_an_optimizer_that_is_made_again(every: int, of: str, double: Callable[..., Trainer], tmp_path: Any) -> None:
    """As in BOIL's code (every 100 steps) and MR-MAML's (each step, where it is lr times the gradients' signs)."""
    outer = {"lr": 0.01, "restart_every": every, "restart_of": of}
    trainer = double(CURVES, "anil", outer=outer)
    path, gradients = noted(trainer)
    for name, start in path[0].items():
        own = every if of == "all" or not name.startswith("model.head") else 10**9
        expected = adam(start, [g[name] for g in gradients], 0.01, own)
        for found, there in zip(path, expected, strict=True):
            torch.testing.assert_close(found[name], there, rtol=1e-10, atol=1e-13)
        if own == 1:
            step = 0.01 * gradients[3][name] / (gradients[3][name].abs() + 1e-8)
            torch.testing.assert_close(path[4][name], path[3][name] - step, rtol=1e-9, atol=1e-12)


def test_meta_datasets_weight_decay_is_a_term_of_its_loss(double: Callable[..., Trainer], glyphs: ImageDataset) -> None:
    """`l` times the sum of squares of all kernels, added to the loss of an episode: a decay of 2 l of kernels."""
    found = noted(double(GLYPHS, "protomaml", outer={"weight_decay": 0.2, "decay_of": "kernels"}))[0][1]
    theirs = double(GLYPHS, "protomaml")
    theirs.outer_gradient()
    kernels = [p for name, p in theirs.learner.named_parameters() if p.ndim > 1 and p.requires_grad]
    assert len(kernels) == 4
    (0.1 * sum(p.square().sum() for p in kernels)).backward()  # type: ignore[union-attr]
    theirs.update.optimizer.step()
    for name, p in theirs.learner.named_parameters():
        torch.testing.assert_close(found[name], p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "outer", "sentence"), [
    ("maml", {"clip": 1.0, "clip_norm": 2.0}, "config: outer: clip_norm: found 2.0 beside clip 1.0; allowed: one of "
        "them"),
    ("maml", {"clip": 1.0, "clip_scope": "per_module"}, "config: outer: clip_scope: found 'per_module', which is for "
        "clip_norm; allowed: all, model, head"),
    ("maml", {"clip_when": "each"}, "config: outer.clip_when: found 'each': not a value of this key, allowed: "
        "after_mean, per_task"),
    ("maml", {"optimizer": "sgd", "restart_every": 3}, "config: outer: restart_every: found 3, but sgd without "
        "momentum has no moments"),
    ("maml", {"added": {"milestones": [0.5]}}, "config: outer.added: milestones: found 1, and 0 factors; as many are "
        "needed"),
    ("maml", {"added": {"milestones": [0.5, 0.2], "factors": [0.1, 0.2]}}, "config: outer.added: milestones: found "
        "[0.5, 0.2], which do not rise"),
    ("maml", {"added": {"lr": 0.1}}, "outer.added.lr: nothing is learned beside the model of maml here"),
    ("maml", {"added": {"milestones": [0.5], "factors": [0.1]}}, "outer.added.milestones: nothing is learned beside "
        "the model of maml here"),
    ("protonet", {"clip": 1.0, "clip_scope": "head"}, "outer.clip_scope: found 'head', but protonet learns no head; "
        "allowed: all, model, per_module"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    method: str, outer: dict[str, Any], sentence: str, glyphs: ImageDataset
) -> None:
    with pytest.raises(UserError) as refused:
        Trainer(parse_trial({"method": method, "task": GLYPHS["task"], "model": GLYPHS["model"], "outer": outer}))
    assert str(refused.value) == sentence


BATCHED = [name for name in registry.names("regularizer") if registry.find("regularizer", name).batches]


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*registry.names("method"), *(f"maml+{name}" for name in BATCHED)])
def test_each_tasks_gradient_is_clipped_alike_batched_and_looped_over(
    spec: str, double: Callable[..., Trainer], glyphs: ImageDataset
) -> None:
    seen = []
    for tasks in ("loop", "vmap"):
        sections = {"outer": {"clip_norm": 0.01, "clip_when": "per_task"}, "engine": {"tasks": tasks}}
        trainer = Trainer(parse_trial(merge(suite.small_trial(spec).as_dict(), sections)))
        trainer.learner.double()
        seen.append(stepped(trainer))
    expected, found = seen
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10)
