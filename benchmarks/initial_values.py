"""Every network's initial values over many seeds, beside what its source's formula says: docs/initial_values.md.

    uv run python benchmarks/initial_values.py > docs/initial_values.md     # 100 seeds, half a minute

A row is a tensor of a learner as it is by default; what it is to be stands in `SOURCES`, by hand from the sources' code
and knowing nothing of raymeta's laws. `off` is how far the measured mean and standard deviation are from the formula's,
in standard errors of as many draws: beyond 5 it is wrong.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from math import sqrt
from typing import Any, NamedTuple

from raymeta.config import parse_trial
from raymeta.learner import build_learner
from raymeta.problem import open_problem

SEEDS = 100
LIMIT = 5.0  # standard errors; some 400 figures are looked at

# (fan_in, fan_out) to the standard deviation, and the kurtosis of the distribution.
Formula = tuple[Callable[[int, int], float], float]
UNIFORM, NORMAL = 1.8, 3.0
CUT = 0.87962566  # the deviation that a normal cut at two deviations has left
FORMULAS: dict[str, Formula] = {
    "U(±1/√in)": (lambda i, o: 1 / sqrt(3 * i), UNIFORM),
    "U(±√(6/(in+out)))": (lambda i, o: sqrt(2 / (i + o)), UNIFORM),
    "U(±√(6/in))": (lambda i, o: sqrt(2 / i), UNIFORM),
    "U(±√(3/in))": (lambda i, o: 1 / sqrt(i), UNIFORM),
    "N(0, 2/out)": (lambda i, o: sqrt(2 / o), NORMAL),
    "N(0, 0.1²), cut at 2": (lambda i, o: 0.1 * CUT, 2.37),
    "N(0, 0.01²)": (lambda i, o: 0.01, NORMAL),
    "U(±1/√1600)": (lambda i, o: 1 / sqrt(3 * 1600), UNIFORM),  # of an LSTM: its hidden units
}
TORCH, XAVIER, HE_OUT = "U(±1/√in)", "U(±√(6/(in+out)))", "N(0, 2/out)"
NORM = {r"norm\.weight": "1", r"norm\.bias": "0"}
MAMLPP = {r"model\.(block\d|head)\.weight": XAVIER, r"model\.(block\d|head)\.bias": "0"} | NORM
TORCHS = {r"model\.(block\d|head)\.(weight|bias)": TORCH} | NORM
CLOSER = {r"(conv\d|stem|shortcut)\.weight": HE_OUT, r"head\.weight": TORCH, r"head\.bias": "0"} | NORM
MINI, CURVE = {"problem": "images", "dataset": "miniimagenet"}, {"problem": "sinusoid"}

# Method, model, task, whose code says so, tensors (by the first pattern that is found) to formula or constant.
SOURCES: list[tuple[str, dict[str, Any], dict[str, Any], str, dict[str, str]]] = [
    ("maml", {}, MINI, "Finn's, MAML++'s", MAMLPP),
    ("mamlpp", {}, MINI, "MAML++'s", {"rates": "-"} | MAMLPP),
    ("metasgd", {}, MINI, "as MAML's", {"rates": "-"} | MAMLPP),
    ("anil", {}, MINI, "as MAML's", MAMLPP),
    ("boil", {}, MINI, "BOIL's", TORCHS),
    ("l2f", {}, MINI, "L2F's", {r"attenuator": TORCH} | MAMLPP),
    ("alfa", {}, MINI, "ALFA's", {r"generator": TORCH, r"rule\.(rates|decays)": "-"} | MAMLPP),
    ("cxgrad", {}, MINI, "CxGrad's", {r"generator": TORCH} | MAMLPP),
    ("modgrad", {}, MINI, "ModGrad's", {r"modulation": TORCH} | TORCHS),
    (
        "cavia", {}, MINI, "CAVIA's",
        {
            r"film\.weight": "U(±√(3/in))", r"film\.bias": TORCH, r"block\d\.weight": "U(±√(6/in))",
            r"head\.weight": "U(±√(3/in))", r"(block\d|head)\.bias": "0",
        } | NORM,
    ),
    ("protonet", {}, MINI, "Snell's", TORCHS),
    ("matchingnet", {}, MINI, "CloserLookFewShot's", {
        r"context": "U(±1/√1600)", r"block\d\.weight": HE_OUT, r"block\d\.bias": TORCH} | NORM),
    (
        "relationnet", {}, MINI, "CloserLookFewShot's",
        {
            r"(block|relation)\d\.weight": HE_OUT, r"(block|relation)\d\.bias": TORCH,
            r"(hidden|score)\.(weight|bias)": TORCH,
        } | NORM,
    ),
    (
        "protomaml", {}, MINI, "Meta-Dataset's",
        {r"block\d\.weight": "N(0, 0.1²), cut at 2", r"head": "-"} | NORM,
    ),
    ("maml", {"name": "resnet10"}, MINI, "CloserLookFewShot's", CLOSER),
    ("maml", {"name": "resnet18"}, MINI, "CloserLookFewShot's", CLOSER),
    ("maml", {"name": "resnet12", "variant": "b"}, MINI, "BOIL's", {r"head\.(weight|bias)": TORCH} | CLOSER),
    ("cavia", {"name": "mlp"}, CURVE, "CAVIA's", {r"(layer\d|head)\.(weight|bias)": TORCH}),
]  # fmt: skip


class Row(NamedTuple):
    """A tensor's initial values: formula, and mean and standard deviation as said and as found."""

    network: str
    source: str
    tensor: str
    shape: tuple[int, ...]
    formula: str
    expected: tuple[float, float]
    found: tuple[float, float]
    off: float


def rows(
    method: str, model: dict[str, Any], task: dict[str, Any], source: str, laws: dict[str, str], seeds: int = SEEDS
) -> Iterator[Row]:
    """The tensors of one learner.

    Raises:
        KeyError: a tensor that no pattern names.
    """
    sums: dict[str, tuple[float, float]] = {}
    for seed in range(seeds):
        config = parse_trial({"method": method, "model": model, "task": task, "seed": seed})
        named = dict(build_learner(config, open_problem(config.task)).named_parameters())
        for name, tensor in named.items():
            wide = tensor.detach().double()
            one, two = sums.get(name, (0.0, 0.0))
            sums[name] = one + float(wide.sum()), two + float(wide.square().sum())
    for name, tensor in named.items():
        law = next((law for pattern, law in laws.items() if re.search(pattern, name)), None)
        if law is None:
            raise KeyError(f"{method}: nothing is said of {name}")
        if law == "-":  # a constant of the method's own settings
            continue
        count = seeds * tensor.numel()
        mean = sums[name][0] / count
        deviation = sqrt(max(sums[name][1] / count - mean**2, 0.0))
        if re.fullmatch(r"[\d.]+", law):
            expected, off = (float(law), 0.0), 0.0 if (abs(mean - float(law)) < 1e-6 and deviation < 1e-3) else 1e9
        else:
            weight = named[name.removesuffix("bias") + "weight"] if name.endswith("bias") else tensor
            inside = weight.shape[1:].numel()
            formula, kurtosis = FORMULAS[law]
            expected = (0.0, formula(inside, weight.shape[0] * weight.shape[2:].numel()))
            errors = expected[1] / sqrt(count), expected[1] * sqrt((kurtosis - 1) / (4 * count))
            off = max(abs(mean) / errors[0], abs(deviation - expected[1]) / errors[1])
        shown = f"{method}, {model.get('name', 'conv4')}"
        yield Row(shown, source, name, tuple(tensor.shape), law, expected, (mean, deviation), off)


def table(seeds: int) -> Iterator[str]:
    """The page's lines."""
    yield "# Initial values\n"
    yield f"What each network starts from, over {seeds} seeds, beside the formula of the code that it is to equal"
    yield "(`benchmarks/initial_values.py`). `in` and `out` are a unit's inputs and outputs, of convolutions times k²,"
    yield "of a bias those of its kernel. `off`: the larger distance of mean and deviation from the formula's, in"
    yield "standard errors; empty: exact.\n"
    yield "| network | code | tensor | shape | formula | mean, deviation | found | off |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for entry in SOURCES:
        for row in rows(*entry, seeds):
            said, found = (f"{mean:.4g}, {deviation:.4g}" for mean, deviation in (row.expected, row.found))
            cells = [row.network, row.source, row.tensor, "x".join(map(str, row.shape)), row.formula, said, found]
            yield "| " + " | ".join([*cells, f"{row.off:.1f}" if row.off else ""]) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    for line in table(parser.parse_args().seeds):
        print(line)
