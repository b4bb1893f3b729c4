"""Backbones by name, as `model.name` gives them."""

from raymeta.models.backbone import Backbone, Weights
from raymeta.models.conv4 import Conv4
from raymeta.models.mlp import MLP

BACKBONES: dict[str, type[Backbone]] = {"conv4": Conv4, "mlp": MLP}

__all__ = ["BACKBONES", "MLP", "Backbone", "Conv4", "Weights"]
