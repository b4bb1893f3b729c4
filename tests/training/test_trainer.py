"""The outer loop: equal numbers whole, interrupted, looped over or batched; checkpoints; divergence; the test split."""

import io
import math
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import CURVES, GLYPHS, mlp, small_trial
from torch import Tensor
from unrolled import assert_same, descent, expected_gradient, relative_error, unrolled_loss

from raymeta.errors import UserError
from raymeta.inner import predictions
from raymeta.problem import Tasks, TestSplitClosed
from raymeta.problems.images.dataset import ImageDataset
from raymeta.training.trainer import Trainer

DROPGRAD = {"regularizers": {"dropgrad": {"rate": 0.2, "ramp": "linear"}}}
EVERYTHING = DROPGRAD | {"outer": {"schedule": "cosine", "clip": 0.5, "lr": 0.01}}


def trainer(data: dict[str, Any] = CURVES, **sections: Any) -> Trainer:
    return Trainer(small_trial(data, **sections))


def metrics(trainer: Trainer) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in trainer.rounds]


def train(trainer: Trainer) -> Trainer:
    while not trainer.done:
        trainer.round()
    return trainer


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of nested states; wall times don't count."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


Build = Callable[..., Trainer]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Trainers that compute in float64."""

    def to(self: Tasks, device: torch.device) -> Tasks:
        return self.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def build(*data: dict[str, Any], **sections: Any) -> Trainer:
        made = trainer(*data, **sections)
        made.learner.double()
        return made

    monkeypatch.setattr(Tasks, "to", to)
    return build


def gradients(trainer: Trainer) -> tuple[float, dict[str, Tensor]]:
    """Of the next outer step: its mean loss, and the gradients left in the parameters."""
    trainer.update.optimizer.zero_grad()
    loss = float(trainer.outer_gradient())
    return loss, {name: weight.grad.clone() for name, weight in trainer.learner.named_parameters()}  # type: ignore[union-attr]


# Same numbers


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_same_config_and_seed_same_numbers(engine: str) -> None:
    one, two, other = (train(trainer(**EVERYTHING, engine={"tasks": engine}, seed=seed)) for seed in (3, 3, 4))
    assert metrics(one) == metrics(two) != metrics(other)
    assert same(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("interruptions", [{0}, {1}, {2}, {3}, {0, 1, 2, 3}])
def test_an_interrupted_run_is_bitwise_the_uninterrupted_one(interruptions: set[int], tmp_path: Path) -> None:
    whole, now = train(trainer(**EVERYTHING)), trainer(**EVERYTHING)
    for done in range(4):
        if done in interruptions:
            now.save(tmp_path / "checkpoint.pt")
            torch.manual_seed(done)  # global generators have no say
            now = trainer(**EVERYTHING)
            now.load(tmp_path / "checkpoint.pt")
        if not now.done:
            now.round()
    assert now.outer_step == 6
    assert metrics(now) == metrics(whole)
    assert same(now.state_dict(), whole.state_dict())
    for found, expected in zip(now.test(), whole.test(), strict=True):
        assert torch.equal(found.values, expected.values)


def test_an_interrupted_run_with_running_averages(glyphs: ImageDataset, tmp_path: Path) -> None:
    sections: dict[str, Any] = {**DROPGRAD, "model": {"norm": "running"}}
    whole, now = train(trainer(GLYPHS, **sections)), trainer(GLYPHS, **sections)
    now.round()
    now.save(tmp_path / "checkpoint.pt")
    now = trainer(GLYPHS, **sections)
    now.load(tmp_path / "checkpoint.pt")
    assert same(train(now).state_dict(), whole.state_dict())
    assert metrics(now) == metrics(whole)


# Tasks batched with vmap


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("dropgrad", [{}, {"dropgrad": {"rate": 0.3}}, {"dropgrad": {"rate": 0.3, "noise": "binary"}}])
@pytest.mark.parametrize("data", [CURVES, GLYPHS], ids=["curves", "glyphs"])
def test_tasks_batched_are_tasks_looped_over(
    data: dict[str, Any], dropgrad: dict[str, Any], order: str, double: Build, glyphs: ImageDataset
) -> None:
    sections: dict[str, Any] = {"regularizers": dropgrad, "maml": {"order": order}}
    loop, batched = (double(data, **sections, engine={"tasks": tasks}) for tasks in ("loop", "vmap"))
    assert (loop.vectorized, batched.vectorized) == (False, True)
    (loss, expected), (batched_loss, found) = gradients(loop), gradients(batched)
    assert batched_loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(found, expected, floor=1) < 1e-10
    one, two = loop.validate(), batched.validate()
    assert two == pytest.approx(one, rel=1e-10)


@pytest.mark.parametrize("norm", ["support", "per_step"])
def test_tasks_batched_are_tasks_looped_over_in_other_norms(norm: str, double: Build, glyphs: ImageDataset) -> None:
    loop, batched = (double(GLYPHS, model={"norm": norm}, engine={"tasks": tasks}) for tasks in ("loop", "vmap"))
    (loss, expected), (batched_loss, found) = gradients(loop), gradients(batched)
    assert batched_loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(found, expected, floor=1) < 1e-10
    assert batched.validate() == pytest.approx(loop.validate(), rel=1e-10)


def test_which_tasks_are_batched(glyphs: ImageDataset) -> None:
    assert trainer().vectorized is True
    assert trainer(GLYPHS).vectorized is False
    assert trainer(GLYPHS, engine={"tasks": "vmap"}).vectorized is True
    assert trainer(GLYPHS, model={"norm": "running"}).vectorized is False
    with pytest.raises(UserError) as caught:
        trainer(GLYPHS, model={"norm": "running"}, engine={"tasks": "vmap"})
    assert str(caught.value) == (
        "engine.tasks: found 'vmap', but model.norm running updates its averages task by task; allowed: auto, loop"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where there is no GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UserError) as caught:
        trainer(engine={"device": "cuda"})
    assert str(caught.value) == "engine.device: found 'cuda', but torch sees no GPU here; allowed: auto, cpu"


# The outer step


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_outer_gradient_is_the_references(engine: str, reduction: str, double: Build) -> None:
    now = double(outer={"reduction": reduction, "tasks_per_step": 3}, engine={"tasks": engine})
    now.outer_step = 2
    episodes = now.problem.bank("train", now.config.seed).draw(6, 3).to("cpu")
    rule = descent(lambda step, name: float(now.learner.numbers.inner_lr))  # type: ignore[arg-type]
    loss, expected = expected_gradient(
        now.learner,
        [episodes.task(i) for i in range(3)],
        lambda theta, own, task: unrolled_loss(mlp, theta, task, rule, steps=2),
    )
    tasks = 3 if reduction == "sum" else 1
    assert_same(gradients(now), (loss, {name: tasks * g for name, g in expected.items()}), loss=1e-12)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_sum_is_the_mean_times_the_tasks(engine: str) -> None:
    mean, total = (gradients(trainer(outer={"reduction": r}, engine={"tasks": engine})) for r in ("mean", "sum"))
    assert mean[0] == total[0]
    assert relative_error({name: 3 * g for name, g in mean[1].items()}, total[1], floor=1) < 1e-6


def test_every_outer_step_has_its_own_tasks() -> None:
    now = trainer()
    losses = []
    for step in range(4):
        now.outer_step = step
        losses.append(gradients(now)[0])
    assert len(set(losses)) == 4


def test_gradients_are_clipped_by_value() -> None:
    plain, clipped, loose = (trainer(outer={"clip": clip}, engine={"tasks": "loop"}) for clip in (None, 0.01, 1e9))
    for now in (plain, clipped, loose):
        now.outer_update()
    expected, found, same_as = (
        torch.cat([p.grad.flatten() for p in now.learner.parameters() if p.grad is not None])
        for now in (plain, clipped, loose)
    )
    assert float(expected.abs().max()) > 0.01
    assert torch.equal(found, expected.clamp(-0.01, 0.01))
    assert torch.equal(same_as, expected)


def test_adam_makes_the_first_step_as_long_as_its_rate() -> None:
    now = trainer(outer={"lr": 0.003})
    before = [p.detach().clone() for p in now.learner.parameters()]
    now.outer_update()
    steps = torch.cat([(p.detach() - b).flatten() for p, b in zip(now.learner.parameters(), before, strict=True)])
    assert float(steps.abs().max()) == pytest.approx(0.003, rel=1e-3)


@pytest.mark.parametrize(
    ("outer", "rates"),
    [
        ({"lr": 0.01}, [0.01] * 6),
        ({"lr": 0.01, "schedule": "cosine"}, [0.01 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(6)]),
        (
            {"lr": 0.01, "schedule": "cosine", "min_lr": 0.004},
            [0.004 + 0.006 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(6)],
        ),
    ],
)
def test_step_sizes_follow_the_schedule_over_the_full_budget(outer: dict[str, Any], rates: list[float]) -> None:
    now, seen = trainer(outer=outer), []
    while not now.done:
        now.outer_update()
        seen.append(now.update.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx(rates, rel=1e-12)


def test_training_learns() -> None:
    """Most of a curve's variance: a mean of 0 has a squared error of about 4 to 5."""
    now = trainer(
        model={"hidden": [40, 40]},
        maml={"inner_lr": 0.05, "order": "first"},
        outer={"lr": 0.003, "tasks_per_step": 10},
        budget={"outer_steps": 300, "validate_every": 300, "validation_tasks": 100},
    )
    before = now.validate()["val_mse"]
    assert train(now).rounds[-1]["val_mse"] < 0.8 * before


# Rounds


def test_what_a_round_says() -> None:
    now = trainer()
    first = now.round()
    assert first.keys() == {"outer_steps", "train_loss", "val_mse", "val_ci95", "val_loss", "diverged", "seconds"}
    assert (first["outer_steps"], first["diverged"], now.outer_step) == (2, False, 2)
    again = trainer()
    assert first["train_loss"] == (again.outer_update() + again.outer_update()) / 2
    validation = again.validate()
    assert {key: first[key] for key in validation} == validation
    assert [entry["outer_steps"] for entry in train(now).rounds] == [2, 4, 6]


def test_accuracy_of_images(glyphs: ImageDataset) -> None:
    entry = trainer(GLYPHS).round()
    assert 0 <= entry["val_accuracy"] <= 1
    assert "val_mse" not in entry


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("sections", [{"maml": {"inner_lr": 1e30}}, {"outer": {"lr": 1e25}}], ids=["inner", "outer"])
def test_a_diverged_round_stops_at_once_and_is_not_validated(sections: dict[str, Any], engine: str) -> None:
    now = trainer(**sections, engine={"tasks": engine}, budget={"outer_steps": 100, "validate_every": 50})
    entry = now.round()
    assert entry["diverged"] is now.diverged is now.done is True
    assert entry.keys() == {"outer_steps", "train_loss", "diverged", "seconds"}
    assert now.outer_step < 3
    assert now.best is None


def test_a_validation_that_is_not_finite_is_a_divergence() -> None:
    """The last outer step of a round may be the one that ruins the weights; so may more inner steps in evaluation."""
    now = trainer(maml={"inner_lr": 10.0, "inner_steps": 0, "eval_steps": 100})
    entry = now.round()
    assert math.isfinite(entry["train_loss"])
    assert entry["diverged"] is now.done is True
    assert "val_mse" not in entry
    assert now.best is None


# The best weights and the test split


def test_the_test_is_of_the_best_weights_and_leaves_the_present_ones() -> None:
    now = train(trainer(outer={"lr": 0.05}))
    assert now.best is not None
    values = [entry["val_mse"] for entry in now.rounds]
    assert now.best["score"] == min(values)
    assert now.best["outer_step"] == 2 * (1 + values.index(min(values)))

    now.outer_update()
    now.outer_update()
    before = {name: tensor.clone() for name, tensor in now.learner.state_dict().items()}
    score, ensemble = now.test()
    assert same(dict(now.learner.state_dict()), before)
    there = trainer(outer={"lr": 0.05})
    there.learner.load_state_dict(now.best["weights"])
    bank = there.problem.bank("test", 0, final=True)
    expected = there.evaluate(bank, 4)
    assert torch.equal(score.values, expected.values)
    now.learner.load_state_dict(before)
    worse = now.evaluate(bank, 4)
    assert not torch.equal(score.values, worse.values)
    assert not torch.equal(score.values, ensemble.values)


def test_an_ensemble_is_of_the_best_rounds_and_predicts_the_mean_of_their_outputs(glyphs: Any) -> None:
    now = trainer(GLYPHS, budget={"outer_steps": 8, "validate_every": 1, "ensemble": 3})
    while not now.done:
        now.round()
    values = [entry["val_accuracy"] for entry in now.rounds]
    assert [entry["score"] for entry in now.top] == sorted(values, reverse=True)[:3]
    for entry in now.top:
        assert entry["score"] == values[entry["outer_step"] - 1]
    bank = now.problem.bank("test", 0, final=True)
    episodes, outputs = bank.draw(0, 4), []
    for entry in now.top:
        there = trainer(GLYPHS)
        there.learner.load_state_dict(entry["weights"])
        with torch.no_grad():
            outputs.append(predictions(there.learner, episodes, vectorized=False))
    right = (torch.stack(outputs).mean(0).argmax(-1) == episodes.query.y).double().mean(1)
    assert torch.equal(now.test()[1].values, right)


def test_the_best_weights_are_a_copy() -> None:
    now = trainer()
    now.validate()
    assert now.best is not None
    kept = {name: tensor.clone() for name, tensor in now.best["weights"].items()}
    now.outer_update()
    assert same(now.best["weights"], kept)
    assert not same(dict(now.learner.state_dict()), kept)


def test_a_search_cannot_open_the_test_split(glyphs: ImageDataset) -> None:
    for data in (CURVES, GLYPHS):
        with pytest.raises(TestSplitClosed, match="the test split is opened by final runs only"):
            trainer(data).problem.bank("test", 0)
    with pytest.raises(RuntimeError, match="nothing was validated yet"):
        trainer().test()


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    now = trainer()
    now.round()
    now.save(tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def refusal(path: Path, **sections: Any) -> str:
    with pytest.raises(UserError) as caught:
        trainer(**sections).load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


DAMAGED = "not a checkpoint, or a damaged one"


def test_another_configs_or_versions_checkpoint_is_refused(checkpoint: Path) -> None:
    assert refusal(checkpoint, seed=1) == "the checkpoint belongs to another config"
    assert refusal(checkpoint, outer={"lr": 0.1}) == "the checkpoint belongs to another config"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "version": 99}, checkpoint)
    assert refusal(checkpoint) == "the checkpoint has version 99, this raymeta reads 2"


def test_a_checkpoint_from_before_a_key_was_there_goes_on(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    assert state["config"]["engine"].pop("images") == "auto"
    torch.save(state, checkpoint)
    assert refusal(checkpoint, engine={"images": "host"}) == "the checkpoint belongs to another config"
    now = trainer()
    now.load(checkpoint)
    assert now.outer_step == state["outer_step"]
    torch.save({**state, "config": 7}, checkpoint)
    assert refusal(checkpoint) == DAMAGED


def test_a_checkpoint_cut_off_anywhere_is_refused(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for length in range(0, len(whole), 151):
        checkpoint.write_bytes(whole[:length])
        assert refusal(checkpoint) == DAMAGED
    checkpoint.write_bytes(whole)
    trainer().load(checkpoint)


def test_a_flipped_bit_in_a_weight_is_noticed(checkpoint: Path) -> None:
    whole, weight = bytearray(checkpoint.read_bytes()), io.BytesIO()
    state = torch.load(checkpoint, weights_only=True)
    weight.write(state["method"]["model.layer1.weight"].numpy().tobytes())
    whole[whole.index(weight.getvalue())] ^= 1
    checkpoint.write_bytes(whole)
    assert refusal(checkpoint) == DAMAGED


@pytest.mark.parametrize("content", [[1], None, {}, {"version": 2}, torch.ones(2), {"version": 2, "config": {}}])
def test_other_things_that_torch_saved_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert refusal(tmp_path / "other.pt")


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pt") == "cannot be read: No such file or directory"


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    path, attack = tmp_path / "attack.pt", Attack(tmp_path / "made")
    path.write_bytes(pickle.dumps(attack))
    assert refusal(path) == DAMAGED
    torch.save({"version": 2, "config": attack}, path)
    assert refusal(path) == DAMAGED
    torch.save(attack, path, _use_new_zipfile_serialization=False)
    assert refusal(path) == DAMAGED
    assert not attack.folder.exists()
    pickle.loads(pickle.dumps(attack))  # and the attack works
    assert attack.folder.exists()


def test_a_full_disk_leaves_the_old_checkpoint(checkpoint: Path) -> None:
    now, (soft, hard) = trainer(), resource.getrlimit(resource.RLIMIT_FSIZE)
    now.load(checkpoint)
    now.round()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            now.save(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(checkpoint.parent) == [checkpoint.name]
    old = trainer()
    old.load(checkpoint)
    assert old.outer_step == 2
    assert metrics(old) == metrics(now)[:1]
