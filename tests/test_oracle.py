"""The learners against their authors' own code: losses and outer gradients that it gave on tiny tasks, in float64.

The numbers are a folder beside the checkout, `shared/oracle`, whose README says what is in a case's file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from kernels import need_kernels
from reference import Random
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial
from raymeta.inner import Context
from raymeta.learner import build_learner, task_loss
from raymeta.problem import Examples, Tasks
from raymeta.schema import merge

ORACLE = Path(__file__).parents[1].parent / "shared" / "oracle"
CASES = sorted(path.stem for path in ORACLE.glob("*.npz"))
TOLERANCE = 1e-8  # what matches is below 1e-9
FLOOR = 1e-6  # of a case's largest gradient: a bias before a batch norm has one of rounding alone

pytestmark = pytest.mark.skipif(not ORACLE.is_dir(), reason="there is no shared/oracle beside the checkout")


class Given:
    """A stand-in for `Noise`: a task's draws, of whatever kind, in the order in which it asks for them."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.left = draws

    def normal(self, like: Tensor) -> Tensor:
        draw = self.left.pop(0)
        assert draw.shape == like.shape
        return draw

    uniform = normal


class Outcome(NamedTuple):
    """Of an outer step: the mean loss of its tasks, and the gradient by parameter name."""

    loss: float
    gradient: dict[str, Tensor]


def config_of(case: Mapping[str, np.ndarray], kernels: str) -> TrialConfig:
    """The config of a case, with what it left unsaid when there were no keys for it."""
    sections, settings = json.loads(str(case["config"])), json.loads(str(case["about"]))["settings"]
    del sections["task"]  # what a problem's section said when the file was written; the tasks themselves are in it
    method = sections["method"]
    unsaid: dict[str, Any] = {}
    if method in ("protonet", "matchingnet", "relationnet"):
        unsaid["passes"] = "joint" if "one pass" in settings.lower() else "separate"
    if method == "relationnet" and "all padded" in settings:
        unsaid["padding"] = "full"
    regularizers = (
        {"mgaug": {"cap": 0.99}} if method == "protonet" and "mgaug" in sections.get("regularizers", {}) else {}
    )
    engine = {"kernels": kernels, "device": "cpu"}
    return parse_trial(merge({method: unsaid, "regularizers": regularizers}, {**sections, "engine": engine}))


def outcome(case: Mapping[str, np.ndarray], kernels: str) -> Outcome:
    """What raymeta makes of a case. All that this file knows of raymeta is here, and in `config_of`."""
    config = config_of(case, kernels)
    kind, ways = "values" if case["query_y"].dtype.kind == "f" else "labels", int(case["query_y"].max()) + 1
    method = build_learner(config, Random(case["support_x"].shape[2:], kind, ways)).double()
    parameters = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    given = named(case, "parameter:")
    assert parameters.keys() == given.keys(), "other parameters are learned"
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == given[name].shape
            parameter.copy_(given[name])
    step, losses = Context(True, float(case["progress"])), []
    hooks = method.hooks(tasks(case), step, torch.Generator())
    for number in range(tasks(case).size):
        noise = Given(list(named(case, f"noise:{number}:").values()))
        context = step.of_task(number, noise, hooks)  # type: ignore[arg-type]
        losses.append(task_loss(method, tasks(case).task(number), context))
        # MGAug's second draw, of sizes, has no use here: without resizing there is one size.
        assert len(noise.left) == ("mgaug" in config.spec), "not all draws were asked for"
    together = torch.stack(losses)
    torch.autograd.backward(together.sum() if config.outer.reduction == "sum" else together.mean())
    learned = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    return Outcome(float(together.detach().mean()), learned)


def tasks(case: Mapping[str, np.ndarray]) -> Tasks:
    parts = [Examples(*(torch.from_numpy(case[f"{part}_{side}"]) for side in "xy")) for part in ("support", "query")]
    return Tasks(*parts)


def named(case: Mapping[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """The case's tensors under a prefix, in the order of their names."""
    keys = sorted(key for key in case if key.startswith(prefix))
    return {key.removeprefix(prefix): torch.from_numpy(case[key]) for key in keys}


def errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each tensor |found - expected| / max(|expected|, FLOOR of the largest |expected|)."""
    floor = FLOOR * max(float(tensor.norm()) for tensor in expected.values())
    return {
        name: float((found[name] - tensor).norm()) / max(float(tensor.norm()), floor)
        for name, tensor in expected.items()
    }


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_outer_gradient_are_those_of_the_authors_code(name: str, kernels: str) -> None:
    with np.load(ORACLE / f"{name}.npz") as file:
        case = dict(file)
    if kernels == "native":
        need_kernels()
    found, expected = outcome(case, kernels), named(case, "gradient:")
    assert found.gradient.keys() == expected.keys(), "other parameters have a gradient"
    apart = {"loss": abs(found.loss / float(case["loss"]) - 1), **errors(found.gradient, expected)}
    assert {key: error for key, error in apart.items() if not error < TOLERANCE} == {}


def test_no_file_is_left_out() -> None:
    assert {path.name for path in ORACLE.iterdir()} == {"README.md", *(f"{name}.npz" for name in CASES)}
    readme = (ORACLE / "README.md").read_text(encoding="utf-8")
    assert [name for name in CASES if f"\n| {name} |" not in readme] == []
