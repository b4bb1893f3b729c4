"""What tests of MGAug share: small learners with sub-networks, and images made smaller by matrices."""

from typing import Any, cast

import pytest
import torch
from reference import Random, learner, noise_of
from torch import Tensor
from unrolled import (
    ALPHA,
    hooks_of,
)

from raymeta.inner import Context
from raymeta.learner import Learner, task_loss
from raymeta.problem import Task
from trainables.regularizers.mgaug import MGAug

STEPS, WIDTH, SIDE, NETWORKS, KEEP, WEIGHT = 2, 5, 32, 3, 0.45, 0.7
SIZES = (1.0, 0.75, 1.5)  # maps of 2x2, 1x1 and 3x3 places
IMAGES = Random((1, SIDE, SIDE))
# Every task by itself, without the bounds of the authors' code; what that code does is tested by itself.
ALONE = {"cap": 1.0, "scores": "adapted", "head": "averaged", "count": "exact"}
KINDS = pytest.mark.parametrize("kind", ["first", "second", "protonet"])  # MAML's order, or ProtoNet
PRUNINGS = pytest.mark.parametrize("pruning", ["catfish", "parameter", "width"])
NETS: dict[str, dict[str, Any]] = {
    "conv4": {"name": "conv4", "width": WIDTH},
    "per_step": {"name": "conv4", "width": WIDTH, "norm": "per_step"},
    "resnet10": {"name": "resnet10", "channels": [4, 4, 5, 5]},
    "resnet12a": {"name": "resnet12", "channels": [3, 4, 5, 5]},
    "resnet12b": {"name": "resnet12", "channels": [3, 4, 5, 5], "variant": "b"},
}


def sections(kind: str = "second", net: str = "conv4", **mgaug: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"method": "protonet", "protonet": {"passes": "separate"}}
    if kind != "protonet":
        own = {"method": "maml", "maml": {"inner_lr": ALPHA, "inner_steps": STEPS, "order": kind}}
    settings = {"networks": NETWORKS, "keep": KEEP, "weight": WEIGHT, "sizes": SIZES, **ALONE, **mgaug}
    return {"model": NETS[net], "regularizers": {"mgaug": settings}, **own}


def make(kind: str = "second", net: str = "conv4", **mgaug: Any) -> Learner:
    return learner(IMAGES, **sections(kind, net, **mgaug))


def mgaug(made: Learner) -> MGAug:
    return cast(MGAug, made.regularizers[0])


def context(made: Learner, seed: int = 0) -> Context:
    """That of the one task of an outer step."""
    return Context(True, noise=noise_of(seed), hooks=hooks_of(made, seed=seed))


def loss_of(made: Learner, task: Task, seed: int = 0) -> Tensor:
    return task_loss(made, task, context(made, seed))


# The slow side


def bins(size: int, places: int) -> Tensor:
    """[places, size]: means of `size` numbers over windows that cover them evenly."""
    windows = torch.zeros(places, size, dtype=torch.float64)
    for i in range(places):
        first, end = i * size // places, -(-(i + 1) * size // places)
        windows[i, first:end] = 1 / (end - first)
    return windows


def shrunk(x: Tensor, share: float) -> Tensor:
    """Bilinear, corners on corners: by matrices of hat functions."""
    at = torch.linspace(0, SIDE - 1, round(share * SIDE), dtype=torch.float64)
    hats = (1 - (at[:, None] - torch.arange(SIDE)).abs()).clamp(min=0)
    return hats @ x @ hats.T


COUNTING = {count: mgaug(make(count=count)) for count in ("exact", "authors")}
SNIP = mgaug(make(pruning="snip"))
