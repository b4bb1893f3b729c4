"""Whose kernels blocks run on: torch's, or raymeta's own (`engine.kernels`)."""

import threading
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from raymeta import registry
from raymeta.errors import UserError
from raymeta.models.conv4 import Block
from raymeta.ops.library import builds_with, unusable

if TYPE_CHECKING:
    from raymeta.config import TrialConfig


def kernels_of(config: "TrialConfig") -> Literal["torch", "native"]:
    """What a trial's blocks run on, on this machine. On a GPU and for networks without kernels it is torch.

    Raises:
        UserError: the config says `native`, and this machine can't have the kernels.
    """
    if not _wanted(config):
        return "torch"
    if not (why := unusable()):
        return "native"
    if config.engine.kernels == "native":
        raise UserError(f"engine.kernels: found 'native', but this machine can't have them: {why}")
    return "torch"


def begin_building(config: "TrialConfig") -> str:
    """Build a trial's kernels beside what else is done until `kernels_of` needs them, if they are not there yet.

    Returns:
        A sentence on it; "": there is nothing to build.
    """
    if not _wanted(config) or not (compiler := builds_with()):
        return ""
    threading.Thread(target=unusable, name="kernels", daemon=True).start()
    return f"building raymeta's kernels for this machine with {compiler}, once, in some seconds"


def slower(config: "TrialConfig") -> str:
    """Why a trial runs on torch's kernels where it could run on faster ones, a sentence; "": it can't."""
    own = config.engine.model_copy(update={"kernels": "native"})
    try:
        kernels_of(config.model_copy(update={"engine": own}))
    except UserError:
        return unusable()
    return ""


def settled(config: "TrialConfig") -> "TrialConfig":
    """A config that says which kernels `auto` is on this machine, so that all that is made of it computes alike.

    Raises:
        UserError: as for `kernels_of`.
    """
    engine = config.engine.model_copy(update={"kernels": kernels_of(config)})
    return config.model_copy(update={"engine": engine})


def _wanted(config: "TrialConfig") -> bool:
    """Whether a trial would use native kernels if it can have them."""
    cpu = config.engine.device == "cpu" or not torch.cuda.is_available()
    wanted = cpu and config.engine.kernels != "torch" and config.engine.precision == "float32"
    return wanted and registry.find("backbone", config.model.name).has_kernels


def use_kernels(learner: nn.Module, config: "TrialConfig") -> None:
    """Let a learner's blocks run on what `kernels_of` says."""
    if kernels_of(config) == "native":
        for module in learner.modules():
            if isinstance(module, Block):
                module.use_native(config.engine.tiles)
