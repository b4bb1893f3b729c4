"""Laws of initial values against their formulas, over many draws; and what is refused."""

from math import sqrt
from typing import Any

import pytest
import torch

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.models.init import fill, law

KERNEL = (8, 4, 3, 3)  # fan_in 36, fan_out 72
UNIFORM = {
    "torch": 1 / 6,
    "torch(fan_out)": 1 / sqrt(72),
    "xavier": sqrt(6 / 108),
    "xavier(0.5)": 0.5 * sqrt(6 / 108),
    "xavier(relu)": sqrt(2) * sqrt(6 / 108),
    "kaiming_uniform": sqrt(6 / 36),
    "kaiming_uniform(linear)": sqrt(3 / 36),
}
NORMAL = {"fan_out": sqrt(2 / 72), "normal(0.02)": 0.02, "truncated_normal(0.02)": 0.02 * 0.8796}


def drawn(text: str, *shape: int, kernel: torch.Tensor | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.stack([fill(torch.empty(shape), text, kernel) for _ in range(200)])


@pytest.mark.parametrize("text", UNIFORM)
def test_uniform_laws(text: str) -> None:
    values, bound = drawn(text, *KERNEL), UNIFORM[text]
    assert 0.999 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)
    assert float(values.std()) == pytest.approx(bound / sqrt(3), rel=0.01)
    assert abs(float(values.mean())) < 0.01 * bound


@pytest.mark.parametrize("text", NORMAL)
def test_normal_laws(text: str) -> None:
    values, deviation = drawn(text, *KERNEL), NORMAL[text]
    assert float(values.std()) == pytest.approx(deviation, rel=0.01)
    assert abs(float(values.mean())) < 0.02 * deviation
    assert (float(values.abs().max()) <= 0.04) == (text == "truncated_normal(0.02)")


def test_torchs_law_is_that_of_torchs_layers() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(4, 8, 3) for _ in range(200)]
    for of, ours in (
        ("weight", drawn("torch", *KERNEL)),
        ("bias", drawn("torch", 8, kernel=torch.empty(KERNEL))),
    ):
        theirs = torch.stack([getattr(layer, of).detach() for layer in layers])
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)


def test_rows_are_orthonormal_where_they_can_be() -> None:
    rows = drawn("orthonormal", 5, 40)[0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(5))
    with pytest.raises(UserError, match="5 rows of 4 numbers"):
        fill(torch.empty(5, 4), "orthonormal")


def test_constants() -> None:
    assert bool((drawn("constant(-1.5e-1)", 3) == -0.15).all())
    assert not drawn("zeros", *KERNEL).any()


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("conv", "xavir", "found 'xavir': not a law of initial values, did you mean 'xavier'? (allowed: constant, "
            "fan_out, kaiming_uniform, normal, orthonormal, torch, truncated_normal, xavier, zeros)"),
        ("conv", "normal", "found 'normal': normal needs a standard deviation in parentheses, as in normal(0.01)"),
        ("head", "normal(-1)", "found 'normal(-1)': normal takes a standard deviation above 0"),
        ("head", "constant(-1e999)", "found 'constant(-1e999)': constant takes numbers up to 3.4e+38, the largest of "
            "float32"),
        ("conv", "xavier(1e39)", "found 'xavier(1e39)': xavier takes numbers up to 3.4e+38, the largest of float32"),
        ("head", "zeros(1)", "found 'zeros(1)': zeros takes nothing in parentheses; allowed: zeros"),
        ("conv", "xavier(relo)", "found 'xavier(relo)': xavier takes a gain above 0, or the name of one: did you mean "
            "'relu'? (allowed: linear, relu)"),
        ("conv", "torch(fan)", "found 'torch(fan)': torch takes fan_in or fan_out: did you mean 'fan_in'? "
            "(allowed: fan_in, fan_out)"),
        ("conv_bias", "xavier", "found 'xavier': a bias has no xavier; allowed: constant, normal, torch, "
            "truncated_normal, zeros"),
    ],
)  # fmt: skip
def test_what_is_no_law_is_one_sentence(key: str, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_trial({"method": "maml", "model": {"init": {key: text}}}, "f.yaml")
    assert str(caught.value) == f"f.yaml: model.init.{key}: {sentence}"


def test_numbers_are_read_as_they_are_written() -> None:
    found = [law(f"constant({number})").argument for number in ("2", " .5 ", "1e-3", "-1.E2")]
    assert found == [2.0, 0.5, 1e-3, -100.0]


TORCH = {"conv": "torch", "conv_bias": "torch", "head": "torch", "head_bias": "torch"}
XAVIER: dict[str, Any] = {"conv": "xavier", "conv_bias": "zeros", "head": "xavier", "head_bias": "zeros"}


@pytest.mark.parametrize(
    ("method", "laws"),
    [
        *((name, XAVIER) for name in ("maml", "mamlpp", "alfa", "l2f", "cxgrad")),
        *((name, TORCH) for name in ("boil", "modgrad")),
        ("protonet", {"conv": "torch", "conv_bias": "torch"}),
        *((name, {"conv": "fan_out", "conv_bias": "torch"}) for name in ("matchingnet", "relationnet")),
        ("cavia", XAVIER | {"conv": "kaiming_uniform", "head": "kaiming_uniform(linear)"}),
        ("protomaml", {"conv": "truncated_normal(0.1)"}),
    ],
)
def test_the_default_of_a_learner_is_its_sources(method: str, laws: dict[str, str]) -> None:
    found = parse_trial({"method": method}).as_dict()["model"]["init"]
    assert laws.items() <= found.items()
    assert parse_trial({"method": method, "model": {"init": {"conv": "zeros"}}}).model.init.conv == "zeros"
