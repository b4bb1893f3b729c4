"""Trajectories as tasks: what they depend on, what is scored, what the estimator leaves out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems.rl.made import NOISE, SMALL, trained

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Player
from raymeta.problem import open_problem
from raymeta.problems.rl.navigation2d import Points, best_return
from raymeta.problems.rl.trajectories import Steps
from raymeta.schema import merge
from raymeta.training.trainer import Trainer


def test_the_points_of_the_plane() -> None:
    points = Points()
    goals = np.array([[0.25, -0.1], [0.3, 0.0]])
    assert points.reset(goals, np.zeros((2, 0))).tolist() == [[0, 0], [0, 0]]
    seen, reward, ended = points.step(np.array([[5.0, -0.05], [0.1, 0.1]]), np.ones(2, bool))
    assert seen.tolist() == [[0.1, -0.05], [0.1, 0.1]]
    assert reward.tolist() == pytest.approx([-math.hypot(0.15, 0.05), -math.hypot(0.2, 0.1)])
    assert not ended.any()
    points.step(np.array([[0.1, -0.05], [0.1, -0.1]]), np.ones(2, bool))
    _, reward, ended = points.step(np.array([[0.045, 0.0], [0.08, 0.0]]), np.ones(2, bool))
    assert ended.tolist() == [True, False]
    assert reward.tolist() == pytest.approx([-0.005, -0.02])


def test_no_policy_s_return_exceeds_the_best_one() -> None:
    """Nor that of one that knows the goal, which reaches it."""
    goals = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    points, total, going = Points(), np.zeros(50), np.ones(50, bool)
    at = points.reset(goals, np.zeros((50, 0)))
    for _ in range(20):
        at, reward, ended = points.step(goals - at, going)
        total += np.where(going, reward, 0)
        going &= ~ended
    best = np.array([best_return(goal, 20) for goal in goals])
    np.testing.assert_allclose(total, best, atol=1e-12)
    trainer = trained()
    bank = trainer.problem.bank("validation", 0)
    score = trainer.evaluate(bank, 6)
    limits = [best_return(goal, 8) for goal in bank.goals(0, 6)]  # type: ignore[attr-defined]
    assert all(found <= limit for found, limit in zip(score.values.tolist(), limits, strict=True))


def test_a_task_s_trajectories_are_its_own_and_the_weights_alone() -> None:
    trainer = trained(NOISE)
    bank = trainer.problem.bank("validation", 3)

    def drawn(first: int, count: int) -> list[torch.Tensor]:
        tasks = bank.draw(first, count, Player.in_evaluation(trainer.learner, first, count))
        return [tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y]

    whole = drawn(0, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole, drawn(0, 4), strict=True))
    parts = [torch.cat(pair) for pair in zip(drawn(0, 1), drawn(1, 3), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    other = trainer.problem.bank("train", 3).draw(0, 4, Player.in_evaluation(trainer.learner, 0, 4))
    assert not torch.equal(other.query.x, whole[2])
    with torch.no_grad():
        next(iter(trainer.update.learned.values())).add_(0.1)
    assert not torch.equal(drawn(0, 4)[2], whole[2])


def test_trajectories_before_each_inner_step_are_of_the_policy_of_then() -> None:
    trainer = trained({"maml": {"inner_steps": 2}}, NOISE)
    tasks = trainer.tasks_of_step()
    assert tasks.support.x.shape == (2, 2, 24, 2)
    keys = trainer._keys(0, 2)
    player = Player(trainer.learner, trainer.context, keys, lambda tasks: trainer.learner.hooks(tasks, trainer.context))
    for steps in (0, 1, 2):
        for number, state in enumerate(player.adapted(tasks.support, steps)):
            support, query = tasks.task(number)
            x, y = query if steps == 2 else trainer.problem.of_step(support, steps)
            assert torch.equal(player.outputs(state, x), Steps.of(y).old)
    trainer.outer_update()


def test_the_score_is_the_mean_return_without_noise_before_and_after() -> None:
    plain, noisy = trained(), trained(NOISE)
    noisy.learner.load_state_dict(plain.learner.state_dict())
    bank = plain.problem.bank("validation", 0)
    score, same = plain.evaluate(bank, 5), noisy.evaluate(bank, 5)
    assert torch.equal(score.values, same.values)
    tasks = bank.draw(0, 5, Player.in_evaluation(plain.learner, 0, 5))
    rewards = Steps.of(tasks.query.y).rewards.view(5, 3, 8)
    torch.testing.assert_close(score.values, rewards.sum(2).mean(1))
    assert score.loss == pytest.approx(-score.mean)
    before = Steps.of(tasks.support.y[:, 0]).rewards.view(5, 3, 8).sum(2).mean()
    assert score.also["return_before"] == pytest.approx(float(before))
    unadapted = plain.evaluate(bank, 5, steps=0)
    assert unadapted.before is not None
    assert torch.equal(unadapted.before, unadapted.values)
    members = [plain.learner.state_dict(), {k: 1.5 * v for k, v in plain.learner.state_dict().items()}]
    alone = [plain.evaluate(bank, 5, [member]).values for member in members]
    torch.testing.assert_close(plain.evaluate(bank, 5, members).values, torch.stack(alone).mean(0))
    assert torch.equal(plain.evaluate(bank, 5).values, score.values)


def test_what_the_estimator_leaves_out() -> None:
    """D theta' / d theta of a Gaussian bandit of one action and a fixed deviation, as MAML-TRPO has it and as it is.

    For reward -(a - g)^2 the true gradient step is mu' = mu - 2 alpha (mu - g), whose derivative is 1 - 2 alpha. The
    estimator takes the trajectories, and with them the advantages, as given: grad log pi is (a - mu) / sigma^2, and as
    advantages have mean 0 their derivative is exactly 0. So it is 1 (DiCE and ProMP repair that).
    """
    generator = torch.Generator().manual_seed(0)
    mu = torch.zeros((), dtype=torch.float64, requires_grad=True)
    drawn = torch.randn(4000, generator=generator, dtype=torch.float64)
    for rate in (0.1, 0.3):
        actions = drawn.detach()
        worth = -((actions - 0.7) ** 2)
        worth = (worth - worth.mean()) / worth.std(correction=0)
        outputs = torch.stack([mu.expand(4000), torch.zeros(4000, dtype=torch.float64)], 1)
        ones = torch.full((4000,), 1 / 4000, dtype=torch.float64)
        y = Steps(actions[:, None], outputs.detach(), worth, ones, worth).y
        problem = trained().problem
        (slope,) = torch.autograd.grad(problem.loss(outputs, y), mu, create_graph=True)
        (found,) = torch.autograd.grad(mu - rate * slope, mu)
        assert float(found) == pytest.approx(1, abs=1e-12)
        noise = actions.clone()  # the same, through what the actions depend on: a = mu + noise, advantages unscaled
        return_of = -((mu + noise - 0.7) ** 2).mean()
        (true,) = torch.autograd.grad(mu + rate * torch.autograd.grad(return_of, mu, create_graph=True)[0], mu)
        assert float(true) == pytest.approx(1 - 2 * rate)


def test_no_noise_is_no_dropgrad_to_the_bit() -> None:
    plain, neutral, noisy = trained(), trained({"regularizers": {"dropgrad": {"rate": 0.0}}}), trained(NOISE)
    for trainer in (plain, neutral, noisy):
        trainer.round()
    ours, same, other = ([p.detach() for p in t.update.learned.values()] for t in (plain, neutral, noisy))
    assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
def test_a_killed_run_goes_on_to_the_same_bits(tasks: str, tmp_path: Path) -> None:
    config = parse_trial(merge(SMALL, NOISE, {"engine": {"tasks": tasks}}))
    whole, killed = Trainer(config), Trainer(config)
    while not whole.done:
        whole.round()

    class Killed(RuntimeError):
        pass

    def after_step() -> None:
        killed.save(tmp_path / "checkpoint.pt")
        if killed.outer_step == 3:
            raise Killed

    killed.round(after_step)
    with pytest.raises(Killed):
        killed.round(after_step)
    again = Trainer(config)
    again.load(tmp_path / "checkpoint.pt")
    while not again.done:
        again.round()
    for name, tensor in whole.learner.state_dict().items():
        assert torch.equal(tensor, again.learner.state_dict()[name]), name
    values = [[{k: v for k, v in one.items() if k != "seconds"} for one in t.rounds] for t in (whole, again)]
    assert values[0] == values[1]
    assert whole.test()[1].mean == again.test()[1].mean


def test_it_learns() -> None:
    """In 12 outer steps of small tasks policies adapt to their goals."""
    config: dict[str, Any] = merge(
        SMALL,
        {"task": {"trajectories": 10, "horizon": 20}, "model": {"hidden": [16]}, "outer": {"tasks_per_step": 6}},
        {"budget": {"outer_steps": 12, "validate_every": 6, "validation_tasks": 20, "ensemble": 1}},
    )
    trainer = Trainer(parse_trial(config))
    first = trainer.evaluate(trainer.problem.bank("validation", 0), 20).mean
    while not trainer.done:
        trainer.round()
    assert trainer.rounds[-1]["val_return"] > first + 1
    assert trainer.rounds[-1]["val_return"] > trainer.rounds[-1]["val_return_before"]


def test_bad_settings_are_one_sentence(tmp_path: Path) -> None:
    for key in ("ways", "shots"):
        with pytest.raises(UserError, match=rf"unknown key 'task.{key}', .*horizon, .*trajectories"):
            parse_trial(merge(SMALL, {"task": {key: 5}}))
    with pytest.raises(UserError, match=r"^navigation2d needs a policy, and model.name mlp has none$"):
        Trainer(parse_trial({**SMALL, "model": {"name": "mlp"}}))
    problem = open_problem(parse_trial(SMALL).task)
    with pytest.raises(UserError, match="a policy adapts to trajectories of its own"):
        problem.inputs([[0.0, 0.0]])
    with pytest.raises(RuntimeError, match="made by a policy"):
        problem.bank("train", 0).draw(0, 1)
    problem.picture(tmp_path / "goals.png")
    assert (tmp_path / "goals.png").read_bytes().startswith(b"\x89PNG")


def test_a_reward_that_is_no_number_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Points.step

    def broken(self: Points, *rest: Any) -> Any:
        seen, reward, ended = step(self, *rest)
        return seen, reward * np.nan, ended

    monkeypatch.setattr(Points, "step", broken)
    with pytest.raises(UserError, match=r"^navigation2d: its environment gave a reward that is not finite$"):
        trained().outer_update()


@pytest.mark.parametrize("outer", [{"optimizer": "adam", "lr": 1e300}, {"optimizer": "ppo", "lr": 1e300}])
def test_a_policy_that_diverges_ends_its_trial_as_diverged(outer: dict[str, Any]) -> None:
    trainer = trained({"outer": {**outer, "tasks_per_step": 2}})
    while not trainer.done:
        trainer.round()
    assert trainer.diverged
    assert trainer.outer_step < trainer.config.budget.outer_steps
