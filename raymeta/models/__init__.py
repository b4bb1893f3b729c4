"""Backbones by name, as `model.name` gives them."""

from typing import Annotated

from pydantic import Field

from raymeta.models.backbone import Backbone
from raymeta.models.conv4 import Conv4, Conv4Config
from raymeta.models.mlp import MLP, MLPConfig
from raymeta.models.passes import Pass, Weights
from raymeta.models.resnet import ResNet10, ResNet10Config, ResNet12, ResNet12Config, ResNet18, ResNet18Config

BACKBONES: dict[str, type[Backbone]] = {
    "conv4": Conv4,
    "mlp": MLP,
    "resnet10": ResNet10,
    "resnet12": ResNet12,
    "resnet18": ResNet18,
}
ModelConfig = Annotated[
    Conv4Config | MLPConfig | ResNet10Config | ResNet12Config | ResNet18Config, Field(discriminator="name")
]

__all__ = ["BACKBONES", "MLP", "Backbone", "Conv4", "Conv4Config", "ModelConfig", "Pass", "Weights"]
