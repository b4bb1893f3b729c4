"""TRPO's outer step: its parts against closed forms, the whole on MAML's adapted policies. Float64."""

import math

import pytest
import torch
from problems.rl.made import NOISE, flat, learned, move, trained
from reference import GLYPHS, small_trial
from torch import Tensor

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.problem import open_problem
from raymeta.schema import merge
from raymeta.training.trainer import Trainer
from raymeta.training.trpo import TRPO, conjugate_gradients

BOTH = pytest.mark.parametrize("noise", [{}, NOISE], ids=["plain", "dropgrad"])


def test_conjugate_gradients_solve_a_system() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    a, b = a @ a.T / 20 + torch.eye(20, dtype=a.dtype), torch.randn(20, generator=generator, dtype=torch.float64)
    found = conjugate_gradients(lambda x: a @ x, b, 20, 0.0)
    assert float((a @ found - b).norm() / b.norm()) < 1e-8


class Quadratic:
    """L = g x + c |x - x0|^2 / 2 around where it starts, K = (x - x0) A (x - x0) / 2."""

    def __init__(self, trainer: Trainer, bent: Tensor, slope: Tensor, up: float = 0.0) -> None:
        self.parameters, self.bent, self.slope, self.up = list(trainer.update.learned.values()), bent, slope, up
        self.start = learned(trainer)

    def outer_gradient(self) -> Tensor:
        raise AssertionError("it is not asked for")

    def surface(self):  # type: ignore[no-untyped-def]
        def measured() -> tuple[Tensor, Tensor]:
            moved = flat(self.parameters) - self.start
            return self.slope @ moved + self.up * moved @ moved / 2, moved @ self.bent @ moved / 2

        return measured


def test_a_step_on_a_quadratic_is_the_natural_gradient_of_the_limit_s_length() -> None:
    """X = - A^-1 g sqrt(2 limit / g A^-1 g), whose K is the limit: the second try is the first below it."""
    trainer = trained({"outer": {"damping": 0.0, "conjugate_steps": 60}})
    generator, start = torch.Generator().manual_seed(1), learned(trainer)
    bent = torch.diag(torch.rand(len(start), generator=generator, dtype=torch.float64) + 0.5)
    slope = torch.randn(len(start), generator=generator, dtype=torch.float64)
    trainer.update.follow(Quadratic(trainer, bent, slope))
    natural = torch.linalg.solve(bent, slope)
    longest = natural * math.sqrt(2 * 0.01 / float(slope @ natural))
    ratios = (start - learned(trainer)) / longest
    assert float(ratios.max() - ratios.min()) < 1e-4  # where conjugate gradients stop
    assert float(ratios.mean()) == pytest.approx(0.8, rel=1e-4)


@pytest.mark.parametrize(("curve", "up"), [(1.0, 1e9), (-1.0, 0.0), (math.nan, 0.0)])
def test_where_no_step_will_do_the_parameters_stay_to_the_bit(curve: float, up: float) -> None:
    """No try is better; the curvature is negative; it is no number."""
    trainer = trained()
    start = learned(trainer)
    slope = torch.ones(len(start), dtype=torch.float64)
    trainer.update.follow(Quadratic(trainer, curve * torch.eye(len(start), dtype=torch.float64), slope, up))
    assert torch.equal(learned(trainer), start)
    assert isinstance(trainer.update, TRPO)
    assert trainer.update.skipped == 1
    assert trainer.update.state_dict() == {"skipped": 1}


@BOTH
def test_before_a_step_policies_are_where_their_trajectories_were_made(noise: dict) -> None:  # type: ignore[type-arg]
    """The ratio is 1, K and its gradient 0, exactly: the noise of sampling is that of the products and the tries."""
    trainer = trained(noise)
    tasks = trainer.tasks_of_step()
    keys, surround = trainer._surrounded(tasks, 0)
    for number in range(tasks.size):
        task = tasks.task(number)
        outputs = trainer.learner.predict(
            trainer.learner.adapt(task.support, surround(number, keys[number])), task.query.x
        )
        assert torch.equal(outputs, task.query.y[:, 2:6])
    _, distance = trainer.surface()()
    assert float(distance) == 0
    assert not flat(torch.autograd.grad(distance, list(trainer.update.learned.values()))).any()


@BOTH
@pytest.mark.parametrize("method", ["maml", "metasgd"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_gradients_are_central_differences(noise: dict, method: str, order: str) -> None:  # type: ignore[type-arg]
    """Of L, and of K's gradient along a way (the products), with trajectories and noise that stay the same."""
    own = {"method": method, method: {"inner_steps": 1, "inner_lr": 0.1, "order": order}}
    trainer = trained(noise, own)
    parameters, measure = list(trainer.update.learned.values()), trainer.surface()
    start = learned(trainer)
    way = torch.randn(len(start), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def rise() -> Tensor:
        found = torch.autograd.grad(measure()[1], parameters, create_graph=True, materialize_grads=True)
        return flat(found)

    loss, _ = measure()
    slope = flat(torch.autograd.grad(loss, parameters, materialize_grads=True))
    product = flat(torch.autograd.grad(rise() @ way, parameters, materialize_grads=True))
    step, losses, rises = 1e-5, [], []
    for sign in (1, -1):
        move(trainer, start + sign * step * way)
        losses.append(float(measure()[0].detach()))
        rises.append(rise().detach())
    differences = (rises[0] - rises[1]) / (2 * step)
    if order == "second":  # in first order what is followed is no derivative
        assert float(slope @ way) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)
        torch.testing.assert_close(product, differences, rtol=1e-5, atol=1e-6 * float(product.abs().max()))


@BOTH
def test_an_accepted_step_is_better_and_within_the_limit(noise: dict) -> None:  # type: ignore[type-arg]
    trainer = trained(noise)
    measure = trainer.surface()
    trainer.surface = lambda: measure  # type: ignore[method-assign]
    start, before = learned(trainer), float(measure()[0].detach())
    trainer.outer_update()
    after, moved = (float(value.detach()) for value in measure())
    assert after < before
    assert 0 < moved < 0.01
    assert not torch.equal(learned(trainer), start)


def test_with_no_inner_rate_the_direction_is_the_natural_gradient() -> None:
    """Against the Fisher matrix written out: mean of grad log pi grad log pi^T, expected over the policy's actions."""
    alone = {"maml": {"inner_lr": 0.0}, "model": {"hidden": [1]}, "outer": {"damping": 0.0}}
    trainer = trained(alone)
    parameters, measure = list(trainer.update.learned.values()), trainer.surface()
    tasks = trainer.tasks_of_step()
    size = len(learned(trainer))
    fisher = torch.zeros(size, size, dtype=torch.float64)
    for number in range(tasks.size):
        query = tasks.task(number).query
        adapted = trainer.learner.adapt(tasks.task(number).support, trainer.context)
        for x, y in zip(query.x, query.y, strict=True):
            mean, deviation = trainer.learner.predict(adapted, x[None])[0].chunk(2)
            rows = [
                flat(torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True))
                for one in (*mean, *deviation)
            ]
            jacobian = torch.stack(rows)
            # Of a Gaussian: 1/sigma^2 for each mean, 2 for each log-deviation.
            metric = torch.cat([(-2 * deviation).exp(), torch.full_like(deviation, 2.0)]).detach()
            fisher += y[-2] / tasks.size * jacobian.T @ (metric[:, None] * jacobian)
    rise = flat(torch.autograd.grad(measure()[1], parameters, create_graph=True, materialize_grads=True))
    for column in range(size):
        found = torch.autograd.grad(rise[column], parameters, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(flat(found), fisher[column], rtol=1e-8, atol=1e-10)
    slope = flat(torch.autograd.grad(measure()[0], parameters, materialize_grads=True))
    direction = conjugate_gradients(lambda v: fisher @ v, slope, 10)
    start = learned(trainer)
    trainer.outer_update()
    step = start - learned(trainer)
    assert float(torch.nn.functional.cosine_similarity(step, direction, dim=0)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_outer_steps_follow_the_surrogate(optimizer: str) -> None:
    trainer = trained()
    config = trainer.config.as_dict() | {"outer": {"optimizer": optimizer, "tasks_per_step": 2}}
    other = Trainer(parse_trial(config))
    other.learner.double()
    loss, _ = trainer.surface()()
    expected = torch.autograd.grad(loss, list(trainer.update.learned.values()))
    other.outer_gradient()
    for parameter, gradient in zip(other.update.learned.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_it_is_refused_where_there_is_no_policy() -> None:
    config = merge(small_trial(GLYPHS).as_dict(), {"outer": None})
    config["outer"] = {"optimizer": "trpo"}
    with pytest.raises(UserError, match=r"^outer.optimizer: found 'trpo', but glyphs has no policy"):
        Trainer(parse_trial(config))
    with pytest.raises(UserError, match=r"^config: unknown key 'outer.lr'"):
        parse_trial({"method": "maml", "outer": {"optimizer": "trpo", "lr": 0.1}})
    with pytest.raises(UserError, match=r"outer.optimizer: found 'trop': not a value of this key, did you mean 'trpo'"):
        parse_trial({"method": "maml", "outer": {"optimizer": "trop"}})


def test_what_has_no_meaning_for_a_policy_is_refused() -> None:
    for own, sentence in [
        (
            {"method": "boil"},
            "boil has no meaning for policies, which navigation2d is of; allowed: alfa, anil, cavia, maml, metasgd",
        ),
        ({"regularizers": {"mr": {}}}, "mr has no meaning for policies, which navigation2d is of; allowed: dropgrad"),
        ({"method": "protonet"}, "protonet needs labels, and navigation2d has none"),
    ]:
        data = merge({**trained().config.as_dict(), "maml": {}}, own)
        data = {key: value for key, value in data.items() if key != "maml" or data["method"] == "maml"}
        config = parse_trial(data)
        with pytest.raises(UserError) as caught:
            build_learner(config, open_problem(config.task))
        assert str(caught.value) == sentence
