"""The modes of batch norm, one layer at a time; what they do to a whole learner is in trainables/test_maml.py."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raymeta.models.norm import BatchNorm, NormConfig, NormMode
from raymeta.models.passes import Pass

CHANNELS, STEPS, EPS = 3, 4, 1e-3


def layer(mode: NormMode) -> BatchNorm:
    norm = BatchNorm(CHANNELS, NormConfig(norm=mode, norm_eps=EPS), STEPS).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(1 + torch.rand(norm.weight.shape, generator=generator))
        norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator))
    return norm


def images(seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(count, CHANNELS, 5, 4, generator=generator, dtype=torch.float64)


def run(norm: BatchNorm, x: Tensor, **about: Any) -> Tensor:
    return norm(x, norm.weight, norm.bias, Pass(**about), "layer")


@pytest.mark.parametrize("mode", get_args(NormMode))
@pytest.mark.parametrize("training", [True, False])
def test_the_statistics_are_the_passes_own(mode: NormMode, training: bool) -> None:
    """All modes but `running` in evaluation, and a `support` pass without statistics given."""
    norm, x = layer(mode), images(1)
    weight, bias = (norm.weight[2], norm.bias[2]) if mode == "per_step" else (norm.weight, norm.bias)
    expected = F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
    found = run(norm, x, training=training, step=2)
    if mode == "running" and not training:
        expected = F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), weight, bias, eps=EPS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_query_pass_takes_the_supports_statistics() -> None:
    norm, support, query = layer("support"), images(1), images(2)
    first = Pass()
    norm(support, norm.weight, norm.bias, first, "layer")
    mean, variance = support.mean((0, 2, 3)), support.var((0, 2, 3), correction=0)
    expected = F.batch_norm(query, mean, variance, norm.weight, norm.bias, eps=EPS)
    found = run(norm, query, moments=first.recorded)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(norm, query[:1], moments=first.recorded), expected[:1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, run(norm, query))


def test_the_statistics_of_a_support_are_kept_by_layer_and_pass() -> None:
    norm, first, second = layer("support"), Pass(), Pass()
    norm(images(1), norm.weight, norm.bias, first, "a")
    norm(images(2), norm.weight, norm.bias, first, "b")
    assert set(first.recorded) == {"a", "b"}
    assert second.recorded == {}


def test_gradients_flow_through_the_supports_statistics() -> None:
    norm, support = layer("support"), images(1).requires_grad_()

    def query_output(support: Tensor) -> Tensor:
        first = Pass()
        norm(support, norm.weight, norm.bias, first, "layer")
        return run(norm, images(2), moments=first.recorded).pow(3)

    assert torch.autograd.gradcheck(query_output, (support,))
    (found,) = torch.autograd.grad(query_output(support).sum(), support)
    assert float(found.abs().min()) > 0


def test_running_averages_move_in_training_only() -> None:
    norm, x = layer("running"), images(1)
    run(norm, x, training=True)
    mean, variance = 0.1 * x.mean((0, 2, 3)), 0.9 + 0.1 * x.var((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    found = run(norm, images(2), training=False)
    torch.testing.assert_close(norm.running_mean, mean)
    expected = F.batch_norm(images(2), mean, variance, norm.weight, norm.bias, eps=EPS)
    torch.testing.assert_close(found, expected)


def test_only_running_keeps_averages() -> None:
    for mode in get_args(NormMode):
        assert bool(list(layer(mode).buffers())) is (mode == "running")


def test_a_step_uses_its_own_row() -> None:
    norm, x = layer("per_step"), images(1)
    for step in range(STEPS):
        found = torch.autograd.grad(run(norm, x, step=step).pow(2).sum(), [norm.weight, norm.bias])
        for gradient in found:
            assert [bool(row.any()) for row in gradient] == [row == step for row in range(STEPS)]


def test_weights_of_a_pass_may_be_others_than_the_layers_own() -> None:
    norm, x = layer("batch"), images(1)
    found = norm(x, 2 * norm.weight, 2 * norm.bias, Pass(), "layer")
    torch.testing.assert_close(found, 2 * run(norm, x))


@pytest.mark.parametrize("momentum", [0.3, 1.0])
def test_running_averages_move_by_their_momentum(momentum: float) -> None:
    norm, x = BatchNorm(CHANNELS, NormConfig(norm="running", norm_momentum=momentum), STEPS).double(), images(1)
    run(norm, x)
    torch.testing.assert_close(norm.running_mean, momentum * x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 1 - momentum + momentum * x.var((0, 2, 3)))


@pytest.mark.parametrize("mode", get_args(NormMode))
def test_without_a_scale_it_is_one(mode: NormMode) -> None:
    with_scale = BatchNorm(CHANNELS, NormConfig(norm=mode), STEPS).double()
    without = BatchNorm(CHANNELS, NormConfig(norm=mode, norm_scale=False), STEPS).double()
    assert [name for name, _ in without.named_parameters()] == ["bias"]
    torch.testing.assert_close(run(without, images(1), step=1), run(with_scale, images(1), step=1))


def test_scales_may_start_uniform() -> None:
    norm = BatchNorm(1000, NormConfig(init={"bn_gamma": "uniform"}), STEPS)  # type: ignore[arg-type]
    assert norm.weight is not None
    assert 0 <= float(norm.weight.detach().min()) < 0.01 < 0.99 < float(norm.weight.detach().max()) <= 1
