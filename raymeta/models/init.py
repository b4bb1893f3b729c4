"""Initial values: what the authors' code bases draw their tensors from, as keys say it.

A section `init` has a law for each kind of tensor. Of a kernel or matrix fan_in and fan_out are the inputs and outputs
of a unit (of convolutions times k*k), of a bias those of its kernel:

| law | values |
| --- | --- |
| torch | U(+-1/sqrt(fan_in)), PyTorch's default |
| torch(fan_out) | U(+-1/sqrt(fan_out)) (the MAML of CAVIA's regressions) |
| xavier, xavier(g) | U(+-g sqrt(6/(fan_in + fan_out))), g = 1 |
| kaiming_uniform, kaiming_uniform(g) | U(+-g sqrt(3/fan_in)), g = relu |
| fan_out | N(0, 2/fan_out): He et al.'s, of the outputs |
| truncated_normal(sd) | N(0, sd^2), drawn again outside two deviations, as TensorFlow does: what is left has .88 sd |
| normal(sd) | N(0, sd^2) |
| orthonormal | rows of a normal matrix made orthonormal by Gram-Schmidt (BOIL's option for heads) |
| zeros, constant(c) | |

A gain g is a number or a nonlinearity's: relu is sqrt(2), linear 1. Biases have torch, normal, truncated_normal, zeros
and constant. Glorot, Bengio (AISTATS 2010); He et al. (ICCV 2015).
"""

import re
from collections.abc import Callable
from math import sqrt
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from raymeta.errors import UserError, suggest
from raymeta.schema import Section

GAINS = {"linear": 1.0, "relu": sqrt(2)}
TAKES = {  # law: what stands in its parentheses, and whether something must
    "torch": ("fan_in or fan_out", False),
    "xavier": ("a gain", False),
    "kaiming_uniform": ("a gain", False),
    "fan_out": (None, False),
    "truncated_normal": ("a standard deviation", True),
    "normal": ("a standard deviation", True),
    "orthonormal": (None, False),
    "zeros": (None, False),
    "constant": ("a number", True),
}
OF_BIASES = ("torch", "truncated_normal", "normal", "zeros", "constant")
LARGEST = torch.finfo(torch.float32).max
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"


class Law(NamedTuple):
    """A law, taken apart; see the module's docstring."""

    name: str
    argument: float | str | None


def law(text: str) -> Law:
    """`truncated_normal(0.02)`, taken apart.

    Raises:
        ValueError: one sentence: there is no such law, or it does not take what stands in its parentheses.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    name, inside = found.groups() if found else (text, None)
    if name not in TAKES:
        raise ValueError(f"found '{text}': not a law of initial values, {suggest(name, TAKES)}")
    takes, must = TAKES[name]
    word = None if inside is None else inside.strip()
    value = float(word) if word is not None and re.fullmatch(NUMBER, word, re.IGNORECASE) else None
    if word is None:
        if must:
            raise ValueError(f"found '{text}': {name} needs {takes} in parentheses, as in {name}(0.01)")
        return Law(name, None)
    if takes is None:
        raise ValueError(f"found '{text}': {name} takes nothing in parentheses; allowed: {name}")
    if takes == "a gain" and word in GAINS:
        return Law(name, GAINS[word])
    if takes == "fan_in or fan_out":
        if word not in ("fan_in", "fan_out"):
            raise ValueError(f"found '{text}': {name} takes {takes}: {suggest(word, ['fan_in', 'fan_out'])}")
        return Law(name, word)
    if value is None or (value <= 0 and takes != "a number"):
        above = "" if takes == "a number" else " above 0"
        names = f", or the name of one: {suggest(word, GAINS)}" if takes == "a gain" else ""
        raise ValueError(f"found '{text}': {name} takes {takes}{above}{names}")
    if abs(value) > LARGEST:
        raise ValueError(f"found '{text}': {name} takes numbers up to {LARGEST:.1e}, the largest of float32")
    return Law(name, value)


def _of_weights(text: str) -> str:
    law(text)
    return text


def _of_biases(text: str) -> str:
    if (name := law(text).name) not in OF_BIASES:
        raise ValueError(f"found '{text}': a bias has no {name}; allowed: {', '.join(sorted(OF_BIASES))}")
    return text


WeightLaw = Annotated[str, AfterValidator(_of_weights)]
BiasLaw = Annotated[str, AfterValidator(_of_biases)]


# What PyTorch draws unasked: BOIL's and ModGrad's Conv-4, Snell's ProtoNet, MetaMix.
TORCH = {"conv": "torch", "conv_bias": "torch", "head": "torch", "head_bias": "torch"}


class HeadInit(Section):
    """What every backbone with a head has; values of MAML++'s code."""

    head: WeightLaw = "xavier"
    head_bias: BiasLaw = "zeros"


def fill(tensor: Tensor, text: str, kernel: Tensor | None = None) -> Tensor:
    """Draw a tensor's values, in place.

    Args:
        tensor: a kernel [outputs, inputs, k, k], a matrix [outputs, inputs], or a bias.
        text: a law.
        kernel: of a bias, what it stands beside; None: the tensor has fans of its own.

    Raises:
        UserError: there are too few columns for orthonormal rows.
    """
    name, argument = law(text)
    shape = (tensor if kernel is None else kernel).shape
    fan_in, fan_out = shape[1:].numel(), shape[0] * shape[2:].numel()

    def uniform(bound: float) -> Tensor:
        return nn.init.uniform_(tensor, -bound, bound)

    def orthonormal() -> Tensor:
        if len(tensor) > fan_in:
            raise UserError(f"model.init: found orthonormal, but {len(tensor)} rows of {fan_in} numbers can't be")
        return nn.init.orthogonal_(tensor)

    number = argument if isinstance(argument, float) else 1.0
    gain = sqrt(2) if argument is None else number
    draw: dict[str, Callable[[], Tensor]] = {
        "torch": lambda: uniform(1 / sqrt(fan_out if argument == "fan_out" else fan_in)),
        "xavier": lambda: nn.init.xavier_uniform_(tensor, number),
        "kaiming_uniform": lambda: uniform(gain * sqrt(3 / fan_in)),
        "fan_out": lambda: nn.init.normal_(tensor, std=sqrt(2 / fan_out)),
        "truncated_normal": lambda: nn.init.trunc_normal_(tensor, std=number, a=-2 * number, b=2 * number),
        "normal": lambda: nn.init.normal_(tensor, std=number),
        "orthonormal": orthonormal,
        "zeros": lambda: nn.init.zeros_(tensor),
        "constant": lambda: nn.init.constant_(tensor, number),
    }
    with torch.no_grad():
        return draw[name]()


def linear(inputs: int, outputs: int, weight: str, bias: str) -> nn.Linear:
    """A linear layer; torch draws one as the law `torch` does."""
    layer = nn.Linear(inputs, outputs)
    if weight != "torch":
        fill(layer.weight, weight)
    if bias != "torch":
        fill(layer.bias, bias, layer.weight)
    return layer
