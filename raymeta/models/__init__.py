"""Backbones by name, as `model.name` gives them."""

from typing import Annotated

from pydantic import Field

from raymeta.models.backbone import Backbone, Weights
from raymeta.models.conv4 import Conv4, Conv4Config
from raymeta.models.mlp import MLP, MLPConfig

BACKBONES: dict[str, type[Backbone]] = {"conv4": Conv4, "mlp": MLP}
ModelConfig = Annotated[Conv4Config | MLPConfig, Field(discriminator="name")]

__all__ = ["BACKBONES", "MLP", "Backbone", "Conv4", "Conv4Config", "ModelConfig", "Weights"]
